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
func (p *patcher) beginProof(size int64) *proof { return &proof{size, p.file.Witness(size)} }

// check demands that nobody has written since the proof began; nil is none.
func (p *patcher) check(b *proof) error {
	if b == nil || b.witness == "" || blockdev.Untouched(b.witness, p.file.Witness(b.size)) {
		return nil
	}
	return p.touched()
}

func (p *patcher) touched() error {
	return exit.Fail(exit.Busy, "%s: somebody wrote to it, or put another device in its place, while it was at work here; "+
		"what was read of it proves nothing: find out who, and run again", p.Target)
}

// beginWrites must come before the first write to the target; the image has at most size
// bytes before and after it.
func (p *patcher) beginWrites(size int64) error {
	p.writes.Store(onTarget)
	p.guard = p.file.Guard(size) // first: there must be no gap between it and the proof
	if err := p.lock.Check(); err != nil {
		return exit.Fail(exit.Busy, "%s: %w", p.Target, err)
	}
	return p.check(p.basis)
}

// endWrites returns the witness under which the target now is the delta's source, "" if none
// can tell. It must come after the last read.
func (p *patcher) endWrites(d rdiff.Delta) (witness string, err error) {
	witness = p.file.Witness(d.Source.Size) // first: what is written later shows the next time
	if err := p.checkUnused(); err != nil {
		return "", err
	}
	if p.basis != nil && p.basis.witness == "" {
		return "", nil
	}
	if p.guard == nil { // nothing was written
		return witness, p.check(p.basis)
	}
	switch p.guard.Check() {
	case blockdev.Alone:
		return witness, nil
	case blockdev.Broken:
		p.user.Info("%s: it was written to meanwhile, or its kernel counts otherwise: reading all of it", p.Target)
		return p.proveWhole(d)
	}
	return "", nil
}

// proveWhole demands that the target is the delta's source by reading all of it, while
// nobody writes, and returns the witness of that.
func (p *patcher) proveWhole(d rdiff.Delta) (witness string, err error) {
	begun := p.beginProof(d.Source.Size)
	found, err := p.digest(d.Header, d.Source.Size, "reading back")
	if err == nil {
		err = p.checkUnused()
	}
	if err == nil {
		err = p.check(begun)
	}
	if err == nil && found != d.Source {
		err = p.notSource(d, found)
	}
	return begun.witness, err
}

// misread turns what does not read back into what it comes from, where that is somebody else.
func (p *patcher) misread(err error) error {
	if errors.Is(err, rdiff.ErrReadBack) && p.guard.Check() == blockdev.Broken {
		return p.touched()
	}
	return err
}

// notSource is the error of a target that holds something else than it should.
func (p *patcher) notSource(d rdiff.Delta, found stream.Image) error {
	if p.guard != nil && p.guard.Check() == blockdev.Broken {
		return p.touched()
	}
	return exit.Fail(exit.NotBasis, "%s does not hold the source's image: it holds %s, the source is %s",
		p.Target, found, d.Source)
}
