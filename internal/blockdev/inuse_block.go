package blockdev

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts looks into every mount namespace: a container's or a service's mounts
// are not in ours.
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

// mountsIn reads a mountinfo (proc(5)): "36 35 98:0 /root /mnt1 rw master:1 - ext3
// /dev/root rw". Where a file system has a device number of its own making, 0:N,
// as btrfs does, only the source tells the device.
func mountsIn(t *target, mountinfo string) (users []string) {
	for line := range strings.Lines(mountinfo) {
		mount, super, _ := strings.Cut(line, " - ")
		fields, source := strings.Fields(mount), strings.Fields(super)
		if len(fields) < 5 || len(source) < 2 {
			continue
		}
		rdev, err := parseMajorMinor(fields[2], 10)
		prefix, found := t.devices[rdev]
		if err == nil && (found || strings.HasPrefix(fields[2], "0:") && t.isPath(unescape(source[1]))) {
			users = append(users, prefix+"mounted on "+unescape(fields[4]))
		}
	}
	return users
}

// btrfs finds the further devices of a mounted file system over several; a
// mountinfo names one of them.
func (h *host) btrfs(t *target) (users []string, err error) {
	devices, err := filepath.Glob(h.sys + "/fs/btrfs/*/devices/*/dev")
	for _, file := range devices {
		rdev, err := parseMajorMinor(readLine(file), 10)
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
		dir := h.sys + "/dev/block/" + majorMinor(rdev) + "/holders"
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			user := prefix + "held by " + e.Name()
			if name := readLine(dir + "/" + e.Name() + "/dm/name"); name != "" {
				user += " (" + name + ")"
			}
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users, nil
}

// loops are the loop devices over the target, or beside it over the same part of a file. The kernel is asked which file
// that is; the path in sysfs is as seen by whoever set the loop device up, so it
// serves only where the device's node is missing.
func (h *host) loops(t *target) (users []string, err error) {
	bound, err := filepath.Glob(h.sys + "/block/loop*/loop/backing_file")
	for _, file := range bound {
		device := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		user := "backs " + device
		info, err := loopInfo(device)
		switch {
		case err != nil:
			if !t.isPath(readLine(file)) {
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

// shares tells whether another loop device of the same file has bytes of l; nil is all of
// the file.
func (l *loop) shares(o *loop) bool {
	return l == nil || l.name != o.name && l.from < o.to && o.from < l.to
}

func loopInfo(device string) (*unix.LoopInfo64, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.IoctlLoopGetStatus64(int(f.Fd()))
}

// unescape undoes the \040 of the kernel's tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
