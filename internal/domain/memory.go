package domain

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

// The memory of a domain is saved to a file and restored from it, here or on another host. In the file there is also the
// document by which the domain ran; on another host that is a stranger's, and its disks are called otherwise.

// memoryLimit is how long saving and restoring may take: a disk writes at least some MB a second.
const memoryLimit = 6 * time.Hour

// Memory returns how many bytes of memory it has now.
func (c *Control) Memory(ctx context.Context) (int64, error) {
	if c.xl != nil {
		out, err := program.Ask(ctx, c.xl.timeout, "xl", "list")
		if err != nil {
			return 0, err
		}
		rows, err := parseXLList(string(out))
		if row := findRow(rows, nil, c.name); row != nil && row.MiB > 0 {
			return row.MiB << 20, nil
		}
		return 0, exit.Fail(exit.Unavailable, "xl does not tell how much memory %s has: %w", c.name, cmp.Or(err, errors.New("it lists none")))
	}
	field, err := c.info(ctx, usedMemory)
	if err != nil {
		return 0, err
	}
	n, err := parseUsed(field)
	if err != nil {
		return 0, exit.Fail(exit.Unavailable, "libvirt does not tell how much memory %s has: %w", c.name, err)
	}
	return n, nil
}

const usedMemory = "Used memory" // of virsh dominfo: "262144 KiB"

func parseUsed(field string) (int64, error) {
	n, err := text.ParseSize(strings.ReplaceAll(field, " ", ""))
	if err == nil && n == 0 {
		err = errors.New("it is 0")
	}
	return n, err
}

// Save stops the domain and saves its memory to a file, which nobody else may read. If that fails it goes on.
func (c *Control) Save(file string) error {
	if err := durable.MakeDir(filepath.Dir(file)); err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // the toolstack keeps the mode
	if err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	f.Close()
	if c.xl != nil {
		err = c.do(memoryLimit, "save", c.name, file)
	} else {
		err = c.do(memoryLimit, "save", "--domain="+c.name, "--file="+file)
	}
	if err != nil {
		return err
	}
	return syncFile(file)
}

func syncFile(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return exit.Fail(exit.IOError, "%w", err)
	}
	defer f.Close()
	if err = f.Sync(); err == nil {
		err = durable.SyncDir(filepath.Dir(file))
	}
	if err != nil {
		return exit.Fail(exit.IOError, "%s: %w", file, err)
	}
	return nil
}

// RestorePaused restores the domain from memory that was saved here. It does not go on yet.
func (c *Control) RestorePaused(file string) error {
	if c.xl != nil {
		return c.do(memoryLimit, "restore", "-p", file)
	}
	return c.do(memoryLimit, "restore", "--paused", "--file="+file)
}

// RestoreFrom restores the domain from memory of another host, by the document that was judged for its start here. It does
// not go on yet.
func (c *Control) RestoreFrom(ctx context.Context, file, document string) error {
	if c.xl != nil {
		return c.do(memoryLimit, "restore", "-p", document, file)
	}
	saved, err := c.virsh.run(ctx, "save-image-dumpxml", "--security-info", "--file="+file)
	if err != nil {
		return err
	}
	text, err := refit(c.name, saved, document)
	if err != nil {
		return err
	}
	p, err := durable.CreatePending(file + ".xml")
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := p.Write(text); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", p.Name(), exit.Cause(err))
	}
	return c.do(memoryLimit, "restore", "--paused", "--xml="+p.Name(), "--file="+file)
}

// refit makes of the document that was saved with memory one of this host, by the one that was judged: the same disks, by
// their names here. It may say nothing strange that the other one does not say.
func refit(name string, saved []byte, document string) ([]byte, error) {
	doc, err := readDocument(bytes.NewReader(saved))
	if err != nil {
		return nil, badDocument("the document in the memory", err)
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, exit.OpenFailed(err)
	}
	judged, err := readDocument(bytes.NewReader(text))
	switch {
	case err != nil:
		return nil, badDocument(document, err)
	case doc.Domain.Name != name || judged.Domain.Name != name || !sameUUID(doc.Domain.UUID, judged.Domain.UUID):
		return nil, exit.Fail(exit.BadStream, "the memory is of %s %s, not of %s %s", doc.Domain.Name, doc.Domain.UUID, name,
			judged.Domain.UUID)
	}
	for i, disk := range doc.Domain.Disks {
		at := slices.IndexFunc(judged.Domain.Disks, func(d Disk) bool { return d.Target == disk.Target })
		if at < 0 {
			return nil, exit.Fail(exit.Config, "the guest has the disk %s, which this host's document of it has not", disk.Target)
		}
		switch here := judged.Domain.Disks[at]; {
		case here.source() == disk.source():
		case here.Source == "" && disk.isMedium():
			doc.eject(i)
		case here.Source == "" || here.Volume != "" || disk.source() == "":
			return nil, exit.Fail(exit.Config, "disk %s is %q here", disk.Target, here.source())
		default:
			if err := doc.setSource(i, here.Source, isBlock(here.Source)); err != nil {
				return nil, exit.Fail(exit.Config, "disk %s: %w", disk.Target, err)
			}
		}
	}
	if text, err = doc.Text(); err != nil {
		return nil, err
	}
	if doc, err = readDocument(bytes.NewReader(text)); err != nil {
		return nil, exit.Fail(exit.Internal, "the changed document: %w", err)
	}
	known := judged.strange()
	for _, what := range doc.strange() {
		if !slices.Contains(known, what) {
			return nil, exit.Fail(exit.Refused, "the document in the memory has what is not for the guest alone, and not in the one "+
				"that is trusted: %s", what)
		}
	}
	return text, nil
}

// Resume lets a domain that is paused go on.
func (c *Control) Resume() error {
	if c.xl != nil {
		return c.do(commandLimit, "unpause", c.name)
	}
	return c.do(commandLimit, "resume", "--domain="+c.name)
}

// Destroy ends a domain at once.
func (c *Control) Destroy() error {
	if c.xl != nil {
		return c.do(commandLimit, "destroy", c.name)
	}
	return c.do(commandLimit, "destroy", "--domain="+c.name)
}

// IsPaused reports whether a domain that is active here stands still, as one that was restored and did not go on yet.
func (a *Answer) IsPaused() bool {
	state, _, _ := strings.Cut(a.State, " (")
	return state == "paused"
}

// Stands is Locate for a domain that is restored from its memory on this host: one that stands still then is active. libvirt
// calls it paused (migrating) until it goes on, as if it were one half of a migration.
func (l *Locator) Stands(ctx context.Context, name string) (a Answer, active bool, err error) {
	a, err = l.Locate(ctx, name)
	switch no := exit.StatusOf(err) == exit.No; {
	case err == nil, no && a.Half && a.IsPaused():
		return a, true, nil
	case no && a.Half: // it is on its way otherwise
		return a, false, exit.Fail(exit.Busy, "%w", err)
	case no:
		return a, false, nil
	}
	return a, false, err
}

func (a *Answer) String() string { return fmt.Sprintf("%s: %s", a.Toolstack, a.State) }
