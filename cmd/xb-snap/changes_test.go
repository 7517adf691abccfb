package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/testkit"
)

const block = 4096

// eachFileSystem runs a test on one of each kind that can tell changes of files.
func eachFileSystem(t *testing.T, test func(t *testing.T, h host, dir string)) {
	for _, mkfs := range testkit.Some(t, 1, []string{"mkfs.xfs", "-q", "-m", "reflink=1"}, []string{"mkfs.btrfs", "-q"}) {
		t.Run(mkfs[0], func(t *testing.T) { test(t, newHost(t), testkit.Mount(t, mkfs...)) })
	}
}

// disk makes an image of so many blocks.
func (h host) disk(path string, blocks int) *os.File {
	h.Helper()
	testkit.Write(h, path, "")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { f.Close() })
	h.rewrite(f, 0, blocks)
	return f
}

// rewrite writes what was never there before to n blocks from one on.
func (h host) rewrite(f *os.File, first, n int) {
	h.Helper()
	b := make([]byte, n*block)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	if _, err := f.WriteAt(b, int64(first)*block); err != nil {
		h.Fatal(err)
	}
}

func (h host) snap(path string) string {
	h.Helper()
	return h.ok("create", "--owner", "none", "--size", "10M", path)[0]
}

// changes returns what was printed, with spaces in place of the ends of lines.
func (h host) changes(older, newer string) string {
	h.Helper()
	return strings.Join(h.ok("changes", "--since", older, newer), " ")
}

// Blocks that were rewritten are listed, and no others.
func TestChangesExact(t *testing.T) {
	eachFileSystem(t, func(t *testing.T, h host, dir string) {
		image := filepath.Join(dir, "image")
		const blocks = 8192
		f := h.disk(image, blocks)
		old := h.snap(image)
		same := h.snap(image)
		if got := h.changes(old, same); got != "end 0 0" {
			t.Errorf("without a write: %s", got)
		}
		rewritten := rand.New(rand.NewPCG(1, 2)).Perm(blocks)[:blocks/100]
		for _, i := range rewritten {
			h.rewrite(f, i, 1)
		}
		slices.Sort(rewritten)
		var want strings.Builder
		extents := 0
		for i, first := range rewritten {
			if i > 0 && first == rewritten[i-1]+1 {
				continue
			}
			n := 1
			for i+n < len(rewritten) && rewritten[i+n] == first+n {
				n++
			}
			extents++
			fmt.Fprintf(&want, "%d %d ", first*block, n*block)
		}
		fmt.Fprintf(&want, "end %d %d", extents, len(rewritten)*block)
		if got := h.changes(same, h.snap(image)); got != want.String() {
			t.Errorf("%s, want %s", got, want.String())
		}
	})
}

// Zeroes are known without being read, and sizes may differ.
func TestChangesOfHolesAndSizes(t *testing.T) {
	eachFileSystem(t, func(t *testing.T, h host, dir string) {
		image := filepath.Join(dir, "image")
		f := h.disk(image, 100)
		fallocate := func(mode uint32, first, n int64) {
			t.Helper()
			if err := unix.Fallocate(int(f.Fd()), mode, first*block, n*block); err != nil {
				t.Fatal(err)
			}
		}
		cut := func(size int64) {
			t.Helper()
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
		}
		punch := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		fallocate(punch, 10, 10)
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"a hole that is reserved", func() { fallocate(0, 10, 5) }, "end 0 0"},
			{"what was reserved made a hole", func() { fallocate(punch, 10, 5) }, "end 0 0"},
			{"a hole that is written to", func() { h.rewrite(f, 12, 1) }, "49152 4096 end 1 4096"},
			{"data made a hole", func() { fallocate(punch, 50, 2) }, "204800 8192 end 1 8192"},
			{"data made zeroes", func() { fallocate(unix.FALLOC_FL_ZERO_RANGE, 60, 1) }, "245760 4096 end 1 4096"},
			{"grown", func() { cut(120 * block) }, "409600 81920 end 1 81920"},
			{"grown by a part of a block", func() { cut(120*block + 100) }, "491520 100 end 1 100"},
			{"cut", func() { cut(100 * block) }, "end 0 0"},
			{"cut and grown", func() { cut(98 * block); cut(100 * block) }, "401408 8192 end 1 8192"},
		} {
			old := h.snap(image)
			step.do()
			if got := h.changes(old, h.snap(image)); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
	})
}

