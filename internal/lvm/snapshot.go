package lvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

// chunkSize of a new exception store, in bytes: LVM's default, spelled out
// because the largest useful size depends on it.
const chunkSize = 4096

// Order is a snapshot to be taken. Everything that can be checked beforehand has
// been, so that several are taken one right after another.
type Order struct {
	Origin  *Volume
	Name    string
	extents int64 // of the exception store; 0 for a thin snapshot
	tags    []string

	Writable bool // for a guest
}

// Order plans a snapshot of each of the origins, with names ending in run and
// with tags, the first of which Remove will ask for. size, in bytes, is what a
// thick one may take of its volume group; it never takes more than it can ever
// need. Thin ones have no size.
func (vs *Volumes) Order(origins []*Volume, size int64, run string, tags []string) ([]*Order, error) {
	var orders []*Order
	for _, v := range origins {
		if err := vs.checkOrigin(v); err != nil {
			return nil, err
		}
		name, err := snapshotName(v, run)
		if err != nil {
			return nil, err
		}
		o := &Order{Origin: v, Name: name, tags: tags}
		if !v.Thin() {
			o.extents = storeExtents(v, size)
		}
		if need := NeededOf(v.VGUUID, origins, size); need > v.VGFree {
			return nil, exit.Fail(exit.CantCreate, "volume group %s has only %s free, but the snapshots need %s: "+
				"make room there, or let them be smaller with --size", v.VG, text.FormatSize(v.VGFree), text.FormatSize(need))
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// NeededOf returns how many bytes snapshots of the origins take of a volume group, whose UUID that is; size is as for Order.
func NeededOf(group string, origins []*Volume, size int64) (bytes int64) {
	for _, v := range origins {
		if !v.Thin() && v.VGUUID == group {
			bytes += storeExtents(v, size) * v.ExtentSize
		}
	}
	return bytes
}

// storeExtents is how large the exception store of a thick snapshot becomes.
func storeExtents(v *Volume, size int64) int64 {
	return (min(size, storeBound(v.Size)) + v.ExtentSize - 1) / v.ExtentSize
}

// checkOrigin refuses what can't or mustn't be snapshotted.
func (vs *Volumes) checkOrigin(v *Volume) error {
	switch {
	case v.Private:
		return exit.Fail(exit.Config, "%s is a pool, or a hidden part of another volume: name the volume that a guest uses", v)
	case dm.NotAnImage(v.VG, v.Name) != "":
		return exit.Fail(exit.Config, "%s %s", v, dm.NotAnImage(v.VG, v.Name))
	case v.ThickSnapshot():
		return exit.Fail(exit.Config, "%s is a snapshot, and LVM takes none of those: name its origin %s/%s", v, v.VG, v.Origin)
	case v.attr(0) == 'O':
		return exit.Fail(exit.Busy, "a snapshot is being merged into %s: try again when that is done", v)
	}
	if err := vs.checkVG(v); err != nil || !v.Thin() {
		return err
	}
	return vs.checkPool(v)
}

func (vs *Volumes) checkPool(v *Volume) error {
	for _, pool := range vs.list {
		switch {
		case pool.VGUUID != v.VGUUID || pool.Name != v.Pool:
			continue
		case pool.Health != "":
			return exit.Fail(exit.CantCreate, "thin pool %s is not healthy: %s", pool, pool.Health)
		}
		return nil
	}
	return vs.notListed(exit.Unavailable, fmt.Sprintf("LVM does not list %s/%s, the pool of %s", v.VG, v.Pool, v))
}

// storeBound returns the size in bytes of an exception store that can't
// overflow: a chunk for each of the origin's, the header, and the chunks that
// list the others, of which one more is made ready whenever one is full (see
// readStore and drivers/md/dm-snap-persistent.c, persistent_commit_exception).
func storeBound(origin int64) int64 {
	chunks := (origin + chunkSize - 1) / chunkSize
	lists := chunks/(chunkSize/exceptionSize) + 1
	return (1 + lists + chunks) * chunkSize
}

// snapshotName returns xb-LV-RUN, LV being shortened where the names of the hidden devices would be too long. LVM
// does not check that beforehand: it fails when the origin is already being suspended, with "manual intervention
// required".
func snapshotName(v *Volume, run string) (string, error) {
	hidden := ""
	if !v.Thin() {
		hidden = dm.StoreSuffix
		if len(dm.VolumeName(v.VG, v.Name)+dm.OriginSuffix) > dm.NameMax {
			return "", exit.Fail(exit.Config, "the name %s is too long for a volume with snapshots: rename it", v)
		}
	}
	lv := v.Name
	for n := len(v.Name); n > 0; n-- {
		name := "xb-" + lv + "-" + run
		if len(dm.VolumeName(v.VG, name)+hidden) <= dm.NameMax {
			return name, nil
		}
		lv = v.Name[:n-1] + "+" + v.UUID[:6] // still unlike any other's
	}
	return "", exit.Fail(exit.Config, "the name of the volume group %s is too long for a snapshot to be named in it", v.VG)
}

// AddTags has the snapshot carry more tags than the others that were ordered with it.
func (o *Order) AddTags(tags ...string) { o.tags = append(slices.Clip(o.tags), tags...) }

// Path returns the path that the snapshot will have.
func (o *Order) Path() string { return "/dev/" + o.Origin.VG + "/" + o.Name }

// Create takes the snapshot: read-only unless it is for a guest, so that nothing can get in
// between it and its origin, and active. Its errors have status CantCreate; the volume may exist
// nevertheless.
func (o *Order) Create() error {
	permission := "r"
	if o.Writable {
		permission = "rw"
	}
	args := []string{"--snapshot", "--permission", permission, "--name", o.Name}
	for _, tag := range o.tags {
		args = append(args, "--addtag", tag)
	}
	if o.Origin.Thin() {
		// A size would make it a thick one. Without the two options it would carry
		// the activation skip flag and have no device.
		args = append(args, "--setactivationskip", "n", "--ignoreactivationskip")
	} else {
		args = append(args, "--extents", strconv.FormatInt(o.extents, 10), "--chunksize", strconv.Itoa(chunkSize)+"b")
	}
	if err := lvmCommand("lvcreate", append(args, o.Origin.String())...); err != nil {
		return exit.Fail(exit.CantCreate, "cannot take a snapshot of %s: %w", o.Origin, err)
	}
	return nil
}

// WaitForDevice waits until udev has made the snapshot's device node.
func (o *Order) WaitForDevice() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := os.Stat(o.Path())
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return exit.Fail(exit.CantCreate, "the snapshot was taken, but its device does not appear: %w", err)
		}
	}
}

