package blockdev

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// fakeDisk is a file system of a few blocks of one byte with two files, whose bytes are moved and whose free places
// are used again while the maps are read.
type fakeDisk struct {
	*rand.Rand
	holds []int    // content of each place, 0: free
	files [2][]int // place of each block, or nowhere
	has   [2][]int // its content, for ever
	moves int      // that are still to happen
	room  int      // parts in one answer
}

func newFakeDisk(r *rand.Rand, places int) *fakeDisk {
	d := &fakeDisk{Rand: r, holds: make([]int, places), moves: r.IntN(4), room: 1 + r.IntN(4)}
	size := 1 + r.IntN(3)
	for i := range d.files {
		d.files[i], d.has[i] = make([]int, size), make([]int, size)
	}
	for at := range size {
		d.write(0, at)
		if d.files[1][at], d.has[1][at] = d.files[0][at], d.has[0][at]; r.IntN(2) == 0 {
			d.write(1, at)
		}
	}
	return d
}

// write gives a block another content, at a place of its own.
func (d *fakeDisk) write(file, at int) {
	if d.files[file][at], d.has[file][at] = nowhere, 0; d.IntN(4) > 0 {
		d.has[file][at] = 1 + d.IntN(3)
		d.files[file][at] = d.free()
		d.holds[d.files[file][at]] = d.has[file][at]
	}
}

func (d *fakeDisk) free() int {
	for {
		if place := d.IntN(len(d.holds)); d.holds[place] == 0 {
			return place
		}
	}
}

// move moves a block: to a free place, or, as a deduplication does, to where another has the same content.
func (d *fakeDisk) move() {
	file, at := d.IntN(2), d.IntN(len(d.files[0]))
	old, content := d.files[file][at], d.has[file][at]
	if content == 0 {
		return
	}
	to := d.IntN(len(d.holds))
	if d.holds[to] == 0 {
		d.holds[to] = content
	} else if d.holds[to] != content {
		return
	}
	d.files[file][at] = to
	for _, places := range d.files {
		for _, place := range places {
			if place == old {
				return
			}
		}
	}
	d.holds[old] = 0
}

// mapOf returns the map of a file. Things may move before an answer.
func (d *fakeDisk) mapOf(file int) extentMap {
	return func(at, end int64) (parts []part, upTo int64, err error) {
		for d.moves > 0 && d.IntN(3) > 0 {
			d.moves--
			d.move()
		}
		for upTo = at; upTo < end; upTo++ {
			more := appendPart(parts, upTo, upTo+1, int64(d.files[file][upTo]))
			if len(more) > d.room {
				break
			}
			parts = more
		}
		return parts, upTo, nil
	}
}

// Whatever moves, no block that differs is missing; and where nothing moves, none is too many.
func TestCompare(t *testing.T) {
	moved, rounds := 0, testkit.Rounds(t, 1000)
	for seed := range uint64(rounds) {
		d := newFakeDisk(rand.New(rand.NewPCG(seed, 1)), 8)
		moves := d.moves
		size := len(d.files[0])
		listed := make([]bool, size)
		end := int64(-1)
		err := compare(d.mapOf(0), d.mapOf(1), int64(size), func(off, n int64) {
			if off < end || n <= 0 {
				t.Errorf("seed %d: extent %d %d behind %d", seed, off, n, end)
			}
			for end = off + n; n > 0; n-- {
				listed[off+n-1] = true
			}
		})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d.moves < moves {
			moved++
		}
		for at := range size {
			switch differ := d.has[0][at] != d.has[1][at]; {
			case differ && !listed[at]:
				t.Errorf("seed %d: block %d differs and is not listed", seed, at)
			case moves == 0 && listed[at] && d.files[0][at] == d.files[1][at]:
				t.Errorf("seed %d: block %d is listed, and is the same", seed, at)
			}
		}
	}
	if moved < rounds/4 {
		t.Errorf("something moved in %d of %d only", moved, rounds)
	}
}

