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
func (a *apply) reserve() error {
	if a.file.IsBlock() {
		if err := a.checkPool(); err != nil {
			return err
		}
	}
	r, err := a.file.Reservation()
	if r == nil || err != nil {
		return err
	}
	defer r.Close()
	literals := func(do func(off, n int64) error) error {
		return rdiff.Runs(a.spool.reader(), a.delta, func(off, n int64, zero bool) error {
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
		return errors.Join(err, r.GiveBack(), a.renewWitness())
	}
	return nil
}

// checkPool is the same of a thin volume.
func (a *apply) checkPool() error {
	w, err := lvm.NewThinWrites(a.Target)
	if w == nil || err != nil {
		return err
	}
	err = rdiff.Runs(a.spool.reader(), a.delta, func(off, n int64, zero bool) error {
		if zero {
			return a.file.Zeroed(off, n, w.Add)
		}
		return w.Add(off, n)
	})
	if err != nil {
		return err
	}
	return w.CheckRoom(string(state.Find(a.StateDir)))
}

// renewWitness remembers the witness of a clean target whose bytes are as they were, but
// not its times, because room was taken for it and given back.
func (a *apply) renewWitness() error {
	r := *a.before
	if r.Phase != state.Clean || a.basis == nil || !blockdev.Untouched(r.Witness, a.basis.witness) {
		return nil
	}
	r.Witness = a.file.Witness(r.Image.Size)
	if a.guard.Check() != blockdev.Alone {
		return nil
	}
	return a.device.Save(&r)
}
