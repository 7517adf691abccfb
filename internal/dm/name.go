// The rules of LVM's names stand here alone: what a volume's device is called, which are hidden, whose content is no
// guest's disk, and which are our snapshots.

package dm

import (
	"path/filepath"
	"strings"

	"xen-backup/internal/text"
)

// NameMax is the longest name of a device (DM_NAME_LEN in include/uapi/linux/dm-ioctl.h, without the NUL).
const NameMax = 127

// LVM's devices (lib/activate/dev_manager.c, and dm_build_dm_uuid in libdm/libdm-common.c) are called VG-LV, the
// hyphens of either part doubled. Their UUIDs are "LVM-", 32 characters of the VG's and 32 of the LV's; most
// hidden ones have a suffix after that, and so have their names. The parts of a mirrored volume have none: of those
// LVM alone knows what they are.
const (
	uuidPrefix = "LVM-"
	uuidLength = len(uuidPrefix) + 64

	OriginSuffix = "-real"  // below the origin of thick snapshots
	StoreSuffix  = "-cow"   // a thick snapshot's exception store
	poolSuffix   = "-tpool" // below a thin pool's volume: the pool itself
)

// VolumeName returns the name of the device of a logical volume.
func VolumeName(vg, lv string) string { return mangle(vg) + "-" + mangle(lv) }

func mangle(name string) string { return strings.ReplaceAll(name, "-", "--") }

// SplitName takes the name of a logical volume's device apart. That of a hidden one has too many parts.
func SplitName(name string) (vg, lv string, ok bool) {
	const hyphen = "\x00"
	parts := strings.Split(strings.ReplaceAll(name, "--", hyphen), "-")
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return "", "", false
	}
	undo := func(s string) string { return strings.ReplaceAll(s, hyphen, "-") }
	return undo(parts[0]), undo(parts[1]), true
}

// VolumeUUID returns the UUID of the device of a logical volume, given the two that LVM prints.
func VolumeUUID(vg, lv string) string { return uuidPrefix + strings.ReplaceAll(vg+lv, "-", "") }

// IsLVM reports whether a device with this UUID is LVM's: a logical volume or a hidden part of one.
func IsLVM(uuid string) bool { return strings.HasPrefix(uuid, uuidPrefix) }

// IsHidden reports whether a device of LVM with this UUID is a part of a volume that LVM keeps to itself.
func IsHidden(uuid string) bool { return IsLVM(uuid) && len(uuid) > uuidLength }

var qubesSnapshot = text.Pattern(`^vm-.+-snap$`)

// NotAnImage says in words why the content of a volume with this name is not what a guest sees, and "" if nothing
// is known against it. It goes by the name alone, so that it works for volumes of another host too.
func NotAnImage(vg, lv string) string {
	switch {
	case strings.HasPrefix(vg, "VG_XenStorage-"):
		return "belongs to a XenServer storage repository: " +
			"its volumes hold chains of VHD images, which xen-backup can't copy"
	case qubesSnapshot().MatchString(lv):
		return "is the running copy of a Qubes volume and vanishes when the qube stops: " +
			"back up Qubes with wyng-util-qubes"
	}
	return ""
}

// volumeSnapshot matches the names of the devices of our snapshots, which are called xb-LV-RUN.
var volumeSnapshot = text.Pattern(`-xb--.+--[a-z2-7]{8}$`)

// VolumeSnapshots returns the names of all active devices that look like our snapshots. It costs little and takes
// no lock.
func VolumeSnapshots() []string {
	var found []string
	paths, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, path := range paths {
		if name := ReadLine(path); volumeSnapshot().MatchString(name) {
			found = append(found, name)
		}
	}
	return found
}

// A name that lvm(8) takes for a group or a volume.
var lvmName = text.Pattern(`^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$`)

// PathOfVolume takes apart a path at which a logical volume may be: /dev/VG/LV, or /dev/mapper/ and the name of its
// device. Whether there is one it does not say.
func PathOfVolume(path string) (vg, lv string, ok bool) {
	dir, name := filepath.Split(filepath.Clean(path))
	switch parent := filepath.Dir(filepath.Clean(dir)); {
	case dir == "/dev/mapper/":
		vg, lv, ok = SplitName(name)
	case parent == "/dev":
		vg, lv, ok = filepath.Base(dir), name, true
	}
	return vg, lv, ok && vg != "mapper" && vg != "shm" && vg != ".." && lvmName().MatchString(vg) && lvmName().MatchString(lv)
}

// VolumeOfUUID returns the UUID that LVM prints of the volume whose device has that one.
func VolumeOfUUID(uuid string) string {
	lv := uuid[uuidLength-32 : uuidLength]
	return strings.Join([]string{lv[:6], lv[6:10], lv[10:14], lv[14:18], lv[18:22], lv[22:26], lv[26:]}, "-")
}
