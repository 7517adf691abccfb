package blockdev

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// A snapshot is given up where a guest would else find no room. What does so takes
// the content away in one step, which is the mark as well, so that no reader can find
// the one without the other:
//
//   - a file is made empty. No snapshot is empty before: of an empty file none is taken.
//   - a thin volume has its table replaced by one that only answers with errors. LVM
//     gives no thin volume such a table.

// FileSnapshot matches the names of the files that are snapshots.
var FileSnapshot = regexp.MustCompile(`^\..+\.xb-snap-[a-z2-7]{8}$`)

// volumeSnapshot matches the device-mapper names of the logical volumes that are
// snapshots: VG-LV, hyphens of either part doubled.
var volumeSnapshot = regexp.MustCompile(`-xb--.+--[a-z2-7]{8}$`)

// VolumeSnapshots returns the device-mapper names of all active volumes that look like
// our snapshots. It costs little and takes no lock.
func VolumeSnapshots() []string {
	var found []string
	paths, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, path := range paths {
		if name := readLine(path); volumeSnapshot.MatchString(name) {
			found = append(found, name)
		}
	}
	return found
}

// GivenUp tells whether the device is a snapshot whose content was taken away.
func (d *DM) GivenUp() bool {
	return d.IsLV() && volumeSnapshot.MatchString(d.Name) && len(d.Targets) == 1 && d.Targets[0].Type == "error"
}

// GivenUp is the error for a snapshot that was given up.
func GivenUp(path string) error {
	return exit.Fail(exit.BadSnapshot, "snapshot %s given up: the guest needs the room; "+
		"its file system or pool would have been full", path)
}

// emptied tells whether a regular file is a snapshot that was given up.
func (f *File) emptied() (bool, error) {
	info, err := f.f.Stat()
	if err != nil || info.Size() > 0 {
		return false, err
	}
	// Whatever it was opened by: the kernel knows its name.
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.f.Fd())))
	return FileSnapshot.MatchString(filepath.Base(strings.TrimSuffix(name, " (deleted)"))), err
}

// Empty takes all content from a file at once, whoever has it open, and waits until
// its file system may give the room to others.
func Empty(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return pathError("empty", f.Name(), err)
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil || fs.Type != unix.BTRFS_SUPER_MAGIC {
		return nil
	}
	// btrfs lets go of it with the next transaction. (fsync and syncfs would wait for
	// more: for what the guests have written.)
	const startSync, waitSync = 2<<30 | 8<<16 | 0x94<<8 | 24, 1<<30 | 8<<16 | 0x94<<8 | 22 // linux/btrfs.h
	var transaction uint64
	for _, request := range []uintptr{startSync, waitSync} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&transaction)))
		if errno != 0 {
			return pathError("wait for the file system of", f.Name(), errno)
		}
	}
	return nil
}

// IsOpen tells whether another process has a file open, or anybody a device.
func IsOpen(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if isBlock(info) {
		d, err := DeviceMapper(info.Sys().(*syscall.Stat_t).Rdev)
		return d != nil && d.OpenCount > 0, err
	}
	h := &thisHost
	t, err := h.target(info)
	if err != nil {
		return false, err
	}
	pids, err := h.pids()
	self := strconv.Itoa(os.Getpid())
	for _, pid := range pids {
		if n, _ := h.opens(pid, t); n > 0 && pid != self {
			return true, nil
		}
	}
	return false, err
}
