// What users are looked for of: a device with all others that share its bytes, or a file.

package inuse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"xen-backup/internal/dm"
)

// target is the device or file whose users are looked for.
type target struct {
	rdev     uint64            // 0 for a regular file
	devices  map[uint64]string // rdev, its partitions, the disk it is a partition of; with a prefix for messages
	dev, ino uint64            // of a regular file, or of the one below a loop device
	loop     *loop             // what a loop device has of that file; nil for others
}

func (h *host) target(info os.FileInfo) (*target, error) {
	switch st := info.Sys().(*syscall.Stat_t); st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return &target{dev: st.Dev, ino: st.Ino}, nil
	case syscall.S_IFBLK:
		return h.device(st.Rdev)
	}
	return nil, fmt.Errorf("neither a block device nor a regular file")
}

// device finds out which other devices share rdev's bytes: a partition may be mounted while the disk looks unused,
// and the other way round.
func (h *host) device(rdev uint64) (*target, error) {
	t := &target{rdev: rdev, devices: map[uint64]string{rdev: ""}}
	dir := h.sys + "/dev/block/" + dm.MajorMinor(rdev)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	disk := dir
	for _, e := range entries {
		related, prefix := "/"+e.Name(), e.Name()+" "
		if e.Name() == "partition" { // which rdev itself is
			related, prefix = "/..", "the whole disk "
			disk = dir + "/.."
		} else if !dm.Exists(dir + related + "/partition") {
			continue
		}
		if number, err := dm.ParseMajorMinor(dm.ReadLine(dir+related+"/dev"), 10); err == nil {
			t.devices[number] = prefix
		} // else just removed
	}
	if dm.Exists(disk + "/loop/backing_file") {
		name, err := filepath.EvalSymlinks(disk)
		if err != nil {
			return nil, err
		}
		if info, err := dm.LoopInfo("/dev/" + filepath.Base(name)); err == nil {
			t.dev, t.ino, t.loop = info.Device, info.Inode, newLoop(filepath.Base(name), info)
		}
	}
	return t, nil
}

// is reports whether a stat is of the target.
func (t *target) is(st *syscall.Stat_t) bool {
	if st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		return t.isDevice(st.Rdev)
	}
	return t.isFile(st.Dev, st.Ino)
}

func (t *target) isDevice(rdev uint64) bool {
	_, ok := t.devices[rdev]
	return ok
}

func (t *target) isFile(dev, ino uint64) bool {
	return ino != 0 && dev == t.dev && ino == t.ino
}

// isPath reports whether path leads to the target; if it can't be followed it doesn't.
func (t *target) isPath(path string) bool {
	var st syscall.Stat_t
	return strings.HasPrefix(path, "/") && syscall.Stat(path, &st) == nil && t.is(&st)
}
