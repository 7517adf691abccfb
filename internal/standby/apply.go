package standby

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// patch is the usual run: spool, verify, apply.
func (p *patcher) patch(in io.Reader) (d rdiff.Delta, err error) {
	if err := p.open(); err != nil {
		return d, err
	}
	if err := p.checkRecord(); err != nil {
		return d, err
	}
	// A spool left behind by a crash just after an apply was done.
	os.Remove(p.device.SpoolFile(p.Spool))

	spool, err := createSpool(p.device, p.Spool, in)
	if err != nil {
		return d, err
	}
	defer spool.discard()
	if p.stranger, err = p.lookInside(); err != nil {
		return d, err
	}
	d, err = p.verify(spool.tee(p.watched(in)))
	if err != nil {
		return d, err
	}
	if err := p.judge(d); err != nil {
		return d, err
	}
	if err := p.checkStranger(d); err != nil {
		return d, err
	}
	if p.file != nil {
		if err := rdiff.ProveOld(p.replay(spool, "proving"), d, p.file); err != nil {
			return d, p.notBasis(err)
		}
	}
	if d.Frames == 0 && d.Basis == d.Source && p.file != nil {
		return d, p.finish(d, spool)
	}
	defer durable.OnSignal(p.interrupted)()
	if err := p.beginApply(d, spool); err != nil {
		return d, p.unfinished(err) // it may have been recorded all the same
	}
	return d, p.unfinished(p.apply(d, spool))
}

// begin looks at the header of a delta that is about to be received.
func (p *patcher) begin(h stream.Header) error {
	p.progress.Step("", max(0, h.Size))
	return p.checkSize(h.Size)
}

// received has the progress show that the delta has come so far: to byte end of the
// image.
func (p *patcher) received(literal, end int64) {
	p.progress.Change(literal)
	p.progress.Reach(end)
}

// replay reads a complete spool, as a step of the run with that name.
func (p *patcher) replay(s *spool, step string) io.Reader {
	size := int64(0)
	if info, err := s.Stat(); err == nil {
		size = info.Size()
	}
	p.progress.Step(step, size)
	return io.TeeReader(s.reader(), advancer(p.advance))
}

// advance has the progress show n more bytes of a step.
func (p *patcher) advance(n int64) { p.progress.Advance(n) }

// advancer is told how much is written to it.
type advancer func(int64)

func (a advancer) Write(b []byte) (int, error) {
	a(int64(len(b)))
	return len(b), nil
}

func (p *patcher) notBasis(err error) error {
	if errors.Is(err, rdiff.ErrNotBasis) {
		return exit.Fail(exit.NotBasis, "%s was changed since its signature was made: %w", p.Target, err)
	}
	return err
}

// beginApply makes the spool durable and records it. From then on the target may
// be a mix, and whoever finds it so can finish it: it goes on whether anybody still
// listens or not.
func (p *patcher) beginApply(d rdiff.Delta, s *spool) error {
	p.user.Commit()
	if p.file != nil {
		if err := p.checkUnused(); err != nil {
			return err
		}
		if err := p.beginWrites(max(d.Basis.Size, d.Source.Size)); err != nil {
			return err
		}
		if err := p.reserve(d, s); err != nil {
			return err
		}
		return p.recordApply(d, s)
	}
	// Before the state speaks of it: a file that somebody else makes meanwhile must
	// not get the spool.
	if err := p.createTarget(); err != nil {
		return err
	}
	err := p.beginWrites(d.Source.Size)
	if err == nil {
		err = p.reserve(d, s)
	}
	if err == nil {
		err = p.recordApply(d, s)
	}
	if err != nil && p.phase() != state.Applying {
		err = errors.Join(err, p.uncreateTarget())
	}
	return err
}

func (p *patcher) recordApply(d rdiff.Delta, s *spool) error {
	p.writes.Store(onSpool)
	err := s.keep()
	p.writes.Store(onTarget)
	if err != nil {
		return err
	}
	err = p.remember(&state.Record{Phase: state.Applying, Image: d.Source, Peer: p.peerName(), Spool: s.path})
	// Where only the directory could not be synced the record stands: then the
	// spool is needed.
	if err != nil && p.phase() != state.Applying {
		s.remove()
	}
	return err
}

