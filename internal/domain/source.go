package domain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Source is what a disk's path stands for on this host.
type Source struct {
	Path   string // stable name: /dev/VG/LV for a logical volume, else the path as given
	exists bool   // as a block device or regular file
	volume string // of a logical volume: what device-mapper knows it by
}

// Resolver finds out what paths stand for.
type Resolver struct {
	Sys string // where sysfs is: /sys
	Dev string // where device nodes are: /dev
}

const drbdMajor = 147 // Documentation/admin-guide/devices.txt

// Resolve returns what path stands for. An error says why it is nothing that can
// be copied; isMissing tells of one that only says that it is not there. Then
// Path is the path as given.
func (r Resolver) Resolve(path string) (Source, error) {
	path = filepath.Clean(path)
	s := Source{Path: path}
	info, err := os.Stat(path)
	if err != nil {
		if err := r.refuse(path); err != nil {
			return s, err
		}
		return s, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		s.exists = true
		return s, nil
	case mode.Type() != fs.ModeDevice: // a block device has no ModeCharDevice
		return s, fmt.Errorf("%s is neither a block device nor a regular file", path)
	}
	s.exists = true
	rdev := info.Sys().(*syscall.Stat_t).Rdev
	if dm.Major(rdev) == drbdMajor {
		return s, fmt.Errorf("%s is a DRBD device: nothing may be written below DRBD", path)
	}
	if err := r.nameDM(&s, rdev); err != nil {
		return s, err
	}
	return s, r.refuse(s.Path)
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrPermission)
}

// nameDM gives s, if it is a device-mapper device, the name that is the same after a reboot
// and on another host, which neither /dev/dm-N nor by-id are.
func (r Resolver) nameDM(s *Source, rdev uint64) error {
	dir := r.Sys + "/dev/block/" + dm.MajorMinor(rdev) + "/dm/"
	name, err := os.ReadFile(dir + "name")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	uuid, err2 := os.ReadFile(dir + "uuid")
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("%s: cannot tell which device it is: %w", s.Path, err)
	}
	dmName, dmUUID := string(bytes.TrimSpace(name)), string(bytes.TrimSpace(uuid))
	candidates := []string{filepath.Join(r.Dev, "mapper", dmName)}
	if dm.IsLVM(dmUUID) {
		vg, lv, ok := dm.SplitName(dmName)
		if !ok || dm.IsHidden(dmUUID) {
			return fmt.Errorf("%s is a hidden device of LVM (%s)", s.Path, dmName)
		}
		s.volume = dmUUID
		candidates = append([]string{filepath.Join(r.Dev, vg, lv)}, candidates...)
	}
	for _, path := range candidates {
		// The link may be missing, or stale after a VG of that name moved here.
		info, err := os.Stat(path)
		if err == nil && info.Mode().Type() == fs.ModeDevice && info.Sys().(*syscall.Stat_t).Rdev == rdev {
			s.Path = path
			return nil
		}
	}
	return nil
}

// refuse returns an error for volumes whose content is not what a guest sees, by
// the name alone, so that it works for volumes of another host too.
func (r Resolver) refuse(path string) error {
	rest, ok := strings.CutPrefix(path, r.Dev+"/")
	if !ok {
		return nil
	}
	vg, lv, _ := strings.Cut(rest, "/")
	if vg == "mapper" {
		if vg, lv, ok = dm.SplitName(lv); !ok {
			return nil
		}
	}
	if why := dm.NotAnImage(vg, lv); why != "" {
		return fmt.Errorf("%s %s", path, why)
	}
	return nil
}

// checkFormat returns why an image of this format needs other files. Of a raw one QEMU takes every byte for the guest's,
// whatever they look like.
func checkFormat(d Disk, s Source) error {
	switch d.Format {
	case "", "raw", "aio":
		return nil
	case "qcow2":
		switch {
		case s.exists:
			return checkQcow2(s.Path, d.Standalone)
		case !d.Standalone:
			return fmt.Errorf("%s: cannot tell whether the qcow2 image has a backing file", s.Path)
		}
		return nil
	}
	return fmt.Errorf("%s is an image of format %s, which may need other files", s.Path, d.Format)
}

// checkQcow2 returns why an image is not whole in itself.
func checkQcow2(path string, standalone bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var head [qcow2Head]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || !isQcow2(head[:]) {
		return fmt.Errorf("%s is no qcow2 image although the domain says so", path)
	}
	if other := qcow2Needs(head[:], standalone); other != "" {
		return fmt.Errorf("%s is a qcow2 image %s: it alone is not the disk", path, other)
	}
	return nil
}

// The head of a qcow2 image, QEMU's docs/interop/qcow2.txt: magic, version, offset of the backing file's name; in version
// 3 at 72 the incompatible features, bit 2 of which is an external data file; all big-endian.
const qcow2Head = 80

func isQcow2(head []byte) bool {
	return len(head) >= qcow2Head && string(head[:4]) == "QFI\xfb"
}

// qcow2Needs says what other file an image needs, "" if none. A backing file that the domain is known not to use
// (standalone) does not count.
func qcow2Needs(head []byte, standalone bool) string {
	version := binary.BigEndian.Uint32(head[4:])
	switch {
	case version >= 3 && binary.BigEndian.Uint64(head[72:])&(1<<2) != 0:
		return "whose data is in another file"
	case !standalone && binary.BigEndian.Uint64(head[8:]) != 0:
		return "with a backing store"
	}
	return ""
}

// CheckImages returns why a domain must not be started from images as disks of a document, by their targets: QEMU would
// open other files of this host, which another host, or a guest there, has chosen by what it sent.
func CheckImages(document []byte, images map[string]string) error {
	doc, err := readDocument(bytes.NewReader(document))
	if err != nil {
		return badDocument("the document", err)
	}
	for _, disk := range doc.Domain.Disks {
		image, ok := images[disk.Target]
		if !ok {
			continue
		}
		if err := checkFormat(disk, Source{Path: image, exists: true}); err != nil {
			return exit.Fail(exit.Config, "%s/%s: QEMU may open other files of this host for it: %w", doc.Domain.Name, disk.Target, err)
		}
	}
	return nil
}
