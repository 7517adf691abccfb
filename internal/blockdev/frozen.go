// What is read as the image of one moment does not change while it is read, or it is an error, then or after the last
// read.

package blockdev

import (
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
)

// checkFrozen refuses (status Busy) to read a logical volume that somebody may write to meanwhile: the image would be
// a mix of two times. A snapshot is fine, and so is a volume that is read-only or that nobody else has open for
// longer than udev's look at it takes.
func (f *File) checkFrozen() error {
	still, err := inuse.WaitForLooks(func() (bool, error) {
		d, err := f.deviceMapper()
		return d == nil || !d.IsLV() || frozen(d) || d.OpenCount <= 1, err
	})
	if still || err != nil {
		return err
	}
	return exit.Fail(exit.Busy, "%s is a live volume: it is open elsewhere, writable and no snapshot; "+
		"read a snapshot of it (xb-snap create), or say --allow-live", f.path)
}

// frozen reports whether nobody can write to a logical volume, or at least nobody does by mistake.
func frozen(d *dm.Device) bool {
	snapshot, _ := d.Snapshot()
	return d.IsLV() && (d.ReadOnly || snapshot)
}

// witnessOfSource returns the witness by which it will be known whether somebody wrote to the file while it was read,
// and fails (status Unavailable) where there is none. What is frozen needs none: then it is "".
func (f *File) witnessOfSource() (string, error) {
	witness := f.Witness(-1)
	if witness != "" {
		return witness, nil
	}
	d, err := f.deviceMapper()
	if err == nil && (d == nil || !frozen(d)) {
		err = exit.Fail(exit.Unavailable, "%s: nothing would tell whether somebody writes to it while it is read "+
			"(the kernel counts no writes: see queue/iostats in sysfs; or the file below a loop device is not to be seen); "+
			"read a snapshot of it (xb-snap create), or say --allow-live", f.path)
	}
	return "", err
}

// CheckSnapshot refuses (status BadSnapshot) a snapshot that has overflowed or was given up. It must be asked after
// the last read: both take the image away at that moment.
func (f *File) CheckSnapshot() error {
	if !f.block {
		emptied, err := f.emptied()
		if emptied {
			return GivenUp(f.path)
		}
		return err
	}
	d, err := f.deviceMapper()
	if err != nil || d == nil {
		return err
	}
	if d.GivenUp() {
		return GivenUp(f.path)
	}
	if snapshot, valid := d.Snapshot(); snapshot && !valid {
		return exit.Fail(exit.BadSnapshot, "the snapshot %s has become invalid (%s): "+
			"it filled up, and what it held is lost; make it larger", f.path, d.Targets[0].Status)
	}
	return nil
}
