// While this process writes to an image, nobody else's write to it stays unnoticed; where one could, that is said.

package blockdev

import (
	"fmt"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Guard notices what others write to a file while this process writes to it too, which a Witness could not tell
// apart. Of a device the kernel's counters must grow by just what this process wrote; they may grow by more, where a
// device refuses to zero a range by itself and the kernel, having counted that, writes zeroes to it. The times of a
// regular file tell nothing then; but whoever writes to one opens it for that, and closes it, which inotify(7)
// reports, or has it open still, which inuse.Check finds.
type Guard struct {
	f       *File
	size    int64
	times   int64 // that the device counts a write
	inotify int   // -1: none is to be had
	watched map[fileID]bool
	below   bool // the device itself has been looked at
	closed  int  // how often a watched file was closed by somebody who had it open for writing
	before  string
}

type fileID struct{ dev, ino uint64 }

// ownWrites are the bytes that went to a device through a File since it was opened.
type ownWrites struct{ written, discarded atomic.Int64 }

// Guard begins to watch the first size bytes of the file.
func (f *File) Guard(size int64) *Guard {
	g := &Guard{f: f, size: size, times: f.countsTimes(), watched: make(map[fileID]bool)}
	var err error
	if g.inotify, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		g.inotify = -1 // there may be no more than fs.inotify.max_user_instances
	}
	g.before = g.witness()
	return g
}

// Close ends the watch.
func (g *Guard) Close() {
	if g.inotify >= 0 {
		unix.Close(g.inotify)
	}
}

// Finding is what a Guard has found out.
type Finding int

const (
	Unknown Finding = iota // it can't be told
	Alone                  // nobody else wrote
	Broken                 // somebody else wrote, or the bytes come from elsewhere now
)

// Check finds out whether anybody else wrote since the Guard began. Somebody who still has a
// regular file open may have: ask inuse.Check before.
func (g *Guard) Check() Finding {
	now := g.witness()
	switch {
	case g.before == "" || now == "":
		return Unknown
	case Untouched(g.before, now):
		return Alone
	}
	return Broken
}

func (g *Guard) witness() string {
	g.below = false
	return g.f.witness(&witness{size: g.size, guard: g})
}

// own returns what the counters of the file's device have of this process. Those of a
// device below it, as a loop device can have one, can't be told apart.
func (g *Guard) own() *counters {
	if g.below {
		return nil
	}
	g.below = true
	own := &g.f.own
	return &counters{written: g.times * own.written.Load() / 512, discarded: g.times * own.discarded.Load() / 512}
}

// countsTimes returns how often the device counts each byte that goes to it. Of a mirrored or striped volume made by
// dm-raid, the code of MD counts once more what device-mapper has counted, since Linux 5.14 (md_account_bio). It does
// so with reads as well, which can be tried: what others read just then can only make it more.
func (f *File) countsTimes() int64 {
	d, err := f.deviceMapper()
	const n = 4096
	if err != nil || d == nil || !d.Is("raid") || !f.Direct() || f.Size() < n {
		return 1
	}
	var stat unix.Stat_t
	if unix.Fstat(int(f.f.Fd()), &stat) != nil {
		return 1
	}
	least := int64(math.MaxInt64)
	for range 5 {
		before := sectorsRead(stat.Rdev)
		if _, err := f.ReadAt(Buffer(n), 0); err != nil {
			return 1
		}
		least = min(least, sectorsRead(stat.Rdev)-before)
	}
	return max(1, least/(n/512))
}

// closings says how often a regular file was closed after writing; "" if that can't be told.
func (g *Guard) closings(path string, stat *unix.Stat_t) string {
	id := fileID{stat.Dev, stat.Ino}
	if g.inotify < 0 || !g.watched[id] && !g.watch(path, id) || !g.readEvents() {
		return ""
	}
	return fmt.Sprintf("%d:%d closed %d times", stat.Dev, stat.Ino, g.closed)
}

func (g *Guard) watch(path string, id fileID) bool {
	if _, err := unix.InotifyAddWatch(g.inotify, path, unix.IN_CLOSE_WRITE); err != nil {
		return false
	}
	var now unix.Stat_t
	g.watched[id] = unix.Stat(path, &now) == nil && fileID{now.Dev, now.Ino} == id // else it was replaced
	return g.watched[id]
}

// readEvents counts what has happened so far; an overflow of the kernel's queue is an event too.
func (g *Guard) readEvents() bool {
	var buf [4096]byte
	for {
		n, err := unix.Read(g.inotify, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return true
		case err != nil || n <= 0:
			return false
		}
		g.closed += n / unix.SizeofInotifyEvent // of a file they have no name
	}
}
