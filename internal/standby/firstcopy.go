package standby

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// firstCopy is a change that is written while it arrives, without a spool: there is nothing
// to lose. See the lists of steps.
type firstCopy struct {
	*change
	first   stream.Header  // of the delta, before its end has come
	marked  bool           // the state says "incomplete"
	late    lateTarget     // where it is written to
	image   *blockdev.File // the target, read from the disk
	trail   *rdiff.Trail   // reads image; nil: it is read at the end
	witness string         // under which all of the target was the source
}

func newFirstCopy(t *target, in io.Reader) *firstCopy {
	return begin(t, in).firstCopy()
}

// firstCopy makes the change one that is written while it arrives.
func (c *change) firstCopy() *firstCopy {
	t, f := c.target, &firstCopy{change: c}
	if t.Set != "" {
		c.set = &state.Set{ID: t.Set, Taken: t.Taken}
	}
	if t.file != nil {
		f.late.Target = t.file
	}
	return f
}

func (c *firstCopy) close() {
	if c.trail != nil {
		c.trail.Stop()
	}
	if c.image != nil {
		c.image.Close()
	}
	c.closeGuard()
}

func (c *firstCopy) run() error {
	return c.incomplete(walk(c, copying))
}

// prove demands that there is nothing to lose.
func (c *firstCopy) prove() error {
	if err := c.checkFirstCopy(); err != nil {
		return err
	}
	return c.proveFile()
}

// checkFirstCopy demands that there is nothing to lose.
func (t *target) checkFirstCopy() error {
	known, err := t.remembered()
	if err != nil {
		return err
	}
	if len(known) > 0 && t.file == nil {
		return t.gone()
	}
	stranger, err := t.lookInside()
	if err != nil {
		return err
	}
	if stranger != nil {
		return exit.Fail(exit.NotBasis, "%s holds %s, which %s would overwrite unseen: is it another guest's disk? "+
			"%s it is compared first", t.Target, stranger.what, t.cure("--in-place", "FIRST_COPY=in-place"), t.spoolCure())
	}
	if len(known) > 0 {
		return exit.Fail(exit.NotBasis, "%s holds the image of a sync, which --in-place could leave half overwritten: "+
			"without --in-place it is safe", t.Target)
	}
	t.warnSectors()
	return nil
}

// proveFile proves a delta that comes from a file as a whole, before any of it is
// applied.
func (c *firstCopy) proveFile() error {
	f, ok := c.input.Reader.(*os.File)
	if !ok || !isFile(f) {
		return nil
	}
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	c.delta, err = rdiff.Verify(f, rdiff.Steps{
		Header: c.header,
		Done:   func(_, end int64) { c.progress.Reach(end) },
	})
	if err != nil {
		return err
	}
	if err := c.judge(); err != nil {
		return err
	}
	_, err = f.Seek(start, io.SeekStart)
	return err
}

// receive writes the delta while it arrives.
func (c *firstCopy) receive() (err error) {
	before := c.beforeWrite()
	steps := rdiff.Steps{Header: c.checkHeader, BeforeWrite: before, Done: c.written}
	if c.delta, err = rdiff.ApplyInPlace(&c.input, &c.late, c.size(), steps); err != nil {
		return c.notBasis(err)
	}
	if c.delta.Frames > 0 {
		return nil
	}
	if err := c.judge(); err != nil { // no frame has proved the basis
		return err
	}
	return before()
}

func (c *firstCopy) checkHeader(h stream.Header) error {
	if h.Size < 0 {
		return exit.Fail(exit.BadStream, "a delta whose source's size was not known beforehand cannot be applied in place: "+
			"leave --in-place out")
	}
	c.first = h
	if c.volume != nil {
		c.volume.Size = h.Size
	}
	return errors.Join(c.checkLonger(h.Size), c.header(h))
}

// beforeWrite returns what has to come before each write, from several goroutines.
func (c *firstCopy) beforeWrite() func() error {
	mark := sync.OnceValue(c.mark)
	return func() error {
		if err := mark(); err != nil || c.trail == nil {
			return err
		}
		return c.trail.Failed()
	}
}

