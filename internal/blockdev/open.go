// What is opened is the block device or regular file that was looked at before, or it is an error. Nothing is
// created: where a device is missing, no file appears in its place. A device that is opened for writing is ours
// alone, as far as the kernel knows of the others.

package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Open opens a device or file for reading. A path that doesn't exist or is neither of the two has status NoInput.
func Open(path string) (*File, error) { return open(path, os.O_RDONLY) }

// OpenWrite opens a device or file for reading and writing; nothing is created. A block device is opened exclusively
// (O_EXCL, see open(2)): that keeps mounts, swap, device-mapper and other writers of this kind away. It does not keep
// a DomU from starting; inuse.Check looks for those.
func OpenWrite(path string) (*File, error) { return open(path, os.O_RDWR) }

// Check fails unless path is a block device or regular file that Open would take.
func Check(path string) error {
	_, err := check(path)
	return err
}

func check(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && dm.Exists(path):
		to, _ := os.Readlink(path)
		return nil, exit.Fail(exit.NoInput, "%s is a link to %s, where no device or file is", path, to)
	case err != nil:
		return nil, openError(path, err)
	case isBlock(info):
		return info, nil
	case !info.Mode().IsRegular():
		return nil, exit.Fail(exit.NoInput, "%s is neither a block device nor a regular file", path)
	case BelowDev(path):
		return nil, exit.Fail(exit.NoInput, "%s is a regular file below /dev: "+
			"a device is missing there, and somebody wrote to its name", path)
	}
	return info, nil
}

func open(path string, mode int) (*File, error) {
	info, err := check(path)
	if err != nil {
		return nil, err
	}
	block := isBlock(info)
	if block {
		mode |= unix.O_DIRECT
		if mode&os.O_RDWR != 0 {
			mode |= unix.O_EXCL
		}
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	file := &File{f: f, path: path, block: block}
	err = file.measure(info)
	if err == nil && block && mode&os.O_RDWR != 0 {
		err = file.checkWritable()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if !block && mode&os.O_RDWR != 0 {
		if direct, err := file.reopen(os.O_WRONLY | unix.O_DIRECT); err == nil { // else the file system has none
			file.uncached = direct
		}
	}
	return file, nil
}

// measure finds out the size and, for O_DIRECT, the alignment. The file may have
// been replaced since info was taken: it must still be what it was.
func (f *File) measure(info os.FileInfo) error {
	now, err := f.f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, now) {
		return exit.Fail(exit.Busy, "%s was replaced while it was opened", f.path)
	}
	f.size = now.Size()
	if !f.block {
		return nil
	}
	var size uint64
	if err := dm.Ioctl(f.f, unix.BLKGETSIZE64, &size); err != nil {
		return fmt.Errorf("cannot get the size of %s: %w", f.path, err)
	}
	sector, err := unix.IoctlGetInt(int(f.f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("cannot get the sector size of %s: %w", f.path, err)
	}
	if sector > maxAlign { // blocks of 4 KiB would share sectors, and be written by several goroutines
		return exit.Fail(exit.Config, "%s has logical sectors of %d bytes: more than %d are not supported",
			f.path, sector, maxAlign)
	}
	f.size, f.align = int64(size), int64(sector)
	return nil
}

// reopen opens the same file, whatever its name is by now.
func (f *File) reopen(mode int) (*os.File, error) {
	fd, err := unix.Open(f.descriptor(), mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", f.path, err)
	}
	return os.NewFile(uintptr(fd), f.path), nil
}

// descriptor is a name of the open file that leads nowhere else.
func (f *File) descriptor() string { return fmt.Sprintf("/proc/self/fd/%d", f.f.Fd()) }

// CheckSize fails unless a regular file still has the size that it had when it was
// opened or last truncated: else somebody writes to it (status NotBasis).
func (f *File) CheckSize() error {
	info, err := f.f.Stat()
	if err == nil && !f.block && info.Size() != f.size {
		return exit.Fail(exit.NotBasis, "%s was changed meanwhile: it has %d bytes now, and had %d",
			f.path, info.Size(), f.size)
	}
	return err
}

// CheckWritable fails unless a file that is open for reading could be opened for
// writing. It does not open it so: udev looks at every device that was.
func (f *File) CheckWritable() error {
	if f.block {
		return f.checkWritable()
	}
	if err := unix.Access(f.path, unix.W_OK); err != nil {
		return openError(f.path, err)
	}
	return nil
}

// checkWritable refuses a read-only device, which can be opened for writing all the same.
func (f *File) checkWritable() error {
	readOnly, err := unix.IoctlGetInt(int(f.f.Fd()), unix.BLKROGET)
	if err == nil && readOnly != 0 {
		return exit.Fail(exit.IOError, "%s is read-only", f.path)
	}
	return err
}

// Size returns the size of the device or file path in bytes, without opening it.
func Size(path string) (int64, error) {
	info, err := check(path)
	if err != nil {
		return 0, err
	}
	if !isBlock(info) {
		return info.Size(), nil
	}
	stat := info.Sys().(*syscall.Stat_t)
	text, err := os.ReadFile(dm.SysDir(stat.Rdev) + "/size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return sectors * 512, err // of 512 bytes, whatever the device's are
}

// Modified returns when a regular file was last written to.
func Modified(path string) (time.Time, error) {
	info, err := check(path)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func isBlock(info os.FileInfo) bool { return info.Mode()&os.ModeType == os.ModeDevice }

// BelowDev reports whether a path, with its links resolved, is below /dev but not in
// /dev/shm, which is a file system for files. The file need not exist.
func BelowDev(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	path, err := filepath.Abs(path)
	return err == nil && strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return exit.Fail(exit.NoInput, "%s: no such device or file%s", path, missingDirectory(path))
	case errors.Is(err, unix.EBUSY):
		return exit.Fail(exit.Busy, "%s is in use: the kernel refuses to open it exclusively", path)
	}
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return exit.Fail(exit.IOError, "cannot open %s: %w", path, err)
}

// missingDirectory says in words which directory is missing on the way to a file, and how
// to make it; "" if that is not what is wrong. Below /dev a directory comes with its devices.
func missingDirectory(path string) string {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil || strings.HasPrefix(dir+"/", "/dev/") {
		return ""
	}
	for i, c := range dir + "/" {
		if c != '/' || i == 0 {
			continue
		}
		if _, err := os.Stat(dir[:i]); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if target, err := os.Readlink(dir[:i]); err == nil {
			wanted := filepath.Join(absolute(target, filepath.Dir(dir[:i])), dir[i:])
			return fmt.Sprintf(": %s is a link to %s, which does not exist; is its file system mounted? else: mkdir -p %s",
				dir[:i], target, wanted)
		}
		return fmt.Sprintf(": there is no directory %s; is its file system mounted? else: mkdir -p %s", dir[:i], dir)
	}
	return ""
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
