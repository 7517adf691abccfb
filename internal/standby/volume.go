package standby

import (
	"errors"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// A missing target may be created as a logical volume. Until then it is known by its path, and from then on by the
// UUID of its device. It is made when the first frame of the delta has been proved: a stream that brings nothing
// leaves no volume.

// planVolume has a missing target be created as a logical volume, if its name is that of one.
func (t *target) planVolume() (planned bool, err error) {
	vg, lv, ok := dm.PathOfVolume(t.Target)
	if !ok || dm.Exists(t.Target) { // a link to nowhere may be of a volume that is there
		return false, nil
	}
	if vg != t.CreateVG {
		return false, exit.Fail(exit.Config, "%s is missing, and is not in %s, the volume group to create it in%s", t.Target, t.CreateVG,
			t.cure("", ": set MAP, or CREATE_LV"))
	}
	if err := t.Allow.Volume(t.Target, t.Disk); err != nil {
		return false, err
	}
	t.volume = &lvm.NewVolume{VG: vg, Name: lv}
	t.identity = t.volume.Path()
	t.device = state.Dir(t.StateDir).Device(t.identity, t.Target)
	return true, nil
}

// createVolume makes the missing target a logical volume. What its extents held before is on it, but for what
// lvcreate(8) wipes: all of it is written, its zero blocks too.
func (c *change) createVolume() (err error) {
	undo := func() {
		if c.file != nil {
			c.file.Close()
		}
		c.volume.Undo()
	}
	if c.settled, err = durable.Create(func() (func(), error) { return undo, c.volume.Create() }); err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	if err = c.openWrite(); err == nil {
		err = c.enterVolume()
	}
	if err != nil {
		return errors.Join(err, c.uncreateVolume())
	}
	c.count()
	return nil
}

// enterVolume has the target be known by what it is now, and takes the lock of that.
func (c *change) enterVolume() (err error) {
	if c.identity, err = blockdev.Identity(c.Target); err != nil {
		return err
	}
	device := state.Dir(c.StateDir).Device(c.identity, c.Target)
	lock, err := device.Lock(state.Run{Peer: c.Peer, Disk: c.Disk, Session: c.Session})
	if err != nil {
		return err
	}
	c.device, c.lock, c.missingLock = device, lock, c.lock
	if c.input.lock.Load() != nil {
		c.input.lock.Store(lock)
	}
	c.before, err = device.Load()
	if err == nil && c.before.Phase != state.None {
		err = exit.Fail(exit.Busy, "%s: somebody has copied to it already: run again", c.Target)
	}
	return err
}

// uncreateVolume removes what createVolume has made, and nobody has written to.
func (c *change) uncreateVolume() error {
	var err error
	if c.file != nil {
		err = c.file.Close()
	}
	c.settled()
	return errors.Join(err, c.volume.Undo())
}
