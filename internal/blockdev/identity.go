// A device is known again whatever its name is now, and another one that has taken its name or its number is never
// taken for it.

package blockdev

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Identity returns what a device is remembered by: the UUID of a device-mapper device, which stays when a logical
// volume is renamed and when the numbers of the /dev/dm-N are dealt anew, and the path without links of anything
// else. The file need not exist, only its directory.
func Identity(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		if uuid := dm.ReadLine(dm.SysDir(stat.Rdev) + "/dm/uuid"); uuid != "" {
			return uuid, nil
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", openError(filepath.Dir(path), err)
	}
	real := filepath.Join(dir, filepath.Base(path))
	target, err := filepath.EvalSymlinks(real)
	switch {
	case os.IsNotExist(err):
		return real, nil
	case err != nil:
		return "", openError(path, err)
	}
	return target, nil
}

// WhatIs tells the device or file that a path leads to now from others that it may lead to before or after.
func WhatIs(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", openError(path, err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		return dm.DiskName(stat.Rdev), nil
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino), nil
}

// Is reports whether path leads to the same file or device, whatever its name: a hard link, a file in a directory
// that is mounted twice, a second node of a device.
func (f *File) Is(path string) bool {
	var mine, other unix.Stat_t
	if unix.Fstat(int(f.f.Fd()), &mine) != nil || unix.Stat(path, &other) != nil {
		return false
	}
	if f.block {
		return other.Mode&unix.S_IFMT == unix.S_IFBLK && other.Rdev == mine.Rdev
	}
	return other.Dev == mine.Dev && other.Ino == mine.Ino
}

// CheckIdentity fails (status Busy) unless a device is the one that has this identity: the name by which that was found
// out may have led to another one. Of a file CheckName says so.
func (f *File) CheckIdentity(identity string) error {
	if !f.block {
		return nil
	}
	mine, err := Identity(f.descriptor())
	if err == nil && mine != identity {
		return exit.Fail(exit.Busy, "%s was replaced by another device while it was opened", f.path)
	}
	return err
}

// CheckName fails unless a regular file is still called path: it may have been removed (status NoInput) or replaced
// (Busy). An open device keeps its number whatever its names are.
func (f *File) CheckName(path string) error {
	if f.block {
		return nil
	}
	now, err := check(path)
	if err != nil {
		return err
	}
	info, err := f.f.Stat()
	if err == nil && !os.SameFile(info, now) {
		return exit.Fail(exit.Busy, "%s was replaced by another file meanwhile", f.path)
	}
	return err
}

// LiesOn reports whether the bytes of a loop device are those of the file path.
func (f *File) LiesOn(path string) bool {
	info, err := unix.IoctlLoopGetStatus64(int(f.f.Fd()))
	var file unix.Stat_t
	return err == nil && unix.Stat(path, &file) == nil && file.Mode&unix.S_IFMT == unix.S_IFREG &&
		info.Device == file.Dev && info.Inode == file.Ino
}
