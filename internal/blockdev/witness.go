// Two witnesses that agree mean that nobody wrote to the image between them and that its bytes come from the same
// place. Where that can't be known, there is no witness.

package blockdev

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
)

// Witness returns a text that tells, by Untouched, whether the first size bytes may have become others since; a
// negative size, or one beyond the end, is all bytes. It is of a regular file its inode and times in this boot; of a
// device the kernel's count of sectors written and discarded since it booted (flushes are among its writes, but have
// no sectors), and what maps its bytes, because another table under it is no write; of a partition the same of its
// disk too; of a loop device also the witness of what is below. It is "" where any of it is not to be had; then
// nothing is known. Writes still in the page cache are synced first, so that they count.
func (f *File) Witness(size int64) string { return f.witness(&witness{size: size}) }

func (f *File) witness(w *witness) string {
	if f.Sync() != nil {
		return ""
	}
	var stat unix.Stat_t
	if unix.Fstat(int(f.f.Fd()), &stat) != nil {
		return ""
	}
	// A crash may lose the new times of what was written just before it, and a device's counters.
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	kind := "device"
	if !f.block {
		kind = "file"
	}
	w.parts = []string{kind, strings.TrimSpace(string(boot))}
	w.of(fmt.Sprintf("/proc/self/fd/%d", f.f.Fd()), &stat)
	return w.String()
}

// Untouched reports whether nothing has happened between two witnesses of a file: nothing was written, and its bytes
// still come from the same place. A snapshot taken meanwhile does not matter; one that is gone may have been merged
// into its origin, whose counters know nothing of that. (One that was taken, written to and merged while another one
// was there all the time leaves no trace at all.)
func Untouched(before, now string) bool {
	then, still := parseWitness(before), parseWitness(now)
	if before == "" || then.text != still.text {
		return false
	}
	for _, snapshot := range then.snapshots {
		if !slices.Contains(still.snapshots, snapshot) {
			return false
		}
	}
	for _, link := range then.links {
		place, _, _ := strings.Cut(link, "=")
		moved := func(l string) bool { return strings.HasPrefix(l, place+"=") && l != link }
		if slices.ContainsFunc(still.links, moved) {
			return false
		}
	}
	return true
}

// What is not simply compared follows the text of a witness.
const (
	snapshotsMark = " with snapshots "
	linksMark     = " over "
)

// parsedWitness is a witness taken apart.
type parsedWitness struct {
	text             string
	snapshots, links []string
}

func parseWitness(s string) parsedWitness {
	s, links, _ := strings.Cut(s, linksMark)
	text, snapshots, _ := strings.Cut(s, snapshotsMark)
	return parsedWitness{text, strings.Fields(snapshots), strings.Fields(links)}
}

// Changed reports whether the image has become another one between two witnesses; known is
// false where that can't be told: a crash may lose the times of what was written before it,
// a device counts anew after a boot, and a snapshot that is gone may have been merged.
func Changed(before, now string) (changed, known bool) {
	if Untouched(before, now) {
		return false, true
	}
	then, still := strings.Fields(before), strings.Fields(now)
	if len(then) < 2 || len(still) < 2 || then[1] != still[1] { // of two boots
		return false, false
	}
	return true, parseWitness(before).text != parseWitness(now).text
}

// witness is what is gathered for a Witness.
type witness struct {
	size      int64
	guard     *Guard   // for which the writes of its own file do not count; may be nil
	parts     []string // one of them "": nothing is known
	snapshots []string // identities of the dm-snapshots that could be merged into it
	links     []string // see dm.Mapping
}

func (w *witness) String() string {
	if slices.Contains(w.parts, "") {
		return ""
	}
	text := strings.Join(w.parts, " ")
	if len(w.snapshots) > 0 {
		text += snapshotsMark + strings.Join(w.snapshots, " ")
	}
	if len(w.links) > 0 {
		text += linksMark + strings.Join(w.links, " ")
	}
	return text
}

func (w *witness) add(part string) { w.parts = append(w.parts, part) }

func (w *witness) of(path string, stat *unix.Stat_t) {
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if w.guard != nil {
			w.add(w.guard.closings(path, stat))
			return
		}
		w.add(fileWitness(stat))
	case unix.S_IFBLK:
		w.ofDevice(stat.Rdev)
	default:
		w.add("")
	}
}

func (w *witness) ofDevice(rdev uint64) {
	sys := dm.SysDir(rdev)
	w.add(dm.MajorMinor(rdev))
	c := countersOf(sys)
	if w.guard != nil {
		c = c.minus(w.guard.own())
	}
	w.add(c.String())
	disk := sys
	if dm.Exists(sys + "/partition") { // writes to its disk count only there
		disk = sys + "/.."
		w.add(dm.ReadLine(sys + "/start"))
		w.add(besidePartitions(disk).String())
	}
	switch {
	case dm.Exists(disk + "/loop/backing_file"): // writes below a loop device count nowhere
		w.ofLoop(disk)
	case dm.Exists(sys + "/dm"):
		m, err := dm.MappingOf(rdev, w.size)
		if err != nil {
			w.add("")
			return
		}
		w.add("map " + m.Hash())
		w.snapshots = append(w.snapshots, m.Snapshots...)
		w.links = append(w.links, m.Links...)
	}
}

// ofLoop adds what is below a loop device.
func (w *witness) ofLoop(sys string) {
	path, stat, offset := dm.BackingFile(sys)
	if path == "" {
		w.add("")
		return
	}
	w.add(fmt.Sprintf("from %d", offset))
	w.size = -1
	w.of(path, &stat)
}

// fileWitness tells a state of a regular file from those before and after it, for which it may have to wait.
func fileWitness(stat *unix.Stat_t) string {
	waitForNextTick(stat)
	return fmt.Sprintf("%d:%d %d %d.%09d %d.%09d", stat.Dev, stat.Ino, stat.Size,
		stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec)
}

// waitForNextTick waits until a later write must show in the times of a regular file: one in the same tick of the
// file system's clock as the last change does not. The tick is one of the kernel's timer (10 ms at most; since Linux
// 6.13 it matters no more), but 2 s where the file system keeps no fractions of seconds, as ext4 with inodes of 128
// bytes. A time that lies ahead is none that a write now would leave.
func waitForNextTick(stat *unix.Stat_t) {
	tick := 20 * time.Millisecond
	if stat.Ctim.Nsec == 0 {
		tick = 2 * time.Second
	}
	if age := time.Since(time.Unix(stat.Ctim.Unix())); age >= 0 && age < tick {
		time.Sleep(tick - age)
	}
}
