// Table and status of a device are of one moment. An answer of the kernel that is cut or unlike what its header says
// is an error.

package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ioctl makes a request of the kernel that x/sys/unix has no function for. T is laid out as the request demands; the
// caller names the kernel's header. The error is a unix.Errno.
func Ioctl[T any](f *os.File, request uint, arg *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

// The interface of /dev/mapper/control: include/uapi/linux/dm-ioctl.h. Integers have the machine's byte order.
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
	control = "/dev/mapper/control"

	headerSize = int(unsafe.Sizeof(dmIoctl{}))
	specSize   = 40 // dm_target_spec: start u64, length u64, status s32, next u32, type [16]

	tableStatus = 3<<30 | uint(headerSize)<<16 | 0xfd<<8 | 12 // DM_TABLE_STATUS: _IOWR(0xfd, 12, struct dm_ioctl)

	flagReadOnly    = 1 << 0
	flagStatusTable = 1 << 4 // the table in place of the status
	flagBufferFull  = 1 << 8
	flagNoFlush     = 1 << 11 // a query must not make a thin pool write

	maxBuffer = 16 << 20 // a table of some 100,000 targets
)

// ask joins table and status. They are two questions, between which LVM may have loaded another table: then
// both are asked again.
func ask(rdev uint64) (*Device, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for range 10 {
		d, err := askOnce(f, rdev, 0)
		if err != nil {
			return nil, err
		}
		table, err := askOnce(f, rdev, flagStatusTable)
		if err != nil {
			return nil, err
		}
		if d.takeParams(table.Targets) {
			return d, nil
		}
	}
	return nil, errors.New("its table keeps changing")
}

// takeParams moves the texts of table, of which askOnce knew no better than that they are the status, to d's
// targets. It reports whether both are of the same table.
func (d *Device) takeParams(table []Target) bool {
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

// askOnce asks with a larger buffer as long as the answer doesn't fit.
func askOnce(f *os.File, rdev uint64, flags uint32) (*Device, error) {
	for size := 16 << 10; size <= maxBuffer; size *= 4 {
		buffer := make([]uint64, size/8) // for the header's alignment
		header := (*dmIoctl)(unsafe.Pointer(&buffer[0]))
		*header = dmIoctl{
			version:   [3]uint32{4, 0, 0},
			dataSize:  uint32(size),
			dataStart: uint32(headerSize),
			flags:     flags | flagNoFlush,
			dev:       rdev,
		}
		if err := Ioctl(f, tableStatus, header); err != nil {
			return nil, err
		}
		if header.flags&flagBufferFull != 0 {
			continue
		}
		answer := unsafe.Slice((*byte)(unsafe.Pointer(header)), size)
		targets, err := parseTargets(answer[min(int(header.dataStart), size):], header.targetCount)
		return &Device{
			Name:      cString(header.name[:]),
			UUID:      cString(header.uuid[:]),
			OpenCount: int(header.openCount),
			ReadOnly:  header.flags&flagReadOnly != 0,
			Targets:   targets,
		}, err
	}
	return nil, fmt.Errorf("its table is longer than %d bytes", maxBuffer)
}

// parseTargets reads count dm_target_specs, each followed by its text. A spec's next is the offset of the
// following one from the start of data.
func parseTargets(data []byte, count uint32) ([]Target, error) {
	var targets []Target
	next := 0
	for range count {
		if next < 0 || next > len(data)-specSize {
			return nil, errors.New("bad answer")
		}
		spec := data[next:]
		targets = append(targets, Target{
			Start:  binary.NativeEndian.Uint64(spec),
			Length: binary.NativeEndian.Uint64(spec[8:]),
			Type:   cString(spec[24:specSize]),
			Status: strings.TrimRight(cString(spec[specSize:]), " "),
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
