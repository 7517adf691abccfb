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
	left, err := a.leftForPoints()
	if err != nil {
		return err
	}
	if a.file.IsBlock() {
		if err := a.checkPool(left); err != nil {
			return a.takenByPoints(err)
		}
	}
	r, err := a.file.Reservation()
	if r == nil || err != nil {
		return err
	}
	a.reserved = r
	if err := a.literals(r.Count); err != nil {
		return err
	}
	if err := r.Check(a.promised.files[r.Room()], left); err != nil {
		return a.takenByPoints(err)
	}
	if err := a.literals(r.Take); err != nil {
		return err
	}
	a.promised.files[r.Room()] += r.Untaken()
	return nil
}

// literals shows what is written to a file that is no zero: that becomes a hole.
func (a *apply) literals(do func(off, n int64) error) error {
	return rdiff.Runs(a.spool.reader(), a.delta, func(off, n int64, zero bool) error {
		if zero {
			return nil
		}
		return do(off, n)
	})
}

// giveBack makes what was taken holes again.
func (a *apply) giveBack() error {
	if a.reserved == nil || !a.reserved.HasTaken() {
		return nil
	}
	return errors.Join(a.reserved.GiveBack(), a.renewWitness())
}

// checkPool is the same of a thin volume.
func (a *apply) checkPool(left int64) error {
	w, err := a.thinWrites()
	if w == nil || err != nil {
		return err
	}
	if err := w.CheckRoom(a.StateDir, left, a.promised.thin...); err != nil {
		return err
	}
	a.promised.thin = append(a.promised.thin, w)
	return nil
}

// thinWrites returns what is about to be written to a thin volume; nil if the target is none.
func (a *apply) thinWrites() (*lvm.ThinWrites, error) {
	w, err := lvm.NewThinWrites(a.Target)
	if w == nil || err != nil {
		return nil, err
	}
	return w, rdiff.Runs(a.spool.reader(), a.delta, func(off, n int64, zero bool) error {
		if zero {
			return a.file.Zeroed(off, n, w.Add)
		}
		return w.Add(off, n)
	})
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
