package standby

import (
	"errors"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/stream"
)

// What was proved must be what is recorded. A whole target takes minutes to read, and what
// somebody writes behind the reader is in no digest. So the witness is taken before the
// first byte is read that proves something, and held against the one before the first
// write; from there to the end a guard sees what others write. "Clean" is what was proved
// under one unbroken witness; where there is none, it is recorded without, and the next run
// proves the target anew.

// proof is a reading of the target: under which witness it began.
type proof struct {
	size    int64
	witness string
}

// beginProof must come before the first read that proves something.
func (c *change) beginProof(size int64) *proof { return &proof{size, c.file.Witness(size)} }

// check demands that nobody has written since the proof began; nil is none.
func (c *change) check(b *proof) error {
	if b == nil || b.witness == "" || blockdev.Untouched(b.witness, c.file.Witness(b.size)) {
		return nil
	}
	return c.touched()
}

func (c *change) touched() error {
	return exit.Fail(exit.Busy, "%s: somebody wrote to it, or put another device in its place, while it was at work here; "+
		"what was read of it proves nothing: find out who, and run again", c.Target)
}

// beginWrites must come before the first write to the target, of the first size bytes of it.
func (c *change) beginWrites(size int64) error {
	if err := c.checkUnused(); err != nil {
		return err
	}
	c.writing.Store(onTarget)
	c.guard = c.file.Guard(size) // first: there must be no gap between it and the proof
	if err := c.lock.Check(); err != nil {
		return exit.Fail(exit.Busy, "%s: %w", c.Target, err)
	}
	return c.check(c.basis)
}

// endWrites returns the witness under which the target now is the delta's source, "" if none
// can tell. It must come after the last read.
func (c *change) endWrites() (witness string, err error) {
	witness = c.file.Witness(c.delta.Source.Size) // first: what is written later shows the next time
	if err := c.checkUnused(); err != nil {
		return "", err
	}
	if c.basis != nil && c.basis.witness == "" {
		return "", nil
	}
	if c.guard == nil { // nothing was written
		return witness, c.check(c.basis)
	}
	switch c.guard.Check() {
	case blockdev.Alone:
		return witness, nil
	case blockdev.Broken:
		c.user.Info("%s: it was written to meanwhile, or its kernel counts otherwise: reading all of it", c.Target)
		return c.proveWhole()
	}
	return "", nil
}

// proveWhole demands that the target is the delta's source by reading all of it, while
// nobody writes, and returns the witness of that.
func (c *change) proveWhole() (witness string, err error) {
	begun := c.beginProof(c.delta.Source.Size)
	found, err := c.digest(c.delta.Source.Size, "reading back")
	if err == nil {
		err = c.checkUnused()
	}
	if err == nil {
		err = c.check(begun)
	}
	if err == nil && found != c.delta.Source {
		err = c.notSource(found)
	}
	return begun.witness, err
}

// misread turns what does not read back into what it comes from, where that is somebody else.
func (c *change) misread(err error) error {
	if errors.Is(err, rdiff.ErrReadBack) && c.guard.Check() == blockdev.Broken {
		return c.touched()
	}
	return err
}

// notSource is the error of a target that holds something else than it should.
func (c *change) notSource(found stream.Image) error {
	if c.guard != nil && c.guard.Check() == blockdev.Broken {
		return c.touched()
	}
	return exit.Fail(exit.NotBasis, "%s does not hold the source's image: it holds %s, the source is %s",
		c.Target, found, c.delta.Source)
}