// Undo removes the snapshot if Create made it.
func (o *Order) Undo() error {
	return remove(o.Origin.VG, o.Name, "vg_uuid="+o.Origin.VGUUID+" && lv_name="+o.Name, o.tags[0])
}

// ChangeTag gives a volume that carries tag another one in place of from, in one step.
func ChangeTag(v *Volume, tag, from, to string) error {
	which := "lv_uuid=" + v.UUID
	err := lvmCommand("lvchange", "--deltag", from, "--addtag", to, "--select", which+" && lv_tags={"+tag+"}", v.VG)
	if err != nil {
		return exit.Fail(exit.IOError, "cannot change the tags of %s: %w", v, err)
	}
	// An lvchange that finds nothing to change is content.
	rows, failed, err := report("lv_uuid,lv_tags", "lvs", "--all", "--select", which, v.VG)
	if err != nil || len(rows) != 1 || !slices.Contains(strings.Split(rows[0]["lv_tags"], ","), to) {
		return exit.Fail(exit.IOError, "cannot tell whether the tags of %s were changed: %w", v,
			errors.Join(err, failed, errors.New("LVM does not show them")))
	}
	return nil
}

// Remove removes a volume that carries tag. For half a minute it tries again
// while the volume is open, for udev looks into every volume that somebody has
// just closed; after that the status is Busy.
func Remove(v *Volume, tag string) error { return remove(v.VG, v.Name, "lv_uuid="+v.UUID, tag) }

// remove removes the volume that which selects, if it carries tag.
func remove(vg, name, which, tag string) error {
	return removeIf(vg, name, which, " && lv_tags={"+tag+"}", "it no longer has the tag "+tag)
}

// removeIf removes the volume that which selects, if a further condition selects it, too; why is why it does not.
func removeIf(vg, name, which, condition, why string) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) {
		// LVM itself is made to look at volume and tag once more, under its own lock.
		err := lvmCommand("lvremove", "--select", which+condition, vg)
		switch {
		case err == nil:
			return gone(vg, name, which, why)
		case !inUse().MatchString(err.Error()):
			return exit.Fail(exit.IOError, "cannot remove %s/%s: %w", vg, name, err)
		case time.Now().After(deadline):
			return exit.Fail(exit.Busy, "cannot remove %s/%s: somebody has it open: %w", vg, name, err)
		}
		// What udev began it should finish first; where there is no udev, that fails.
		program.Run(5*time.Second, nil, "udevadm", "settle", "--timeout=4")
	}
}

// gone asks LVM whether a volume is removed. An lvremove that finds nothing to remove is
// content, and a volume without a device may just be inactive.
func gone(vg, name, which, why string) error {
	rows, failed, err := report("lv_uuid", "lvs", "--all", "--select", which, vg)
	switch {
	case err == nil && len(rows) > 0:
		return exit.Fail(exit.IOError, "cannot remove %s/%s: %s", vg, name, why)
	case err != nil || failed != nil:
		return exit.Fail(exit.IOError, "cannot tell whether %s/%s is removed: %w", vg, name, errors.Join(err, failed))
	}
	// Where there is no udev, LVM forgets the link of a volume that was given up.
	link := "/dev/" + vg + "/" + name
	if _, err := os.Stat(link); errors.Is(err, fs.ErrNotExist) {
		os.Remove(link)
	}
	return nil
}

var inUse = text.Pattern(`in use|[Uu]sed by another|open logical volume|[Bb]usy`)
