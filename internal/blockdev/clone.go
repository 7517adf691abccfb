// A clone is the whole file as it was at one moment, or it is an error; it is never made by copying.

package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes the empty file dst share all of src's content, as it is at one moment: the file system writes back what
// is dirty and holds off writers meanwhile (ioctl_ficlone(2)). It fails with errors.ErrUnsupported where the file
// system can't, and with EXDEV where the two are not on the same one, or on different mounts of it. dst must be
// synced by the caller.
func Clone(dst, src *os.File) error {
	if err := copyNoCOW(dst, src); err != nil {
		return pathError("set attributes of", dst.Name(), err)
	}
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err == nil {
		return nil
	}
	// A process's limit shows as EFBIG or EINVAL.
	if info, statErr := src.Stat(); statErr == nil {
		if limit := checkFileLimit(info.Size()); limit != nil {
			return pathError("clone", src.Name(), limit)
		}
	}
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		return pathError("clone", src.Name(), fmt.Errorf("%w: %w", errors.ErrUnsupported, err))
	}
	return pathError("clone", src.Name(), err) // EOPNOTSUPP is errors.ErrUnsupported already
}

const noCOW = 0x00800000 // FS_NOCOW_FL, linux/fs.h

// copyNoCOW gives dst the no-copy-on-write attribute that src has or has not: btrfs clones only between equals
// (EINVAL), images often carry it, and a new file takes after its directory instead. It can be changed only while dst
// is empty. File systems without the attribute are left to FICLONE.
func copyNoCOW(dst, src *os.File) error {
	from, err := unix.IoctlGetUint32(int(src.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return nil
	}
	to, err := unix.IoctlGetUint32(int(dst.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || (from^to)&noCOW == 0 {
		return nil
	}
	return unix.IoctlSetPointerInt(int(dst.Fd()), unix.FS_IOC_SETFLAGS, int(to^noCOW))
}
