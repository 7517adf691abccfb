package standby

import (
	"errors"
	"io"
	"sync/atomic"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// change is a target that becomes another image: the delta that makes it so, what was
// proved of the target, and who else writes to it meanwhile.
type change struct {
	*target
	progress Progress
	input    input // the delta as it arrives
	delta    rdiff.Delta
	set      *state.Set                    // that the delta came in; nil: it came alone
	noPoint  string                        // why no point in time was made of what was there; "": it was, or none was wanted
	created  bool                          // the target, by this run
	basis    *proof                        // of what it held before the first write; nil: it need not be proved
	settled  func()                        // called when a volume that was created stays
	guard    *blockdev.Guard               // of the writes; nil: none was begun
	writing  atomic.Int32                  // where: 0, onSpool or onTarget
	counters atomic.Pointer[func() string] // what the kernel counts of the target's writes
}

// begin makes a change of a target that is shown to the user.
func begin(t *target, in io.Reader) *change {
	c := &change{target: t}
	c.input.Reader = in
	if !isFile(in) {
		c.input.lock.Store(t.lock)
	}
	c.progress = t.user.Begin(c.movement())
	return c
}

// apply makes the change one that is spooled.
func (c *change) apply() *apply { return &apply{change: c, promised: newPromises()} }

func (c *change) closeGuard() {
	if c.guard != nil {
		c.guard.Close()
	}
}

// header looks at the header of a delta that is about to be received.
func (c *change) header(h stream.Header) error {
	c.progress.Step("", max(0, h.Size))
	return c.checkSize(h.Size)
}

// received has the progress show that the delta has come so far: to byte end of the
// image.
func (c *change) received(literal, end int64) {
	c.progress.Change(literal)
	c.progress.Reach(end)
}

// extent is how many bytes the image has before or after the change.
func (c *change) extent() int64 { return max(c.delta.Basis.Size, c.delta.Source.Size) }

// createMissing makes a target that is missing, before the state speaks of it: a file that
// somebody else makes meanwhile must not be taken for it.
func (c *change) createMissing() error {
	if c.file != nil {
		return nil
	}
	var err error
	if c.volume != nil {
		err = c.createVolume()
	} else {
		err = c.createTarget()
	}
	c.created = err == nil
	return err
}

// uncreate removes what createMissing has made, and nobody has written to.
func (c *change) uncreate(err error) error {
	if !c.created {
		return err
	}
	if c.volume != nil {
		return errors.Join(err, c.uncreateVolume())
	}
	return errors.Join(err, c.uncreateTarget())
}

func (c *change) notBasis(err error) error {
	if errors.Is(err, rdiff.ErrNotBasis) {
		return exit.Fail(exit.NotBasis, "%s was changed since its signature was made: %w", c.Target, err)
	}
	return err
}

// saveClean remembers the target as the delta's source, and the witness of when it was
// proved. Everything before it must be on the disk. What a recovery finishes is not newer for it.
func (c *change) saveClean(witness string) error {
	r := &state.Record{Phase: state.Clean, Image: c.delta.Source, Peer: c.peerName(), Witness: witness, Set: c.set, Taken: c.Taken,
		NoPoint: c.noPoint}
	if c.set == nil && c.before.Phase == state.Applying {
		r.Time, r.Taken = c.before.Time, c.before.Taken
	}
	err := c.remember(r)
	if err == nil {
		c.device.RemoveConsent()
	}
	return err
}
