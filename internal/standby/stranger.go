package standby

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// A target that is no standby yet may be another guest's disk: one that this host knows
// and has not started, or one of which nobody knows any more.

// checkClaims refuses a target that another domain of this host has as its disk. It need
// not run, and it may have this DomU's name.
func (p *patcher) checkClaims() error {
	disk := cmp.Or(p.Disk, p.record.Disk)
	if disk == "" { // nobody says whose disk is not another's
		return nil
	}
	path, err := filepath.Abs(p.Target)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(disk, "/")
	claims, err := domain.Claims(context.Background(), p.Toolstack, path)
	if err != nil {
		if p.firstContact() {
			return err
		}
		// It is the standby that it was: what it holds exists elsewhere too.
		p.user.Info("%v", err)
	}
	for _, c := range claims {
		if !c.Of(name, cmp.Or(p.UUID, p.record.UUID)) {
			return exit.Fail(exit.Busy, "%s belongs to another domain of this host: %s\n"+
				"nothing was written; give the standby of %s another place, or take the disk from that domain", p.Target, c, disk)
		}
	}
	return nil
}

// firstContact tells whether the target has content that no sync has left there.
func (p *patcher) firstContact() bool {
	sent, err := p.device.Sent()
	return p.record.Phase == state.None && err == nil && len(sent) == 0
}

// stranger is what a target holds that is no standby yet: something that was made to be
// used, as blkid(8) finds it.
type stranger struct {
	what     string
	replaced int64 // blocks in use that the delta replaces
}

// lookInside finds out whether the target is a stranger's; nil if it is not.
func (p *patcher) lookInside() (*stranger, error) {
	if p.file == nil || p.file.Size() == 0 || !p.firstContact() {
		return nil, nil
	}
	what, err := contentOf(p.Target)
	if what == "" || err != nil {
		return nil, err
	}
	return &stranger{what: what}, nil
}

// contentOf says in words what blkid finds on a device or file: "an ext4 file system"; ""
// if nothing.
func contentOf(path string) (string, error) {
	out, err := program.Ask(context.Background(), time.Minute, "blkid", "--probe", "--output", "export", path)
	const nothing, several = 2, 8
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() == nothing:
		return "", nil
	case errors.As(err, &ended) && ended.ExitCode() == several:
		return "signatures of several things", nil
	case err != nil:
		return "", exit.Fail(exit.Unavailable, "cannot tell what is on %s: %w", path, err)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		found[key] = value
	}
	switch {
	case found["USAGE"] == "filesystem":
		return "a file system (" + found["TYPE"] + ")", nil
	case found["TYPE"] != "":
		return "a signature (" + found["TYPE"] + ")", nil
	case found["PTTYPE"] != "":
		return "a partition table (" + found["PTTYPE"] + ")", nil
	}
	return "", nil
}

// verify proves a delta while it arrives, and counts what it replaces of a stranger's.
func (p *patcher) verify(in io.Reader) (rdiff.Delta, error) {
	steps := rdiff.Steps{Header: p.begin, Done: p.received}
	if p.stranger == nil {
		return rdiff.Verify(in, steps)
	}
	d, replaced, err := rdiff.VerifyOver(in, p.file, steps)
	p.stranger.replaced = replaced
	return d, err
}

// checkStranger refuses to overwrite what is not for the most part the source's already: a
// copy that was brought here by other means is.
func (p *patcher) checkStranger(d rdiff.Delta) error {
	if p.stranger == nil {
		return nil
	}
	size := d.Basis.Size
	if p.file.IsBlock() { // what is behind the image stays
		size = min(size, d.Source.Size)
	}
	image, err := p.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	if err := image.Limit(size); err != nil {
		return err
	}
	p.progress.Step("comparing", size)
	used, beyond, err := rdiff.Used(image, d.Header, d.Source.Size, p.advance)
	if err != nil {
		return err
	}
	same := used - beyond - p.stranger.replaced
	if same*2 >= used {
		return nil
	}
	if p.Force {
		p.user.Warn("%s holds %s, and is overwritten all the same (--force-diverged)", p.Target, p.stranger.what)
		return nil
	}
	return exit.Fail(exit.NotBasis, "%s holds %s, and of its %d blocks in use only %d are as in the image: is it another guest's disk?\n"+
		"nothing was written; to lose what is there: --force-diverged", p.Target, p.stranger.what, used, same)
}
