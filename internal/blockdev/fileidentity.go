// A file is known again, and that nobody wrote to it, as long as its file system lives: across names, mounts and
// reboots.

package blockdev

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
)

// FileIdentity tells a file from all others that its file system has, had or will have, and what is in it from what
// was in it before or will be.
type FileIdentity struct {
	FileSystem string `json:"file_system"` // what the places of its bytes belong to
	Handle     string `json:"handle"`      // its subvolume, inode and generation, as the file system knows them
	Size       int64  `json:"size"`
	Modified   string `json:"modified"`
	Changed    string `json:"changed"` // root can set the other time, and write to a file of mode 0400, but not set this one
}

// IdentityOf returns the identity of a file, with which everything that is written to it from now on will be at odds.
// It is of files on XFS and btrfs; on others the error is errors.ErrUnsupported.
func IdentityOf(f *os.File) (id FileIdentity, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return id, pathError("look at", f.Name(), err)
	}
	waitForNextTick(&stat)
	id = FileIdentity{Size: stat.Size, Modified: stamp(stat.Mtim), Changed: stamp(stat.Ctim)}
	if id.FileSystem, err = fileSystemOf(f); err != nil {
		return id, pathError("identify the file system of", f.Name(), err)
	}
	id.Handle, err = HandleOf(f)
	return id, err
}

// HandleOf returns what a file's file system knows it by, whatever was written to it.
func HandleOf(f *os.File) (string, error) {
	handle, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return "", pathError("identify", f.Name(), err)
	}
	return fmt.Sprintf("%d:%s", handle.Type(), hex.EncodeToString(handle.Bytes())), nil
}

// FileName returns what a file is known by, whatever was written to it and whatever it is called: on its host it is of
// no other one. It is of files on XFS and btrfs; on others the error is errors.ErrUnsupported.
func FileName(f *os.File) (string, error) {
	system, err := fileSystemOf(f)
	if err != nil {
		return "", pathError("identify the file system of", f.Name(), err)
	}
	handle, err := HandleOf(f)
	return system + " " + handle, err
}

// SameFile reports whether both are of one file.
func (id FileIdentity) SameFile(other FileIdentity) bool {
	return id.FileSystem == other.FileSystem && id.Handle == other.Handle
}

// stamp returns a time in a form that can be compared.
func stamp(t unix.Timespec) string {
	return time.Unix(t.Unix()).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

// fileSystemOf returns a file system's type and UUID. XFS may have two devices, each with places of its own.
func fileSystemOf(f *os.File) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return "", err
	}
	switch fs.Type {
	case unix.BTRFS_SUPER_MAGIC:
		var info struct { // btrfs_ioctl_fs_info_args, include/uapi/linux/btrfs.h
			_    [2]uint64
			fsid [16]byte
			_    [992]byte
		}
		const fsInfo = 2<<30 | 1024<<16 | 0x94<<8 | 31 // BTRFS_IOC_FS_INFO
		err := dm.Ioctl(f, fsInfo, &info)
		return "btrfs " + uuid(info.fsid), err
	case unix.XFS_SUPER_MAGIC:
		var geometry struct { // xfs_fsop_geom_v1, libxfs/xfs_fs.h
			_    [8]uint32
			_    [4]uint64
			uuid [16]byte
			_    [8]uint32
		}
		const fsGeometry = 2<<30 | 112<<16 | 'X'<<8 | 100 // XFS_IOC_FSGEOMETRY_V1
		err := dm.Ioctl(f, fsGeometry, &geometry)
		device, attrErr := xfsDevice(f)
		return "xfs " + uuid(geometry.uuid) + device, errors.Join(err, attrErr)
	}
	return "", errors.ErrUnsupported
}

func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// xfsDevice names the device that has a file's data, "" for the usual one.
func xfsDevice(f *os.File) (string, error) {
	var attributes struct { // fsxattr, include/uapi/linux/fs.h
		flags uint32
		_     [6]uint32
	}
	const (
		getAttributes = 2<<30 | 28<<16 | 'X'<<8 | 31 // FS_IOC_FSGETXATTR
		realtime      = 1                            // FS_XFLAG_REALTIME
	)
	err := dm.Ioctl(f, getAttributes, &attributes)
	if attributes.flags&realtime != 0 {
		return " realtime", err
	}
	return "", err
}
