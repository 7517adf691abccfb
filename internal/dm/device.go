// Package dm knows the kernel's block devices by their numbers, and what device-mapper and LVM make of them:
// names, tables, status, pools. What it says is asked of the kernel at that moment; what cannot be asked is an
// error and never taken for "nobody" or "nothing". It changes nothing.
package dm

import (
	"errors"
	"os"

	"xen-backup/internal/exit"
)

// Device is what the kernel's device-mapper says of one of its devices.
type Device struct {
	Name      string // as in /dev/mapper; of a logical volume see VolumeName
	UUID      string // of a logical volume see VolumeUUID; may be empty
	OpenCount int    // opens by anybody: processes, mounts, other dm devices, blkback
	ReadOnly  bool
	Targets   []Target
}

// Target is one line of a device's table.
type Target struct {
	Start, Length uint64 // in sectors of 512 bytes
	Type          string // "linear", "snapshot", "thin", ...
	Params        string // as `dmsetup table` prints them
	Status        string // as `dmsetup status` prints it
}

// Query returns what device-mapper says of the device rdev (a stat's st_rdev), and nil if it is none of its
// devices. It fails with status Unavailable if device-mapper can't be asked: that is never "nobody has it open".
func Query(rdev uint64) (*Device, error) {
	dir := SysDir(rdev)
	if _, err := os.Stat(dir + "/dm"); errors.Is(err, os.ErrNotExist) && Exists(dir) {
		return nil, nil
	} else if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot tell what device %s is: %w", MajorMinor(rdev), err)
	}
	d, err := ask(rdev)
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot ask device-mapper about device %s: %w", MajorMinor(rdev), err)
	}
	return d, nil
}

// IsLV reports whether the device is LVM's: a logical volume or a hidden part of one.
func (d *Device) IsLV() bool { return IsLVM(d.UUID) }

// Is reports whether the device's first target is of a type.
func (d *Device) Is(kind string) bool { return len(d.Targets) > 0 && d.Targets[0].Type == kind }

// Thin reports whether the device is a thin volume.
func (d *Device) Thin() bool { return d.Is("thin") }

// Snapshot reports whether the device is a dm-snapshot, and if so whether its content still is that of the origin
// at its creation. The status of a valid one is "USED/TOTAL METADATA"; one that cannot be trusted has a word in
// its place: "Invalid", "Overflow", "Merge failed" (drivers/md/dm-snap.c, snapshot_status).
func (d *Device) Snapshot() (is, valid bool) {
	for _, t := range d.Targets {
		if t.Type == "snapshot" {
			return true, t.Status != "" && '0' <= t.Status[0] && t.Status[0] <= '9'
		}
	}
	return false, false
}

// GivenUp reports whether the device is a snapshot of ours whose content was taken away because a guest needed
// the room: its table only answers with errors, and LVM gives no thin volume such a table.
func (d *Device) GivenUp() bool {
	return d.IsLV() && volumeSnapshot().MatchString(d.Name) && len(d.Targets) == 1 && d.Targets[0].Type == "error"
}
