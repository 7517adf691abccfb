package standby

import (
	"bytes"
	"io"

	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// Auto receives a delta for a run of xen-backup.sh. Whether it is written in place or spooled, and whether the target is
// created, is decided here, under the target's lock, by what is remembered now: what Prepare said may be out of date.
func Auto(user User, o Options, in io.Reader) (rdiff.Delta, error) {
	o.Managed, o.Create = true, true
	t, err := open(user, o)
	if err != nil {
		return rdiff.Delta{}, err
	}
	defer t.close()
	if err := t.admit(); err != nil {
		return rdiff.Delta{}, err
	}
	if err := t.checkGone(); err != nil {
		return rdiff.Delta{}, err
	}
	c := begin(t, in)
	size, err := c.peek()
	if err != nil {
		return rdiff.Delta{}, err
	}
	if t.InPlace, err = t.nothingToLose(size); err != nil {
		return rdiff.Delta{}, err
	}
	if t.volume != nil && !t.InPlace {
		return rdiff.Delta{}, exit.Fail(exit.BadStream, "%s: a volume cannot be created for a source whose size was not known beforehand",
			t.Target)
	}
	return c.run()
}

// run takes the change to its end: in place, held, or by itself.
func (c *change) run() (rdiff.Delta, error) {
	if c.InPlace {
		f := c.firstCopy()
		defer f.close()
		err := f.run()
		return f.delta, err
	}
	a := c.apply()
	defer a.close()
	if c.Set != "" {
		err := a.hold()
		return a.delta, err
	}
	err := a.run()
	return a.delta, err
}

// peek returns the size of the source in the header of the delta that is about to arrive, -1 if it has none. What is
// wrong with it is for its reader to say.
func (c *change) peek() (size int64, err error) {
	head := make([]byte, stream.HeaderSize)
	n, err := io.ReadFull(&c.input, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return 0, err
	}
	if f, ok := c.input.Reader.(io.Seeker); ok && isFile(c.input.Reader) {
		if _, err := f.Seek(int64(-n), io.SeekCurrent); err != nil {
			return 0, err
		}
	} else {
		c.input.Reader = io.MultiReader(bytes.NewReader(head[:n]), c.input.Reader)
	}
	r, err := stream.NewDeltaReader(bytes.NewReader(head[:n]))
	if err != nil {
		return -1, nil
	}
	return r.Header.Size, nil
}

// nothingToLose reports whether an image of size bytes may be written while it arrives: the target is created by this
// run, or is a mix of which nothing else is known; or nobody knows of it, and that is wanted. What a longer file
// has behind the image would be cut off without a proof.
func (t *target) nothingToLose(size int64) (bool, error) {
	known, err := t.remembered()
	switch {
	case err != nil || size < 0 || len(known) > 0:
		return false, err
	case t.file == nil:
		return true, nil
	case t.Force:
		return false, nil
	case t.before.Phase == state.Incomplete:
		return true, nil
	}
	return t.FirstCopy && (t.file.IsBlock() || t.file.Size() <= size), nil
}

// checkGone refuses to create again what a sync has left an image in: it may only be out of sight.
func (t *target) checkGone() error {
	known, err := t.remembered()
	if t.file != nil || err != nil || len(known) == 0 || t.Force {
		return err
	}
	return t.gone()
}

func (t *target) gone() error {
	return exit.Fail(exit.NotBasis, "%s is missing, although a sync left an image in it: is its file system not mounted?\n"+
		"if it is gone for good: %s", t.Target, t.cure("--force-diverged, without --in-place", t.forceCure()))
}
