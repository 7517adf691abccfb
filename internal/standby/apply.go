package standby

import (
	"errors"
	"fmt"
	"io"
	"os"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// apply is the usual change: spool, prove, write. See the lists of steps.
type apply struct {
	*change
	spool    *spool
	stranger *stranger // what is in a target that is no standby yet; mostly nil
	reserved *blockdev.Reservation
	promised *promises   // of room
	held     *state.Held // if the delta was held for a set
	points   pointing    // what was made of what was there
}

func newApply(t *target, in io.Reader) *apply {
	return begin(t, in).apply()
}

func (a *apply) close() {
	a.closeGuard()
	if a.reserved != nil {
		a.reserved.Close()
	}
	if a.spool != nil {
		a.spool.discard()
	}
}

func (a *apply) run() error {
	if err := walk(a, arriving); err != nil {
		return err
	}
	if a.unchanged() {
		a.noPoint = a.before.NoPoint
		return a.setClean()
	}
	defer durable.OnSignal(a.interrupted)()
	// Whoever finds it so from here on can finish it: it goes on whether anybody still
	// listens or not.
	a.user.Commit()
	if err := walk(a, beginning); err != nil {
		return a.unfinished(a.takeBack(err))
	}
	if err := walk(a, finishing); err != nil {
		return a.unfinished(err)
	}
	a.points.prune()
	return nil
}

// receive stores the delta in the spool, and proves it as a stream.
func (a *apply) receive() (err error) {
	// A spool left behind by a crash just after an apply was done.
	os.Remove(a.device.SpoolFile(a.Spool))
	if a.spool, err = createSpool(a.device, a.Spool, a.input.Reader); err != nil {
		return err
	}
	return a.verify(a.spool.tee(&a.input))
}

// verify proves a delta while it arrives, and counts what it replaces of a stranger's.
func (a *apply) verify(in io.Reader) (err error) {
	if a.stranger, err = a.lookInside(); err != nil {
		return err
	}
	steps := rdiff.Steps{Header: a.header, Done: a.received}
	if a.stranger == nil {
		a.delta, err = rdiff.Verify(in, steps)
	} else {
		a.delta, a.stranger.replaced, err = rdiff.VerifyOver(in, a.file, steps)
	}
	return err
}

// prove demands that the delta may be applied to the target.
func (a *apply) prove() error {
	if err := a.judge(); err != nil {
		return err
	}
	if err := a.checkStranger(); err != nil || a.file == nil || a.spool == nil {
		return err
	}
	return a.notBasis(rdiff.ProveOld(a.replay("proving"), a.delta, a.file))
}

// unchanged reports whether the target is the delta's source already.
func (a *apply) unchanged() bool {
	return a.delta.Frames == 0 && a.delta.Basis == a.delta.Source && a.file != nil
}

// replay reads a complete spool, as a step of the run with that name.
func (a *apply) replay(step string) io.Reader {
	size := int64(0)
	if info, err := a.spool.Stat(); err == nil {
		size = info.Size()
	}
	a.progress.Step(step, size)
	return io.TeeReader(a.spool.reader(), advancer(a.progress.Advance))
}

// advancer is told how much is written to it.
type advancer func(int64)

func (a advancer) Write(b []byte) (int, error) {
	a(int64(len(b)))
	return len(b), nil
}

func (a *apply) guardWrites() error {
	return a.beginWrites(a.extent())
}

// keepSpool makes the spool durable under its name.
func (a *apply) keepSpool() error {
	a.writing.Store(onSpool)
	defer a.writing.Store(onTarget)
	return a.spool.keep()
}

// record has the state say "applying". From then on the target may be a mix, and whoever
// finds it so can finish it.
func (a *apply) record() error {
	return a.remember(&state.Record{Phase: state.Applying, Image: a.delta.Source, Peer: a.peerName(), Spool: a.spool.path,
		Set: a.set, Taken: a.Taken})
}

// takeBack undoes what was begun. It does not if the state says "applying" all the same:
// where only its directory could not be synced, the spool is needed.
func (a *apply) takeBack(err error) error {
	if a.phase() == state.Applying {
		return err
	}
	if a.spool.kept {
		a.spool.remove()
	}
	return a.points.takeBack(a.leave(err))
}

// leave makes the target what it was before the steps of beginning.
func (a *apply) leave(err error) error { return a.uncreate(errors.Join(err, a.giveBack())) }

func (a *apply) write() error { return rdiff.Apply(a.replay("writing"), a.delta, a.file) }

func (a *apply) sync() error {
	return errors.Join(a.file.Truncate(a.delta.Source.Size), a.file.Sync())
}

// reread compares what was written with what is on the disk.
func (a *apply) reread() error {
	image, err := a.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	if err := rdiff.CheckWritten(a.replay("reading back"), a.delta, image); err != nil {
		return a.misread(fmt.Errorf("%s: %w", a.Target, err))
	}
	return nil
}

// setClean remembers the target as the delta's source, unless it was replaced or somebody
// else wrote to it.
func (a *apply) setClean() error {
	witness, err := a.endWrites()
	if err == nil {
		return a.saveClean(witness)
	}
	lost := exit.StatusOf(a.file.CheckName(a.identity))
	if lost == exit.Busy || lost == exit.NoInput { // replaced or removed; else nobody knows
		err = errors.Join(err, a.disown())
	}
	return err
}

func (a *apply) removeSpool() error {
	if a.spool != nil {
		a.spool.remove()
	}
	if a.held == nil {
		return nil
	}
	return a.device.Unhold()
}

// disown ends an apply on a file that has lost its name: what has that name now must
// not get the spool, and is judged by what was remembered before.
func (a *apply) disown() error {
	if a.phase() != state.Applying {
		return nil
	}
	r := a.before
	if r.Phase != state.Clean {
		r = a.mix()
	}
	r.Witness = ""
	if err := a.remember(r); err != nil {
		return err
	}
	return a.removeSpool()
}

// interrupted says what is left to do when a signal ends the run.
func (a *apply) interrupted() {
	if a.phase() == state.Applying {
		a.user.Warn("%v", a.unfinished(errors.New("interrupted")))
	}
}

// unfinished adds to an error what state the target is in, and the cure.
func (a *apply) unfinished(err error) error {
	if err == nil || a.phase() != state.Applying {
		return err
	}
	return exit.Fail(exit.StatusOf(err),
		"%w\n%s may be neither the old image nor the new one now; finish it with: xb-patch --recover %s",
		err, a.Target, text.Operand(a.Target))
}
