package lvm

import (
	"errors"
	"os"
	"syscall"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Find returns the volume that a path stands for: /dev/VG/LV, /dev/mapper/VG-LV,
// /dev/dm-N or a link to one. It goes by the device's UUID, because names can be
// ambiguous and dm numbers are used again. Only a volume that is not active, and
// so has no device, is found by its name. The error's status is NoInput if there
// is no such device, Config if it is none of LVM's.
func (vs *Volumes) Find(path string) (*Volume, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return vs.findByName(path)
	} else if err != nil {
		return nil, exit.Fail(exit.NoInput, "no such device: %w", err)
	}
	if info.Mode()&os.ModeType != os.ModeDevice {
		return nil, exit.Fail(exit.NoInput, "%s is no block device", path)
	}
	d, err := dm.Query(info.Sys().(*syscall.Stat_t).Rdev)
	if err != nil {
		return nil, err
	}
	if d == nil || !d.IsLV() {
		return nil, exit.Fail(exit.Config, "%s is not a logical volume: "+
			"there are snapshots only of logical volumes and of files on XFS or btrfs", path)
	}
	for _, v := range vs.list {
		if v.dmUUID() == d.UUID {
			return v, nil
		}
	}
	if dm.IsHidden(d.UUID) { // a layer of a volume has a suffix
		return nil, exit.Fail(exit.Config, "%s (%s) is a hidden part of a logical volume, not one itself", path, d.Name)
	}
	return nil, vs.notListed(exit.Config,
		path+": LVM does not list this volume (is it hidden by a filter or the devices file?)")
}

func (vs *Volumes) findByName(path string) (*Volume, error) {
	var found []*Volume
	for _, v := range vs.list {
		if path == v.Path() || path == "/dev/mapper/"+dm.VolumeName(v.VG, v.Name) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return nil, vs.notListed(exit.NoInput, path+": no such device")
	case 1:
		return found[0], nil
	}
	if err := vs.checkVG(found[0]); err != nil {
		return nil, err
	}
	return nil, exit.Fail(exit.Config, "%s stands for both %s and %s", path, found[0], found[1])
}

// notListed is the error for a volume that is not in the list; if the list may
// not be whole, nobody knows whether it exists.
func (vs *Volumes) notListed(status int, message string) error {
	if vs.incomplete != nil {
		return exit.Fail(exit.Unavailable, "%s; but LVM could not list everything: %w", message, vs.incomplete)
	}
	return exit.Fail(status, "%s", message)
}

// checkVG refuses a volume whose group shares its name with another group:
// LVM's commands would not know which one is meant.
func (vs *Volumes) checkVG(v *Volume) error {
	groups, err := vs.allGroups()
	if err != nil {
		return err
	}
	for _, group := range groups {
		if group["vg_name"] == v.VG && group["vg_uuid"] != v.VGUUID {
			return exit.Fail(exit.Config, "two volume groups are called %s (%s and %s): "+
				"rename one (vgrename UUID NEWNAME), and keep LVM from looking into the guests' disks (devices/scan_lvs=0)",
				v.VG, v.VGUUID, group["vg_uuid"])
		}
	}
	return nil
}
