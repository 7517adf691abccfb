package lvm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Identity returns what tells the snapshot at path from all others, as long as nobody may write to it: its UUID, that
// of its origin, and its size. Another one that has taken its name, and one that was given another size, has another
// identity. The error's status is BadSnapshot if its content is lost, or somebody may write to it, or its origin is
// gone.
func Identity(path string) (string, error) {
	d, origin, err := frozen(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s of %s, %d bytes", d.kind(), d.UUID, origin, d.size()), nil
}

// OriginOf returns the UUID that device-mapper knows the origin of a snapshot by, with the errors of Identity.
func OriginOf(path string) (string, error) {
	_, origin, err := frozen(path)
	return origin, err
}

// frozen returns a snapshot that nobody can write to, and the UUID of its origin.
func frozen(path string) (d *device, origin string, err error) {
	if d, err = lookAt(path); err == nil {
		err = d.check()
	}
	if err != nil {
		return nil, "", err
	}
	if !d.ReadOnly {
		return nil, "", exit.Fail(exit.BadSnapshot, "%s can be written to: nobody can tell that it is what it was", path)
	}
	// It may have been made writable for a while.
	if info, err := os.Stat(path); err != nil || blockdev.WrittenTo(info.Sys().(*syscall.Stat_t).Rdev) {
		return nil, "", exit.Fail(exit.BadSnapshot, "%s was written to: it is not what it was", path)
	}
	if origin, err = d.originUUID(); err != nil {
		return nil, "", err
	}
	return d, origin, d.still() // LVM may have been asked meanwhile, and does not go by numbers
}

// originUUID returns the UUID that device-mapper knows the origin by. Of a thick snapshot the kernel has it; of the
// origins of thin ones it knows nothing.
func (d *device) originUUID() (string, error) {
	if d.kind() == "thin" {
		return d.thinOrigin()
	}
	number, err := dm.ParseMajorMinor(d.param(0), 10)
	if err != nil {
		return "", exit.Fail(exit.Internal, "%s: cannot tell its origin from %q", d.path, d.Targets[0].Params)
	}
	uuid := dm.ReadLine(dm.SysDir(number) + "/dm/uuid")
	if !dm.IsLVM(uuid) {
		return "", exit.Fail(exit.Usage, "%s is no snapshot of a logical volume", d.path)
	}
	return strings.TrimSuffix(uuid, dm.OriginSuffix), nil
}

// thinOrigin asks LVM, which forgets an origin that was removed.
func (d *device) thinOrigin() (string, error) {
	if !d.IsLV() || dm.IsHidden(d.UUID) {
		return "", exit.Fail(exit.Usage, "%s is no snapshot of a logical volume", d.path)
	}
	rows, failed, err := report("vg_uuid,lv_uuid,origin_uuid", "lvs", "--all", "--select", "lv_uuid="+dm.VolumeOfUUID(d.UUID))
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		switch {
		case dm.VolumeUUID(row["vg_uuid"], row["lv_uuid"]) != d.UUID:
		case row["origin_uuid"] == "":
			return "", exit.Fail(exit.BadSnapshot, "%s is a snapshot of nothing: its origin was removed, or there was none", d.path)
		default:
			return dm.VolumeUUID(row["vg_uuid"], row["origin_uuid"]), nil
		}
	}
	return "", exit.Fail(exit.Unavailable, "cannot tell the origin of %s: %w", d.path, errors.Join(failed, errors.New("LVM does not list it")))
}
