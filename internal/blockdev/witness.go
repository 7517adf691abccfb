package blockdev

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled waits until a later write must show in the times of a regular file:
// one in the same tick of the file system's clock as the last change does not. The
// tick is one of the kernel's timer (10 ms at most; since Linux 6.13 it matters no
// more), but 2 s where the file system keeps no fractions of seconds, as ext4 with
// inodes of 128 bytes. A time that lies ahead is none that a write now would leave.
func settled(stat *unix.Stat_t) {
	tick := 20 * time.Millisecond
	if stat.Ctim.Nsec == 0 {
		tick = 2 * time.Second
	}
	if age := time.Since(time.Unix(stat.Ctim.Unix())); age >= 0 && age < tick {
		time.Sleep(tick - age)
	}
}

// Witness returns a text that changes when somebody writes to the file: of a
// regular file its inode and times in this boot, of a device the kernel's count of
// sectors written and discarded since it booted (flushes are among its writes, but
// have no sectors), of a partition that of its disk too, of a loop device also the
// inode and times of the file below. It is "" where neither is to be had; then nothing is known. Writes still
// in the page cache are synced first, so that they count. The parameter is the size of the image in
// it: negative or the file's own size is all.
func (f *File) Witness(_ int64) string {
	if f.Sync() != nil {
		return ""
	}
	var stat unix.Stat_t
	if unix.Fstat(int(f.f.Fd()), &stat) != nil {
		return ""
	}
	// A crash may lose the new times of what was written just before it, and a
	// device's counters.
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	if !f.block {
		return "file " + strings.TrimSpace(string(boot)) + " " + fileWitness(&stat)
	}
	sys := "/sys/dev/block/" + majorMinor(stat.Rdev)
	parts := []string{"device", strings.TrimSpace(string(boot)), majorMinor(stat.Rdev), deviceWitness(sys)}
	disk := sys
	if _, err := os.Stat(sys + "/partition"); err == nil { // writes to its disk count only there
		disk = sys + "/.."
		parts = append(parts, deviceWitness(disk))
	}
	if path, err := os.ReadFile(disk + "/loop/backing_file"); err == nil { // writes below a loop device count nowhere
		if unix.Stat(strings.TrimSuffix(string(path), "\n"), &stat) != nil {
			return ""
		}
		parts = append(parts, fileWitness(&stat))
	}
	if slices.Contains(parts, "") {
		return ""
	}
	return strings.Join(parts, " ")
}

// fileWitness tells a state of a regular file from those before and after it.
func fileWitness(stat *unix.Stat_t) string {
	settled(stat)
	return fmt.Sprintf("%d:%d %d %d.%09d %d.%09d", stat.Dev, stat.Ino, stat.Size,
		stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec)
}

// deviceWitness is what the kernel counts of the device with this folder in sysfs;
// "" if it doesn't count.
func deviceWitness(sys string) string {
	for _, queue := range []string{"/queue", "/../queue"} { // of a device, of a partition
		if on, err := os.ReadFile(sys + queue + "/iostats"); err == nil && strings.TrimSpace(string(on)) == "0" {
			return "" // the counters stand still
		}
	}
	line, err := os.ReadFile(sys + "/stat")
	fields := strings.Fields(string(line)) // Documentation/block/stat.rst
	if err != nil || len(fields) < 15 {
		return ""
	}
	seq, _ := os.ReadFile(sys + "/diskseq") // tells a reused number apart, on kernels that have it
	return fmt.Sprintf("%s sectors written %s discarded %s", strings.TrimSpace(string(seq)), fields[6], fields[13])
}