// phase returns what is remembered now; what can't be read may be an apply.
func (p *patcher) phase() state.Phase {
	r, err := p.device.Load()
	if err != nil {
		return state.Applying
	}
	return r.Phase
}

// apply writes the spooled delta, proves that it is on the disk, and only then
// lets go of the spool.
func (p *patcher) apply(d rdiff.Delta, s *spool) error {
	if err := rdiff.Apply(p.replay(s, "writing"), d, p.file); err != nil {
		return err
	}
	if err := errors.Join(p.file.Truncate(d.Source.Size), p.file.Sync()); err != nil {
		return err
	}
	image, err := p.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	if err := rdiff.CheckWritten(p.replay(s, "reading back"), d, image); err != nil {
		return p.misread(fmt.Errorf("%s: %w", p.Target, err))
	}
	return p.finish(d, s)
}

func (p *patcher) finish(d rdiff.Delta, spool *spool) error {
	err := p.file.CheckName(p.identity)
	if s := exit.StatusOf(err); s == exit.Busy || s == exit.NoInput { // replaced or removed; else nobody knows
		return errors.Join(err, p.disown(spool))
	}
	witness, err := p.endWrites(d)
	if err == nil {
		err = p.setClean(d, witness)
	}
	if err != nil {
		return err
	}
	spool.remove()
	return nil
}

// disown ends an apply on a file that has lost its name: what has that name now must
// not get the spool, and is judged by what was remembered before.
func (p *patcher) disown(s *spool) error {
	if p.phase() != state.Applying {
		return nil
	}
	if p.record.Phase != state.Clean {
		return p.forget(s.path)
	}
	p.record.Witness = ""
	err := p.remember(p.record)
	if err == nil {
		s.remove()
	}
	return err
}

// interrupted says what is left to do when a signal ends the run.
func (p *patcher) interrupted() {
	if p.phase() == state.Applying {
		p.user.Warn("%v", p.unfinished(errors.New("interrupted")))
	}
}

// unfinished adds to an error what state the target is in, and the cure.
func (p *patcher) unfinished(err error) error {
	if err == nil || p.phase() != state.Applying {
		return err
	}
	return exit.Fail(exit.StatusOf(err), "%w\n%s may be neither the old image nor the new one now; finish it with: xb-patch --recover %s", err, p.Target, text.Operand(p.Target))
}

// dryRun proves the delta and the target.
func (p *patcher) dryRun(in io.Reader) (d rdiff.Delta, err error) {
	if err := p.identify(); err != nil {
		return d, err
	}
	if !p.missing() {
		if p.file, err = blockdev.Open(p.Target); err != nil {
			return d, err
		}
		if err := p.file.CheckWritable(); err != nil {
			return d, err
		}
		if err := p.checkUnused(); err != nil {
			return d, err
		}
	}
	if p.record, err = p.device.Load(); err != nil {
		return d, err
	}
	if err := p.checkRecord(); err != nil {
		return d, err
	}
	if err := p.checkPlaces(); err != nil {
		return d, err
	}
	if p.InPlace {
		if err := p.checkFirstCopy(); err != nil {
			return d, err
		}
	}
	p.startProgress()
	if p.stranger, err = p.lookInside(); err != nil {
		return d, err
	}
	d, err = p.verify(p.watched(in))
	if err != nil {
		return d, err
	}
	if err := p.judge(d); err != nil {
		return d, err
	}
	return d, p.checkStranger(d)
}

// checkPlaces tells whether the state, the spool and a missing target could be created.
func (p *patcher) checkPlaces() error {
	dirs := []string{string(state.Find(p.StateDir))}
	if p.file == nil {
		dirs = append(dirs, filepath.Dir(p.Target))
	}
	if !p.InPlace {
		dirs = append(dirs, filepath.Dir(p.device.SpoolFile(p.Spool)))
	}
	for _, dir := range dirs {
		for dir != p.Spool && isMissing(dir) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir) // it would be created in there
		}
		if err := unix.Access(dir+"/.", unix.W_OK); err != nil {
			return exit.Fail(exit.CantCreate, "cannot create files in %s: %w", dir, err)
		}
	}
	return nil
}

// removeDurably removes a file whose name must not come back after a crash.
func removeDurably(path string) {
	if os.Remove(path) == nil {
		durable.SyncDir(filepath.Dir(path))
	}
}
