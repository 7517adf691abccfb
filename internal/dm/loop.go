// The file below a loop device is the one that the kernel says, whatever now has the name that it had when the device
// was set up.

package dm

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LoopInfo asks the kernel what is below a loop device. It gives device and inode number, and no path.
func LoopInfo(device string) (*unix.LoopInfo64, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.IoctlLoopGetStatus64(int(f.Fd()))
}

// BackingFile returns the file or device below the loop device that has this folder in sysfs, and from which of its
// bytes on. The path is "" where it is not to be seen: that in sysfs is as seen by whoever set the device up, and may
// be another's in this mount namespace, or another's by now.
func BackingFile(sys string) (path string, stat unix.Stat_t, offset uint64) {
	device, err := filepath.EvalSymlinks(sys)
	path = ReadLine(sys + "/loop/backing_file")
	if err != nil || unix.Stat(path, &stat) != nil {
		return "", stat, 0
	}
	info, err := LoopInfo("/dev/" + filepath.Base(device))
	if err != nil || info.Device != stat.Dev || info.Inode != stat.Ino {
		return "", stat, 0
	}
	return path, stat, info.Offset
}
