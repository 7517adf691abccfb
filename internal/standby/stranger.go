package standby

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// A target that is no standby yet may be another guest's disk, of which nobody knows any
// more: what is on it may exist nowhere else.

// firstContact reports whether the target has content that no sync has left there.
func (t *target) firstContact() bool {
	sent, err := t.device.Sent()
	return t.before.Phase == state.None && err == nil && len(sent) == 0
}

// stranger is what a target holds that is no standby yet: something that was made to be
// used, as blkid(8) finds it.
type stranger struct {
	what     string
	replaced int64 // blocks in use that the delta replaces
}

// lookInside finds out whether the target is a stranger's; nil if it is not.
func (t *target) lookInside() (*stranger, error) {
	if t.file == nil || t.file.Size() == 0 || !t.firstContact() {
		return nil, nil
	}
	what, err := contentOf(t.Target)
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

// checkStranger refuses to overwrite what is not for the most part the source's already: a
// copy that was brought here by other means is.
func (a *apply) checkStranger() error {
	if a.stranger == nil {
		return nil
	}
	d := a.delta
	size := d.Basis.Size
	if a.file.IsBlock() { // what is behind the image stays
		size = min(size, d.Source.Size)
	}
	image, err := a.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	if err := image.Limit(size); err != nil {
		return err
	}
	a.progress.Step("comparing", size)
	used, beyond, err := rdiff.Used(image, d.Header, d.Source.Size, a.progress.Advance)
	if err != nil {
		return err
	}
	same := used - beyond - a.stranger.replaced
	if same*2 >= used {
		return nil
	}
	if a.Force {
		a.user.Warn("%s holds %s, and is overwritten all the same (--force-diverged)", a.Target, a.stranger.what)
		return nil
	}
	return exit.Fail(exit.NotBasis,
		"%s holds %s, and of its %d blocks in use only %d are as in the image: is it another guest's disk?\n"+
			"nothing was written; to lose what is there: %s", a.Target, a.stranger.what, used, same, a.forceCure())
}
