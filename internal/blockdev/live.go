package blockdev

import (
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/cli"
)

// CheckFrozen refuses (status Busy) to read a logical volume that somebody may
// write to meanwhile: the image would be a mix of two times. A snapshot is fine,
// and so is a volume that is read-only or that nobody else has open for longer than
// udev's look at it takes.
func (f *File) CheckFrozen() error {
	for look := 0; look <= looks; look++ {
		d, err := f.deviceMapper()
		if err != nil || d == nil || !d.IsLV() || d.ReadOnly || d.OpenCount <= 1 {
			return err
		}
		if snapshot, _ := d.Snapshot(); snapshot {
			return nil
		}
		time.Sleep(retryEvery)
	}
	return cli.Fail(cli.Busy, "%s is a live volume: it is open elsewhere, writable and no snapshot; "+
		"read a snapshot of it (xb-snap create), or say --allow-live", f.path)
}

// CheckSnapshot refuses (status BadSnapshot) a dm-snapshot that has become
// invalid. It must be asked after the last read: a snapshot that overflows takes
// the image away at that moment.
func (f *File) CheckSnapshot() error {
	d, err := f.deviceMapper()
	if err != nil || d == nil {
		return err
	}
	if snapshot, valid := d.Snapshot(); snapshot && !valid {
		return cli.Fail(cli.BadSnapshot, "the snapshot %s has become invalid (%s): it filled up, and what it held is lost; "+
			"make it larger", f.path, d.Targets[0].Status)
	}
	return nil
}

func (f *File) deviceMapper() (*DM, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &stat); err != nil || !f.block {
		return nil, err
	}
	return DeviceMapper(stat.Rdev)
}
