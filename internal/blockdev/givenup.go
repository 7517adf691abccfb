// A snapshot that was given up has no content left, so that no reader can take it for whole.

package blockdev

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// A snapshot is given up where a guest would else find no room. What does so takes the content away in one step,
// which is the mark as well, so that no reader can find the one without the other:
//
//   - a file is made empty. No snapshot is empty before: of an empty file none is taken.
//   - a thin volume has its table replaced by one that only answers with errors. LVM
//     gives no thin volume such a table.

// FileSnapshot matches the names of the files that are snapshots.
var FileSnapshot = text.Pattern(`^\..+\.xb-snap-[a-z2-7]{8}$`)

// GivenUp is the error for a snapshot that was given up.
func GivenUp(path string) error {
	return exit.Fail(exit.BadSnapshot, "snapshot %s given up: the guest needs the room; "+
		"its file system or pool would have been full", path)
}

// emptied reports whether a regular file is a snapshot that was given up.
func (f *File) emptied() (bool, error) {
	info, err := f.f.Stat()
	if err != nil || info.Size() > 0 {
		return false, err
	}
	// Whatever it was opened by: the kernel knows its name.
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.f.Fd())))
	return FileSnapshot().MatchString(filepath.Base(strings.TrimSuffix(name, " (deleted)"))), err
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
	const (
		startSync = 2<<30 | 8<<16 | 0x94<<8 | 24 // BTRFS_IOC_START_SYNC, include/uapi/linux/btrfs.h
		waitSync  = 1<<30 | 8<<16 | 0x94<<8 | 22 // BTRFS_IOC_WAIT_SYNC
	)
	var transaction uint64
	for _, request := range []uint{startSync, waitSync} {
		if err := dm.Ioctl(f, request, &transaction); err != nil {
			return pathError("wait for the file system of", f.Name(), err)
		}
	}
	return nil
}
