// The block layer: mounts of any namespace, swap, and devices made of the target or beside it.

package inuse

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
)

// mounts looks into every mount namespace: a container's or a service's mounts are not in ours.
func (h *host) mounts(t *target) ([]string, error) {
	if t.rdev == 0 {
		return nil, nil // mounted through a loop device only: see loops
	}
	own, err := os.ReadFile(h.proc + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	users := mountsIn(t, string(own))
	pids, err := h.pids()
	if err != nil {
		return nil, err
	}
	ns, _ := os.Readlink(h.proc + "/self/ns/mnt")
	seen := map[string]bool{ns: true}
	for _, pid := range pids {
		ns, err := os.Readlink(h.proc + "/" + pid + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		if info, err := os.ReadFile(h.proc + "/" + pid + "/mountinfo"); err == nil {
			seen[ns] = true
			users = append(users, mountsIn(t, string(info))...)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// mountsIn returns the mounts of the target that a mountinfo has.
func mountsIn(t *target, mountinfo string) (users []string) {
	for _, m := range ParseMountinfo(mountinfo) {
		rdev, err := dm.ParseMajorMinor(m.Number, 10)
		prefix, found := t.devices[rdev]
		if err == nil && (found || strings.HasPrefix(m.Number, "0:") && t.isPath(m.Source)) {
			users = append(users, prefix+"mounted on "+m.Point)
		}
	}
	return users
}

// btrfs finds the further devices of a mounted file system over several; a mountinfo names one of them.
func (h *host) btrfs(t *target) (users []string, err error) {
	devices, err := filepath.Glob(h.sys + "/fs/btrfs/*/devices/*/dev")
	for _, file := range devices {
		rdev, err := dm.ParseMajorMinor(dm.ReadLine(file), 10)
		if prefix, found := t.devices[rdev]; err == nil && found {
			fs := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(file))))
			users = append(users, prefix+"part of the mounted btrfs "+fs)
		}
	}
	return users, err
}

// swaps reads /proc/swaps: a line of headings, then lines that begin with a path.
func (h *host) swaps(t *target) ([]string, error) {
	text, err := os.ReadFile(h.proc + "/swaps")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	var users []string
	for line := range strings.Lines(string(text)) {
		path, _, _ := strings.Cut(line, " ")
		if path = unescape(path); t.isPath(path) {
			users = append(users, "swap on "+path)
		}
	}
	return users, err
}

// holders are the devices made of the target: dm, md, bcache, DRBD.
func (h *host) holders(t *target) (users []string, err error) {
	for rdev, prefix := range t.devices {
		dir := h.sys + "/dev/block/" + dm.MajorMinor(rdev) + "/holders"
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			user := prefix + "held by " + e.Name()
			if name := dm.ReadLine(dir + "/" + e.Name() + "/dm/name"); name != "" {
				user += " (" + name + ")"
			}
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users, nil
}

// loops are the loop devices over the target, or beside it over the same part of a file. The kernel is asked which
// file that is; the path in sysfs serves only where the device's node is missing.
func (h *host) loops(t *target) (users []string, err error) {
	bound, err := filepath.Glob(h.sys + "/block/loop*/loop/backing_file")
	for _, file := range bound {
		device := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		user := "backs " + device
		info, err := dm.LoopInfo(device)
		switch {
		case err != nil:
			if !t.isPath(dm.ReadLine(file)) {
				continue
			}
		case t.isDevice(info.Rdevice):
		case t.isFile(info.Device, info.Inode) && t.loop.shares(newLoop(filepath.Base(device), info)):
			if t.loop != nil {
				user = "its file backs " + device
			}
		default:
			continue
		}
		users = append(users, user)
	}
	return users, err
}

// loop is a loop device's part of its file, from one byte to before another.
type loop struct {
	name     string // loop0
	from, to uint64
}

func newLoop(name string, info *unix.LoopInfo64) *loop {
	l := &loop{name, info.Offset, math.MaxUint64}
	if info.Sizelimit > 0 {
		l.to = info.Offset + info.Sizelimit
	}
	return l
}

// shares reports whether another loop device of the same file has bytes of l; nil is all of the file.
func (l *loop) shares(o *loop) bool {
	return l == nil || l.name != o.name && l.from < o.to && o.from < l.to
}
