package lvm

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// NewVolume is a thick logical volume that is to be created. It will hold what its extents held before, but for
// what lvcreate(8) wipes.
type NewVolume struct {
	VG, Name string
	Size     int64 // bytes

	uuid string // of the device, once it is there
}

// Path returns the path that it will have.
func (n *NewVolume) Path() string { return "/dev/" + n.VG + "/" + n.Name }

// Command returns what creates it, for people.
func (n *NewVolume) Command() string {
	return "lvcreate -y -L " + strconv.FormatInt(n.Size, 10) + "b -n " + n.Name + " " + n.VG
}

// Check refuses what could not be created as LVM is now.
func (n *NewVolume) Check() error {
	vs, err := List()
	if err != nil {
		return err
	}
	return vs.checkNew(n)
}

func (vs *Volumes) checkNew(n *NewVolume) error {
	for _, v := range vs.list {
		if v.VG == n.VG && v.Name == n.Name {
			return exit.Fail(exit.NoInput, "%s is not active: lvchange -ay %s", n.Path(), v)
		}
	}
	groups, err := vs.allGroups()
	if err != nil {
		return err
	}
	for _, group := range groups {
		if group["vg_name"] == n.VG {
			return vs.checkFree(n, group)
		}
	}
	return vs.notListed(exit.CantCreate, "cannot create "+n.Path()+": there is no volume group "+n.VG)
}

// checkFree demands that the volume has room in its group.
func (vs *Volumes) checkFree(n *NewVolume, group row) error {
	if err := vs.checkVG(&Volume{VG: n.VG, VGUUID: group["vg_uuid"]}); err != nil {
		return err
	}
	extent, err1 := strconv.ParseInt(group["vg_extent_size"], 10, 64)
	free, err2 := strconv.ParseInt(group["vg_free"], 10, 64)
	if err1 != nil || err2 != nil || extent <= 0 {
		return exit.Fail(exit.Unavailable, "vgs: bad size of an extent, or of what is free, in %s", n.VG)
	}
	if (n.Size+extent-1)/extent > free/extent {
		return exit.Fail(exit.CantCreate, "cannot create %s of %d bytes: volume group %s has only %s free", n.Path(), n.Size, n.VG,
			text.FormatSize(free))
	}
	return nil
}

// Create creates it, and returns when its device is there. It is never killed, and whoever makes one of that name
// at the same time has it fail. Its errors have status CantCreate.
func (n *NewVolume) Create() error {
	// -W y wipes what blkid(8) would find of an earlier volume there, but no more.
	err := lvmCommand("lvcreate", "--wipesignatures", "y", "--size", strconv.FormatInt(n.Size, 10)+"b", "--name", n.Name, n.VG)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create %s: %w", n.Path(), err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if n.uuid, err = n.deviceUUID(); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return exit.Fail(exit.CantCreate, "%s was created, but its device does not appear: %w", n.Path(), err)
		}
	}
}

func (n *NewVolume) deviceUUID() (string, error) {
	info, err := os.Stat(n.Path())
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeType != os.ModeDevice {
		return "", errors.New("it is no block device")
	}
	d, err := dm.Query(stat.Rdev)
	if err == nil && (d == nil || !d.IsLV()) {
		err = errors.New("it is no logical volume")
	}
	if err != nil {
		return "", err
	}
	return d.UUID, nil
}

// Undo removes the volume that Create made, and no other one of its name. Nobody may have it open.
func (n *NewVolume) Undo() error {
	if n.uuid == "" {
		return nil
	}
	err := removeIf(n.VG, n.Name, "lv_uuid="+dm.VolumeOfUUID(n.uuid), "", "LVM leaves it")
	if err != nil {
		return exit.Fail(exit.StatusOf(err), "%s, which was created a moment ago, stays: %w", n.Path(), err)
	}
	return nil
}
