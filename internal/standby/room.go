package standby

import (
	"errors"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/lvm"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// reserve makes sure, while the target still is the old image, that there is room for the
// new one.
func (p *patcher) reserve(d rdiff.Delta, s *spool) error {
	if p.file.IsBlock() {
		if err := p.checkPool(d, s); err != nil {
			return err
		}
	}
	r, err := p.file.Reservation()
	if r == nil || err != nil {
		return err
	}
	defer r.Close()
	literals := func(do func(off, n int64) error) error {
		return rdiff.Runs(s.reader(), d, func(off, n int64, zero bool) error {
			if zero { // that becomes a hole
				return nil
			}
			return do(off, n)
		})
	}
	if err := literals(r.Count); err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	if err := literals(r.Take); err != nil {
		return errors.Join(err, r.GiveBack(), p.renewWitness())
	}
	return nil
}

// checkPool is the same of a thin volume.
func (p *patcher) checkPool(d rdiff.Delta, s *spool) error {
	w, err := lvm.NewThinWrites(p.Target)
	if w == nil || err != nil {
		return err
	}
	err = rdiff.Runs(s.reader(), d, func(off, n int64, zero bool) error {
		if zero {
			return p.file.Zeroed(off, n, w.Add)
		}
		return w.Add(off, n)
	})
	if err != nil {
		return err
	}
	return w.CheckRoom(string(state.Find(p.StateDir)))
}

// renewWitness remembers the witness of a clean target whose bytes are as they were, but
// not its times, because room was taken for it and given back.
func (p *patcher) renewWitness() error {
	r := *p.record
	if r.Phase != state.Clean || p.basis == nil || !blockdev.Untouched(r.Witness, p.basis.witness) {
		return nil
	}
	r.Witness = p.file.Witness(r.Image.Size)
	if p.guard.Check() != blockdev.Alone {
		return nil
	}
	return p.device.Save(&r)
}
