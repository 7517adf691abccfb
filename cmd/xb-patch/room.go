package main

import (
	"errors"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// reserve makes sure, while the target still is the old image, that there is room for the
// new one.
func (p *patcher) reserve(d rdiff.Delta, s *spool) error {
	r, err := p.file.Reservation()
	if r == nil || err != nil {
		return err
	}
	defer r.Close()
	if err := rdiff.Literals(s.reader(), d, r.Count); err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	if err := rdiff.Literals(s.reader(), d, r.Take); err != nil {
		return errors.Join(err, r.GiveBack(), p.renewWitness())
	}
	return nil
}

// renewWitness remembers the witness of a clean target whose bytes are as they were, but
// not its times, because room was taken for it and given back.
func (p *patcher) renewWitness() error {
	r := *p.record
	if r.Phase != state.Clean || p.basis == nil || !blockdev.Untouched(r.Witness, p.basis.witness) {
		return nil
	}
	r.Witness = p.file.Witness(r.Size)
	if p.guard.Check() != blockdev.Alone {
		return nil
	}
	return p.device.Save(&r)
}
