package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"xen-backup/internal/exit"
)

// DM is what the kernel's device-mapper says of one of its devices.
type DM struct {
	Name      string // as in /dev/mapper: "vg-lv", hyphens of either part doubled
	UUID      string // "LVM-" and 64 characters for a logical volume; may be empty
	OpenCount int    // opens by anybody: processes, mounts, other dm devices, blkback
	ReadOnly  bool
	Targets   []DMTarget
}

// DMTarget is one line of a device's table.
type DMTarget struct {
	Start, Length uint64 // in sectors of 512 bytes
	Type          string // "linear", "snapshot", "thin", ...
	Params        string // as `dmsetup table` prints them
	Status        string // as `dmsetup status` prints it
}

const dmControl = "/dev/mapper/control"

// DeviceMapper returns what device-mapper says of the device rdev (a stat's
// st_rdev), and nil if it is none of its devices. It fails with status
// Unavailable if device-mapper can't be asked: that is never "nobody has it open".
func DeviceMapper(rdev uint64) (*DM, error) {
	dir := "/sys/dev/block/" + majorMinor(rdev)
	if _, err := os.Stat(dir + "/dm"); errors.Is(err, os.ErrNotExist) && exists(dir) {
		return nil, nil
	} else if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot tell what device %s is: %w", majorMinor(rdev), err)
	}
	d, err := queryDM(rdev)
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot ask device-mapper about device %s: %w", majorMinor(rdev), err)
	}
	return d, nil
}

// IsLV tells whether the device is LVM's: a logical volume or a hidden part of one.
func (d *DM) IsLV() bool { return strings.HasPrefix(d.UUID, "LVM-") }

// Snapshot tells whether the device is a dm-snapshot, and if so whether its
// content still is that of the origin at its creation. The status of a valid one
// is "USED/TOTAL METADATA"; one that cannot be trusted has a word in its place:
// "Invalid", "Overflow", "Merge failed" (drivers/md/dm-snap.c, snapshot_status).
func (d *DM) Snapshot() (is, valid bool) {
	for _, t := range d.Targets {
		if t.Type == "snapshot" {
			return true, t.Status != "" && '0' <= t.Status[0] && t.Status[0] <= '9'
		}
	}
	return false, false
}

// Thin tells whether the device is a thin volume.
func (d *DM) Thin() bool { return len(d.Targets) > 0 && d.Targets[0].Type == "thin" }

// majorMinor formats a device number as sysfs and xenstore's readers do. The
// kernel's numbers have 12 bits of major and 20 of minor (linux/kdev_t.h).
func majorMinor(rdev uint64) string {
	return fmt.Sprintf("%d:%d", rdev>>8&0xfff, rdev&0xff|rdev>>12&0xfff00)
}

// The interface of /dev/mapper/control: include/uapi/linux/dm-ioctl.h. Integers
// have the machine's byte order.
type dmIoctl struct {
	version     [3]uint32
	dataSize    uint32 // of the whole buffer
	dataStart   uint32 // offset of the answer in it
	targetCount uint32
	openCount   int32
	flags       uint32
	eventNr     uint32
	_           uint32
	dev         uint64 // encoded as in st_rdev
	name        [128]byte
	uuid        [129]byte
	_           [7]byte
}

const (
	dmHeaderSize = int(unsafe.Sizeof(dmIoctl{}))
	dmSpecSize   = 40 // dm_target_spec: start u64, length u64, status s32, next u32, type [16]

	dmTableStatus = 3<<30 | uintptr(dmHeaderSize)<<16 | 0xfd<<8 | 12 // _IOWR(0xfd, 12, struct dm_ioctl)

	dmReadOnly    = 1 << 0
	dmStatusTable = 1 << 4 // the table in place of the status
	dmBufferFull  = 1 << 8
	dmNoFlush     = 1 << 11 // a query must not make a thin pool write

	dmMaxBuffer = 16 << 20 // a table of some 100,000 targets
)

// queryDM joins table and status. They are two questions, between which LVM may
// have loaded another table: then both are asked again.
func queryDM(rdev uint64) (*DM, error) {
	control, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 10 {
		d, err := tableStatus(control, rdev, 0)
		if err != nil {
			return nil, err
		}
		table, err := tableStatus(control, rdev, dmStatusTable)
		if err != nil {
			return nil, err
		}
		if d.takeParams(table.Targets) {
			return d, nil
		}
	}
	return nil, errors.New("its table keeps changing")
}

// takeParams moves the texts of table, of which tableStatus knew no better than
// that they are the status, to d's targets. It reports whether both are of the
// same table.
func (d *DM) takeParams(table []DMTarget) bool {
	if len(table) != len(d.Targets) {
		return false
	}
	for i, t := range table {
		target := &d.Targets[i]
		if t.Start != target.Start || t.Length != target.Length || t.Type != target.Type {
			return false
		}
		target.Params = t.Status
	}
	return true
}

// tableStatus asks once, with a larger buffer as long as the answer doesn't fit.
func tableStatus(control *os.File, rdev uint64, flags uint32) (*DM, error) {
	for size := 16 << 10; size <= dmMaxBuffer; size *= 4 {
		buffer := make([]uint64, size/8) // for the header's alignment
		header := (*dmIoctl)(unsafe.Pointer(&buffer[0]))
		*header = dmIoctl{
			version:   [3]uint32{4, 0, 0},
			dataSize:  uint32(size),
			dataStart: uint32(dmHeaderSize),
			flags:     flags | dmNoFlush,
			dev:       rdev,
		}
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, control.Fd(), dmTableStatus, uintptr(unsafe.Pointer(header)))
		if errno != 0 {
			return nil, errno
		}
		if header.flags&dmBufferFull != 0 {
			continue
		}
		answer := unsafe.Slice((*byte)(unsafe.Pointer(header)), size)
		targets, err := parseTargets(answer[min(int(header.dataStart), size):], header.targetCount)
		return &DM{
			Name:      cString(header.name[:]),
			UUID:      cString(header.uuid[:]),
			OpenCount: int(header.openCount),
			ReadOnly:  header.flags&dmReadOnly != 0,
			Targets:   targets,
		}, err
	}
	return nil, fmt.Errorf("its table is longer than %d bytes", dmMaxBuffer)
}

// parseTargets reads count dm_target_specs, each followed by its text. A spec's
// next is the offset of the following one from the start of data.
func parseTargets(data []byte, count uint32) ([]DMTarget, error) {
	var targets []DMTarget
	next := 0
	for range count {
		if next < 0 || next > len(data)-dmSpecSize {
			return nil, errors.New("bad answer")
		}
		spec := data[next:]
		targets = append(targets, DMTarget{
			Start:  binary.NativeEndian.Uint64(spec),
			Length: binary.NativeEndian.Uint64(spec[8:]),
			Type:   cString(spec[24:dmSpecSize]),
			Status: strings.TrimRight(cString(spec[dmSpecSize:]), " "),
		})
		next = int(binary.NativeEndian.Uint32(spec[20:]))
	}
	return targets, nil
}

// cString returns what stands before the first NUL.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
