package standby

import (
	"errors"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/lvm"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// promises are what the disks of a set will take, of those that share it.
type promises struct {
	files map[string]int64 // bytes, by file system
	thin  []*lvm.ThinWrites
}

func newPromises() *promises { return &promises{files: make(map[string]int64)} }

// reserve makes sure, while the target still is the old image, that there is room for the
// new one.
func (a *apply) reserve() error {
	if a.spool == nil {
		return nil
	}
	if a.file.IsBlock() {
		if err := a.checkPool(); err != nil {
			return err
		}
	}
	r, err := a.file.Reservation()
	if r == nil || err != nil {
		return err
	}
	a.reserved = r
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
	if err := r.Check(a.promised.files[r.Room()]); err != nil {
		return err
	}
	if err := literals(r.Take); err != nil {
		return err
	}
	a.promised.files[r.Room()] += r.Untaken()
	return nil
}

// giveBack makes what was taken holes again.
func (a *apply) giveBack() error {
	if a.reserved == nil || !a.reserved.HasTaken() {
		return nil
	}
	return errors.Join(a.reserved.GiveBack(), a.renewWitness())
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
	if err := w.CheckRoom(a.StateDir, a.promised.thin...); err != nil {
		return err
	}
	a.promised.thin = append(a.promised.thin, w)
	return nil
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