// written passes on that the target is the source's as far as byte end.
func (c *firstCopy) written(literal, end int64) {
	c.received(literal, end)
	if c.trail != nil {
		c.trail.Written(end)
	}
}

// mark takes the steps that come before the first write.
func (c *firstCopy) mark() error {
	err := walk(c, marking)
	if err != nil && !c.marked {
		err = c.uncreate(err)
	}
	return err
}

// createMissing also makes a target that was missing one that can be written to. Of one that
// was there other goroutines are reading.
func (c *firstCopy) createMissing() error {
	err := c.change.createMissing()
	if c.created {
		c.late.Target = c.file
	}
	return err
}

func (c *firstCopy) guardWrites() error {
	return c.beginWrites(c.first.Size)
}

// record has the state say "incomplete" from before the first write until the whole target
// has been read back.
func (c *firstCopy) record() error {
	created := c.created || c.before.Phase == state.Incomplete && c.before.Created
	err := c.remember(&state.Record{Phase: state.Incomplete, Peer: c.peerName(), Created: created})
	if c.marked = err == nil; c.marked && c.settled != nil {
		c.settled()
	}
	return err
}

// setSize gives a file that was created its size, and has what is written read back meanwhile.
func (c *firstCopy) setSize() error {
	if c.created {
		if err := c.file.Truncate(c.first.Size); err != nil {
			return err
		}
	}
	return c.startTrail()
}

// startTrail has what is written read back meanwhile, if it can be read from the
// disk and already has the size that it is to have.
func (c *firstCopy) startTrail() (err error) {
	if c.file.Size() < c.first.Size {
		return nil
	}
	if c.image, err = c.file.Reread(); err != nil || !c.image.Direct() {
		return err
	}
	if err := c.image.Limit(c.first.Size); err != nil {
		return err
	}
	c.trail = rdiff.StartTrail(c.image, c.first, c.file.Sync)
	return nil
}

// checkLonger refuses a file that the image would cut. That it was so long when its signature
// was made is only known at the delta's end, and then it is half overwritten: somebody may
// have appended to it since. What is a mix already has nothing to lose.
func (c *firstCopy) checkLonger(size int64) error {
	if c.basis != nil || c.file == nil || c.file.IsBlock() || c.size() <= size || c.before.Phase == state.Incomplete {
		return nil
	}
	return exit.Fail(exit.NotBasis, "%s has %d bytes and the image %d: what is behind that would be cut off unproved; "+
		"%s it is safe", c.Target, c.size(), size, c.spoolCure())
}

// lateTarget is a target that may be created only when a frame has proved right.
// Until then nothing is read of it: it has no blocks.
type lateTarget struct{ rdiff.Target }

func (c *firstCopy) sync() error {
	return errors.Join(c.file.Truncate(c.delta.Source.Size), c.file.Sync())
}

// reread demands that the whole target now is the source: by what the trail has read, or by
// reading all of it.
func (c *firstCopy) reread() (err error) {
	if c.trail == nil {
		c.witness, err = c.proveWhole()
		return err
	}
	found, err := c.trail.Digest()
	if err == nil && found != c.delta.Source {
		err = c.notSource(found)
	}
	if err == nil {
		c.witness, err = c.endWrites()
	}
	return err
}

func (c *firstCopy) setClean() error { return c.saveClean(c.witness) }

// incomplete adds to an error what is to be done about a half-written target.
func (c *firstCopy) incomplete(err error) error {
	if err == nil {
		return nil
	}
	r, loadErr := c.device.Load()
	if loadErr != nil || r.Phase != state.Incomplete {
		return err
	}
	status := exit.StatusOf(err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) { // in place nothing can be reserved
		status = exit.CantCreate
	}
	return exit.Fail(status, "%w\n%s holds an incomplete first copy now: run it again", err, c.Target)
}
