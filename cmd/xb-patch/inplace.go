package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"xen-backup/internal/cli"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// copyInPlace writes the delta of a first copy while it arrives. The state says
// "incomplete" from before the first write until the whole target has been read
// back.
func (p *patcher) copyInPlace() error {
	in, err := p.env.BinaryIn()
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.open(); err != nil {
		return err
	}
	if err := errors.Join(p.checkFinished(), p.checkFirstCopy()); err != nil {
		return err
	}
	if err := p.proveFile(in); err != nil {
		return err
	}
	var target lateTarget
	if p.file != nil {
		target.Target = p.file
	}
	begin := p.beginInPlace(&target)
	d, err := p.applyInPlace(in, &target, begin)
	if err == nil && d.Frames == 0 {
		// No frame has proved the basis.
		if err = p.judge(d); err == nil {
			err = begin()
		}
	}
	if err == nil {
		err = p.finishInPlace(d)
	}
	if err != nil {
		return p.incomplete(err)
	}
	return p.writeSummary(d)
}

// checkFirstCopy demands that there is nothing to lose.
func (p *patcher) checkFirstCopy() error {
	known, err := p.remembered()
	if err != nil {
		return err
	}
	if len(known) > 0 && p.file == nil {
		return cli.Fail(cli.NotBasis, "%s is missing, although a sync left an image in it: is its file system not mounted?\n"+
			"if it is gone for good: --force-diverged, without --in-place", p.target)
	}
	if len(known) > 0 {
		return cli.Fail(cli.NotBasis, "%s holds the image of a sync, which --in-place could leave half overwritten: without --in-place it is safe", p.target)
	}
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
	d, err := rdiff.Verify(f, p.checkHeader, func(int64) {})
	if err != nil {
		return err
	}
	if err := p.judge(d); err != nil {
		return err
	}
	_, err = f.Seek(start, io.SeekStart)
	return err
}

// beginInPlace returns what has to happen once, before the first write.
func (p *patcher) beginInPlace(target *lateTarget) func() error {
	return sync.OnceValue(func() error {
		if p.file != nil {
			if err := p.checkUnused(); err != nil {
				return err
			}
		}
		if err := p.device.Save(&state.Record{Phase: state.Incomplete, Peer: p.peerName()}); err != nil {
			return err
		}
		if p.file != nil {
			return nil
		}
		err := p.createTarget()
		target.Target = p.file
		return err
	})
}

func (p *patcher) applyInPlace(in io.Reader, target *lateTarget, begin func() error) (rdiff.Delta, error) {
	header := func(h stream.Header) error {
		if h.Size < 0 {
			return cli.Fail(cli.BadStream, "a delta whose source's size was not known beforehand cannot be applied in place: leave --in-place out")
		}
		return p.checkSize(h.Size)
	}
	d, err := rdiff.ApplyInPlace(in, target, p.size(), header, begin, func(n int64) { p.read.Read.Add(n) })
	return d, p.notBasis(err)
}

// lateTarget is a target that may be created only when a frame has proved right.
// Until then nothing is read of it: it has no blocks.
type lateTarget struct{ rdiff.Target }

// finishInPlace demands that the whole target now is the source.
func (p *patcher) finishInPlace(d rdiff.Delta) error {
	if err := errors.Join(p.file.Truncate(d.Source.Size), p.file.Sync()); err != nil {
		return err
	}
	if err := p.proveSource(d); err != nil {
		return err
	}
	if err := p.checkUnused(); err != nil {
		return err
	}
	return p.setClean(d)
}

// proveSource reads the whole target from the disk and demands the digest of the
// delta's source.
func (p *patcher) proveSource(d rdiff.Delta) error {
	image, err := p.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	if err := image.Limit(d.Source.Size); err != nil {
		return err
	}
	found, err := rdiff.DigestOf(image, d.Header)
	if err != nil {
		return err
	}
	if found != d.Source {
		return cli.Fail(cli.NotBasis, "%s does not hold the source's image: it holds %s, the source is %s",
			p.target, imageRecord(d.Header, found), imageRecord(d.Header, d.Source))
	}
	return nil
}

// incomplete adds to an error what is to be done about a half-written target.
func (p *patcher) incomplete(err error) error {
	r, loadErr := p.device.Load()
	if loadErr != nil || r.Phase != state.Incomplete {
		return err
	}
	return cli.Fail(cli.StatusOf(err), "%w\n%s", err, fmt.Sprintf("%s holds an incomplete first copy now: run it again", p.target))
}