// What is moved all the time cannot be compared; what is moved a few times can.
func TestCompareMoving(t *testing.T) {
	for _, c := range []struct{ calls, status int }{{0, 0}, {2, 0}, {4 * tries, exit.Busy}} {
		for file := range 2 {
			n := 0
			still := func(at, end int64) ([]part, int64, error) { return []part{{span{at, end - at}, 1000 + at}}, end, nil }
			moving := func(at, end int64) ([]part, int64, error) {
				n++
				return []part{{span{at, end - at}, 5000 + int64(min(n, c.calls))}}, end, nil
			}
			maps := [2]extentMap{still, still}
			maps[file] = moving
			if err := compare(maps[0], maps[1], 10, func(off, n int64) {}); exit.StatusOf(err) != c.status {
				t.Errorf("file %d moved %d times: %v", file, c.calls, err)
			}
		}
	}
	overlaps := func(at, end int64) ([]part, int64, error) { return nil, 0, errDisorder }
	if err := compare(overlaps, overlaps, 10, nil); exit.StatusOf(err) != exit.Busy {
		t.Errorf("extents in disorder: %v", err)
	}
	gone := func(at, end int64) ([]part, int64, error) { return nil, 0, os.ErrPermission }
	if err := compare(gone, gone, 10, nil); err != os.ErrPermission {
		t.Errorf("no answer: %v", err)
	}
}

// Equal places mean equal bytes only of extents with no other flags than these.
func TestPlaceOf(t *testing.T) {
	for bit := range 32 {
		flag := uint32(1) << bit
		want := int64(unknown)
		switch flag {
		case 0x1, 0x1000, 0x2000: // last, merged, shared
			want = 4096
		case 0x800: // unwritten
			want = nowhere
		}
		if got := placeOf(4096, flag); got != want {
			t.Errorf("flag %#x: %d, want %d", flag, got, want)
		}
	}
	if got := placeOf(4096, 0x800|0x4); got != unknown {
		t.Errorf("unwritten, to be allocated: %d", got)
	}
	var list []string
	parts := func(place int64) []part { return []part{{span{0, 10}, place}} }
	for _, pair := range [][2]int64{{nowhere, nowhere}, {unknown, unknown}, {nowhere, 7}, {7, unknown}, {7, 7}, {7, 8}} {
		compareParts(parts(pair[0]), parts(pair[1]), func(off, n int64) { list = append(list, fmt.Sprint(pair)) })
	}
	if want := []string{"[-2 -2]", "[-1 7]", "[7 -2]", "[7 8]"}; !reflect.DeepEqual(list, want) {
		t.Errorf("%s differ, want %s", list, want)
	}
}

// Maps of a million extents are compared a few at a time.
func TestCompareMillion(t *testing.T) {
	const extents = 1_000_000
	scattered := func(at, end int64) (parts []part, upTo int64, err error) {
		for upTo = at; upTo < end && len(parts) < 512; upTo += 4096 {
			parts = appendPart(parts, upTo, upTo+4096, 3*upTo)
		}
		return parts, upTo, nil
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	if err := compare(scattered, scattered, extents*4096, func(off, length int64) { n++ }); err != nil || n != 0 {
		t.Errorf("%d differ, %v", n, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 32<<20 {
		t.Errorf("took %d MiB", grown>>20)
	}
}

// The identity of a file stays for a new name of its directory, and nothing else.
func TestFileIdentity(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir := testkit.Mount(t, mkfs...)
			path := filepath.Join(dir, "a")
			testkit.Write(t, path, "some words")
			identity := func() FileIdentity {
				t.Helper()
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				id, err := IdentityOf(f)
				if err != nil {
					t.Fatal(err)
				}
				return id
			}
			id := identity()
			if uuid := testkit.Command(t, "", "findmnt", "-n", "-o", "FSTYPE,UUID", dir); id.FileSystem != strings.Join(strings.Fields(uuid), " ") {
				t.Errorf("file system %s, want %s", id.FileSystem, uuid)
			}
			if again := identity(); again != id {
				t.Errorf("%+v and then %+v", id, again)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			testkit.Write(t, path, "other word")
			if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
			written := identity()
			if !written.SameFile(id) || written.Modified != id.Modified || written == id {
				t.Errorf("written to and its time set back: %+v, was %+v", written, id)
			}
			// The inode's number may be given to the next file.
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			testkit.Write(t, path, "some words")
			if another := identity(); another.SameFile(id) || another.FileSystem != id.FileSystem {
				t.Errorf("another file: %+v, was %+v", another, id)
			}
		})
	}
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if id, err := IdentityOf(f); err == nil {
		t.Errorf("of a file of the kernel: %+v", id)
	}
}
