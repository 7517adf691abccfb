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

// copyInPlace writes the delta of a first copy while it arrives. The state says
// "incomplete" from before the first write until the whole target has been read
// back.
func (p *patcher) copyInPlace(in io.Reader) (d rdiff.Delta, err error) {
	if err := p.open(); err != nil {
		return d, err
	}
	if err := p.checkRecord(); err != nil {
		return d, err
	}
	if err := p.checkFirstCopy(); err != nil {
		return d, err
	}
	if err := p.proveFile(in); err != nil {
		return d, err
	}
	c := &inPlace{patcher: p}
	if p.file != nil {
		c.target.Target = p.file
	}
	defer c.stop()
	once := sync.OnceValue(c.beginOnce)
	c.begin = func() error {
		if err := once(); err != nil || c.trail == nil {
			return err
		}
		return c.trail.Failed()
	}
	d, err = c.receive(p.watched(in))
	if err == nil && d.Frames == 0 {
		// No frame has proved the basis.
		if err = p.judge(d); err == nil {
			err = c.begin()
		}
	}
	if err == nil {
		err = c.complete(d)
	}
	return d, p.incomplete(err)
}

// inPlace is a copy that is written while it arrives.
type inPlace struct {
	*patcher
	begin  func() error // has to be called before each write
	header stream.Header
	target lateTarget
	image  *blockdev.File // the target, read from the disk
	trail  *rdiff.Trail   // reads image; nil: it is read at the end
}

// checkFirstCopy demands that there is nothing to lose.
func (p *patcher) checkFirstCopy() error {
	known, err := p.remembered()
	if err != nil {
		return err
	}
	if len(known) > 0 && p.file == nil {
		return exit.Fail(exit.NotBasis, "%s is missing, although a sync left an image in it: is its file system not mounted?\n"+
			"if it is gone for good: --force-diverged, without --in-place", p.Target)
	}
	if p.stranger, err = p.lookInside(); err != nil {
		return err
	}
	if p.stranger != nil {
		return exit.Fail(exit.NotBasis, "%s holds %s, which --in-place would overwrite unseen: is it another guest's disk? without --in-place it is compared first",
			p.Target, p.stranger.what)
	}
	if len(known) > 0 {
		return exit.Fail(exit.NotBasis, "%s holds the image of a sync, which --in-place could leave half overwritten: without --in-place it is safe", p.Target)
	}
	p.warnSectors()
	return nil
}

// proveFile proves a delta that comes from a file as a whole, before any of it is
// applied.
func (p *patcher) proveFile(in io.Reader) error {
	f, ok := in.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	d, err := rdiff.Verify(f, rdiff.Steps{
		Header: p.begin,
		Done:   func(_, end int64) { p.progress.Reach(end) },
	})
	if err != nil {
		return err
	}
	if err := p.judge(d); err != nil {
		return err
	}
	_, err = f.Seek(start, io.SeekStart)
	return err
}

// beginOnce does what has to happen once, before the first write.
func (c *inPlace) beginOnce() error {
	created := c.file == nil
	if !created {
		if err := c.checkUnused(); err != nil {
			return err
		}
	} else { // first: the state must not speak of a file that is not ours
		if err := c.createTarget(); err != nil {
			return err
		}
		c.target.Target = c.file
	}
	err := c.beginWrites(c.header.Size)
	if err == nil {
		err = c.remember(&state.Record{Phase: state.Incomplete, Peer: c.peerName()})
	}
	if err != nil && created {
		err = errors.Join(err, c.uncreateTarget())
	}
	if err == nil && created {
		err = c.file.Truncate(c.header.Size)
	}
	if err != nil {
		return err
	}
	return c.startTrail()
}

// startTrail has what is written read back meanwhile, if it can be read from the
// disk and already has the size that it is to have.
func (c *inPlace) startTrail() (err error) {
	if c.file.Size() < c.header.Size {
		return nil
	}
	if c.image, err = c.file.Reread(); err != nil || !c.image.Direct() {
		return err
	}
	if err := c.image.Limit(c.header.Size); err != nil {
		return err
	}
	c.trail = rdiff.StartTrail(c.image, c.header, c.file.Sync)
	return nil
}

func (c *inPlace) stop() {
	if c.trail != nil {
		c.trail.Stop()
	}
	if c.image != nil {
		c.image.Close()
	}
}

func (c *inPlace) receive(in io.Reader) (rdiff.Delta, error) {
	steps := rdiff.Steps{Header: c.checkHeader, BeforeWrite: c.begin, Done: c.written}
	d, err := rdiff.ApplyInPlace(in, &c.target, c.size(), steps)
	return d, c.notBasis(err)
}

func (c *inPlace) checkHeader(h stream.Header) error {
	if h.Size < 0 {
		return exit.Fail(exit.BadStream, "a delta whose source's size was not known beforehand cannot be applied in place: leave --in-place out")
	}
	c.header = h
	return errors.Join(c.checkLonger(h.Size), c.patcher.begin(h))
}

// written passes on that the target is the source's as far as byte end.
func (c *inPlace) written(literal, end int64) {
	c.received(literal, end)
	if c.trail != nil {
		c.trail.Written(end)
	}
}

// checkLonger refuses a file that the image would cut. That it was so long when its signature
// was made is only known at the delta's end, and then it is half overwritten: somebody may
// have appended to it since. What is a mix already has nothing to lose.
func (c *inPlace) checkLonger(size int64) error {
	if c.basis != nil || c.file == nil || c.file.IsBlock() || c.size() <= size || c.record.Phase == state.Incomplete {
		return nil
	}
	return exit.Fail(exit.NotBasis, "%s has %d bytes and the image %d: what is behind that would be cut off unproved; without --in-place it is safe",
		c.Options.Target, c.size(), size)
}

// lateTarget is a target that may be created only when a frame has proved right.
// Until then nothing is read of it: it has no blocks.
type lateTarget struct{ rdiff.Target }

// complete demands that the whole target now is the source.
func (c *inPlace) complete(d rdiff.Delta) error {
	if err := errors.Join(c.file.Truncate(d.Source.Size), c.file.Sync()); err != nil {
		return err
	}
	witness, err := c.proveCopy(d)
	if err != nil {
		return err
	}
	return c.setClean(d, witness)
}

// proveCopy demands it by what the trail has read, or reads all of the target.
func (c *inPlace) proveCopy(d rdiff.Delta) (witness string, err error) {
	if c.trail == nil {
		return c.proveWhole(d)
	}
	found, err := c.trail.Digest()
	if err == nil && found != d.Source {
		err = c.notSource(d, found)
	}
	if err != nil {
		return "", err
	}
	return c.endWrites(d)
}

// incomplete adds to an error what is to be done about a half-written target.
func (p *patcher) incomplete(err error) error {
	if err == nil {
		return nil
	}
	r, loadErr := p.device.Load()
	if loadErr != nil || r.Phase != state.Incomplete {
		return err
	}
	status := exit.StatusOf(err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) { // in place nothing can be reserved
		status = exit.CantCreate
	}
	return exit.Fail(status, "%w\n%s holds an incomplete first copy now: run it again", err, p.Target)
}