// Only two snapshots of one file are compared, and only as long as they are what xb-snap made.
func TestChangesRefused(t *testing.T) {
	eachFileSystem(t, func(t *testing.T, h host, dir string) {
		image := filepath.Join(dir, "image")
		f := h.disk(image, 10)
		old := h.snap(image)
		h.rewrite(f, 3, 1)
		const want = "12288 4096 end 1 4096"
		new := h.snap(image)
		if got := h.changes(old, new); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		refused := func(status int, word, since, snap string) {
			t.Helper()
			h.fails(status, word, "changes", "--since", since, snap)
		}
		refused(64, "same snapshot", old, old)
		refused(64, "not taken before", new, old)
		refused(64, "not a snapshot", image, new)
		refused(64, "not a snapshot", old, image)
		refused(64, "only one of them is a file", old, "/dev/null")
		refused(66, "no such", old, filepath.Join(dir, ".image.xb-snap-aaaaaaaa"))

		// Of another file, which may even have its name.
		another := filepath.Join(dir, "another")
		h.disk(another, 10)
		refused(64, "different files", old, h.snap(another))
		if err := os.Rename(image, image+".old"); err != nil {
			t.Fatal(err)
		}
		testkit.Command(t, "", "cp", "--reflink=always", image+".old", image)
		refused(64, "different files", old, h.snap(image))
		moved := h.snap(image + ".old")
		if got := h.changes(old, moved); got != want {
			t.Errorf("of a file that was renamed: %s", got)
		}

		// On another file system, or on one that is not there.
		elsewhere := filepath.Join(testkit.Mount(t, "mkfs.btrfs", "-q"), "image")
		h.disk(elsewhere, 10)
		refused(64, "different file systems", old, h.snap(elsewhere))

		// Another file that has the name.
		for i := range 2 {
			snap := []string{old, new}[i]
			if err := os.Rename(snap, snap+".away"); err != nil {
				t.Fatal(err)
			}
			testkit.Command(t, "", "cp", "--reflink=always", "--preserve=all", image, snap)
			refused(79, "another one has its name", old, new)
			if err := os.Rename(snap+".away", snap); err != nil {
				t.Fatal(err)
			}
			refused(82, "renamed", old, new) // and might have been written to before
			old, new = h.snap(image), h.snap(image)
		}

		// Written to, and the time set back.
		for i := range 2 {
			snap := []string{old, new}[i]
			info, err := os.Stat(snap)
			if err != nil {
				t.Fatal(err)
			}
			w, err := os.OpenFile(snap, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			h.rewrite(w, 5, 1)
			w.Close()
			if err := os.Chtimes(snap, time.Now(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
			refused(82, "written to", old, new)
			old, new = h.snap(image), h.snap(image)
		}

		// Given up.
		if err := os.Truncate(old, 0); err != nil {
			t.Fatal(err)
		}
		refused(82, "given up", old, new)
		h.fails(64, "record", "changes", "--since", h.older(new), h.snap(image))
	})
}

// older makes a record one of an xb-snap that wrote no identities.
func (h host) older(snap string) string {
	h.Helper()
	names, err := filepath.Glob(filepath.Join(h.state, "snapshots", "*.json"))
	if err != nil {
		h.Fatal(err)
	}
	for _, name := range names {
		if text := testkit.Read(h, name); strings.Contains(text, snap) {
			before, _, _ := strings.Cut(text, `,"identity"`)
			testkit.Write(h, name, before+"}")
		}
	}
	return snap
}
