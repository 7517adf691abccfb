// What the kernel counts of a device: who else writes shows in it, and that something goes on at all.

package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/inuse"
)

// Counters returns a function that says what the kernel has counted of the devices that hold these files or are these
// devices, as far as that can be known: the text changes whenever they have finished a write, anybody's. (LVM, udev
// and others read every device again and again.) What does not exist is to be made in its directory. A loop device's
// requests may be finished long before its file is synced: that one's device counts too. Devices below others do not:
// they serve more than this one, which may stand still meanwhile.
func Counters(paths ...string) func() string {
	var folders []string
	for _, path := range paths {
		folders = append(folders, devicesUnder(path)...)
	}
	return func() string {
		var text strings.Builder
		for _, folder := range folders {
			text.WriteString(finished(folder))
			text.WriteByte('\n')
		}
		return text.String()
	}
}

// devicesUnder returns the folders in sysfs of the devices whose requests a write to a path becomes.
func devicesUnder(path string) []string {
	var stat unix.Stat_t
	for unix.Stat(path, &stat) != nil {
		dir := filepath.Dir(path)
		if dir == path {
			return nil
		}
		path = dir
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		if folder := fileSystemDevice(path, stat.Dev); folder != "" {
			return []string{folder}
		}
		return nil
	}
	folder := dm.SysDir(stat.Rdev)
	file, err := os.ReadFile(folder + "/loop/backing_file")
	if err != nil {
		return []string{folder}
	}
	return append([]string{folder}, devicesUnder(strings.TrimSuffix(string(file), "\n"))...)
}

// fileSystemDevice returns the folder of the device that a file's file system is on; "" if it is on none, or if that
// can't be told. btrfs and others give their files the number of no device; then the mount names it.
func fileSystemDevice(path string, dev uint64) string {
	if folder := dm.SysDir(dev); dm.Exists(folder) {
		return folder
	}
	var file unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &file) != nil || file.Mask&unix.STATX_MNT_ID == 0 {
		return "" // before Linux 5.8
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for _, mount := range inuse.ParseMountinfo(string(mounts)) {
		var device unix.Stat_t
		if mount.ID == fmt.Sprint(file.Mnt_id) && unix.Stat(mount.Source, &device) == nil &&
			device.Mode&unix.S_IFMT == unix.S_IFBLK {
			return dm.SysDir(device.Rdev)
		}
	}
	return ""
}

// finished returns the counts of finished writes, discards and flushes and of their sectors
// (Documentation/block/stat.rst). Times are left out: they go on while a request hangs.
func finished(folder string) string {
	line, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return ""
	}
	var counts []string
	for i, field := range strings.Fields(string(line)) {
		switch i {
		case 4, 6, 11, 13, 15:
			counts = append(counts, field)
		}
	}
	return strings.Join(counts, " ")
}

// counters are what the kernel counts of a device.
type counters struct {
	seq                string // tells a reused number apart, on kernels that have it
	written, discarded int64  // sectors of 512 bytes
}

// String is "" for nil: nothing is known.
func (c *counters) String() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s sectors written %d discarded %d", c.seq, c.written, c.discarded)
}

func (c *counters) minus(o *counters) *counters {
	if c == nil || o == nil {
		return nil
	}
	return &counters{c.seq, c.written - o.written, c.discarded - o.discarded}
}

// countersOf returns those of the device with this folder in sysfs; nil if it doesn't count.
func countersOf(sys string) *counters {
	for _, queue := range []string{"/queue", "/../queue"} { // of a device, of a partition
		if dm.ReadLine(sys+queue+"/iostats") == "0" && !countsAnyway(sys) {
			return nil // the counters stand still
		}
	}
	fields := strings.Fields(dm.ReadLine(sys + "/stat")) // Documentation/block/stat.rst
	if len(fields) < 15 {
		return nil
	}
	c := &counters{seq: dm.ReadLine(sys + "/diskseq")}
	if _, err := fmt.Sscan(fields[6]+" "+fields[13], &c.written, &c.discarded); err != nil {
		return nil
	}
	return c
}

// countsAnyway reports whether a device of device-mapper counts though its queue/iostats is 0. In Linux 6.1 and
// before that is always so, and they count whatever it says; in newer kernels they go by it. Versions do not tell which
// one this is, where changes are backported, but a read does.
func countsAnyway(sys string) bool {
	rdev, err := dm.ParseMajorMinor(dm.ReadLine(sys+"/dev"), 10)
	if err != nil || !dm.Exists(sys+"/dm") {
		return false
	}
	f, err := Open("/dev/block/" + dm.MajorMinor(rdev))
	if err != nil {
		return false
	}
	defer f.Close()
	before := sectorsRead(rdev)
	_, err = f.ReadAt(Buffer(4096), 0)
	return f.Direct() && err == nil && sectorsRead(rdev) > before
}

// WrittenTo reports whether the kernel has counted a write to a device since that was made, as at each activation of a
// volume. Where it counts nothing, it has not.
func WrittenTo(rdev uint64) bool {
	c := countersOf(dm.SysDir(rdev))
	return c != nil && (c.written > 0 || c.discarded > 0)
}

// besidePartitions returns what was written to a disk, but not to one of its partitions:
// the disk counts those writes too, and what becomes of another partition does not matter
// to one. The numbers are in several files, which are read until they are of one moment.
func besidePartitions(disk string) *counters {
	disk, err := filepath.EvalSymlinks(disk)
	if err != nil {
		return nil
	}
	for range 1000 {
		c := countersOf(disk)
		partitions, err := filepath.Glob(disk + "/*/partition")
		if c == nil || err != nil {
			return nil
		}
		beside := c
		for _, p := range partitions {
			beside = beside.minus(countersOf(filepath.Dir(p)))
		}
		if again := countersOf(disk); again != nil && *again == *c {
			return beside
		}
	}
	return nil
}

// sectorsRead is the kernel's count of what was read from a device.
func sectorsRead(rdev uint64) (n int64) {
	if fields := strings.Fields(dm.ReadLine(dm.SysDir(rdev) + "/stat")); len(fields) > 2 {
		n, _ = strconv.ParseInt(fields[2], 10, 64)
	}
	return n
}
