package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/testkit"
)

// TestChangesCampaign lets images live through random histories, in each of which every writer that it has may turn up,
// and demands of every pair of snapshots that xb-snap changes lists each byte in which the two differ. XB_CAMPAIGN
// makes it so many times as many histories; XB_CAMPAIGN_SEED makes it another campaign.
func TestChangesCampaign(t *testing.T) {
	histories := testkit.Rounds(t, 4)
	seed := testkit.Seed(t)
	kinds := []struct{ name, fs, prepare string }{
		{"xfs", "xfs", ":"},
		{"btrfs", "btrfs", ":"},
		{"btrfs, compressed", "btrfs", "mount -o remount,compress-force=zstd fs"},
		{"btrfs, no copy on write", "btrfs", "chattr +C fs"},
	}
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(kind.fs, "fs")
			h.must(kind.prepare)
			var differ, listed, pairs int64
			for n := i; n < histories; n += len(kinds) {
				y := &history{host: h, Rand: rand.New(rand.NewPCG(seed, uint64(n)))}
				y.live()
				if t.Failed() {
					t.Fatalf("history %d of seed %d: %s", n, seed, strings.Join(y.done, ", "))
				}
				differ, listed, pairs = differ+y.differ, listed+y.listed, pairs+y.pairs
			}
			t.Logf("%s: %d pairs, none missed a byte; %d KiB differ, %d KiB were listed", kind.name, pairs, differ>>10, listed>>10)
		})
	}
}

// history is what happens to one image.
type history struct {
	*host
	*rand.Rand
	f     *os.File
	size  int64
	snaps []string
	done  []string // in words

	pairs, differ, listed int64 // pairs compared, bytes
}

func (y *history) live() {
	y.Helper()
	y.write("fs/image", y.bytes(1+y.Int64N(4*mib)))
	var err error
	if y.f, err = os.OpenFile(y.path("fs/image"), os.O_RDWR, 0); err != nil {
		y.Fatal(err)
	}
	defer y.f.Close()
	for range 3 + y.IntN(3) {
		y.snap()
		for range y.IntN(6) {
			y.step()
		}
	}
	y.must("xb-snap remove " + strings.Join(y.snaps, " ") + " && rm fs/image")
}

// snap takes a snapshot, and compares it with the last one and with one of those before.
func (y *history) snap() {
	y.Helper()
	info, err := y.f.Stat()
	if err != nil {
		y.Fatal(err)
	}
	if y.size = info.Size(); y.size == 0 { // of an empty file there are no snapshots
		return
	}
	snap := strings.TrimSpace(y.must("xb-snap create --owner none --size 20M fs/image"))
	y.done = append(y.done, "snapshot")
	if n := len(y.snaps); n > 0 {
		y.compare(y.snaps[n-1], snap)
		y.compare(y.snaps[y.IntN(n)], snap)
	}
	y.snaps = append(y.snaps, snap)
}

func (y *history) compare(old, new string) {
	y.Helper()
	r := y.sh(fmt.Sprintf("xb-snap changes --since %s %s", old, new))
	r.silent(y.T)
	differ, listed := covered(y, content(y, old), content(y, new), readExtents(y, r.out))
	y.pairs, y.differ, y.listed = y.pairs+1, y.differ+differ, y.listed+listed
}

// step does one of the things that a guest, or who looks after its image, may do.
func (y *history) step() {
	y.Helper()
	steps := []struct {
		name string
		do   func() error
	}{
		{"write blocks", func() error { return y.scatter(y.f) }},
		{"write blocks past the cache", y.direct},
		{"write anywhere", func() error { return y.put(y.Int64N(y.end()), 1+y.Int64N(70_000)) }},
		{"append", func() error { return y.put(y.end(), 1+y.Int64N(300_000)) }},
		{"write by a mapping", y.mapped},
		{"write the same again", y.again},
		{"write zeroes", func() error { _, err := y.f.WriteAt(make([]byte, 1+y.IntN(200_000)), y.Int64N(y.end())); return err }},
		{"punch a hole", func() error { return y.fallocate(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE) }},
		{"zero a range", func() error { return y.fallocate(unix.FALLOC_FL_ZERO_RANGE) }},
		{"reserve", func() error { return y.fallocate(0) }},
		{"cut", func() error { return y.f.Truncate(y.Int64N(y.end())) }},
		{"grow", func() error { return y.f.Truncate(y.end() + y.Int64N(mib)) }},
		{"cut and grow", y.cutAndGrow},
		{"share", y.share},
		{"sync", y.f.Sync},
		{"drop the cache", func() error { return unix.Fadvise(int(y.f.Fd()), 0, 0, unix.FADV_DONTNEED) }},
		{"defragment", y.defragment},
	}
	s := steps[y.IntN(len(steps))]
	y.done = append(y.done, s.name)
	if err := s.do(); err != nil {
		y.Errorf("%s: %v", s.name, err)
	}
}

// end returns the image's size, or 1 where it has none.
func (y *history) end() int64 {
	info, err := y.f.Stat()
	if err != nil {
		y.Fatal(err)
	}
	return max(1, info.Size())
}

// bytes returns what nobody has written before, and what a file system can often compress.
func (y *history) bytes(n int64) []byte {
	if y.IntN(2) == 0 {
		return bytes.Repeat(randomBytes(64, y.Uint64()), int(n+63)/64)[:n]
	}
	return randomBytes(n, y.Uint64())
}

func (y *history) put(off, n int64) error {
	_, err := y.f.WriteAt(y.bytes(n), off)
	return err
}

const fsBlock = 4096

// scatter writes some blocks.
func (y *history) scatter(f *os.File) error {
	block := blockdev.Buffer(fsBlock)
	for range 1 + y.IntN(60) {
		copy(block, y.bytes(fsBlock))
		if _, err := f.WriteAt(block, y.Int64N(y.end())/fsBlock*fsBlock); err != nil {
			return err
		}
	}
	return nil
}

func (y *history) direct() error {
	f, err := os.OpenFile(y.f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return y.scatter(f)
}

func (y *history) mapped() error {
	size := int(y.end())
	if y.end() == 1 {
		return nil
	}
	memory, err := unix.Mmap(int(y.f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for range 1 + y.IntN(9) {
		at := y.IntN(size)
		copy(memory[at:], y.bytes(1+y.Int64N(9000)))
	}
	return unix.Munmap(memory)
}

func (y *history) again() error {
	b := make([]byte, 100_000)
	at := y.Int64N(y.end())
	n, _ := y.f.ReadAt(b, at)
	_, err := y.f.WriteAt(b[:n], at)
	return err
}

func (y *history) fallocate(mode uint32) error {
	at, n := y.Int64N(y.end()), 1+y.Int64N(400_000)
	if y.IntN(2) == 0 {
		at, n = at/fsBlock*fsBlock, (n+fsBlock)/fsBlock*fsBlock
	}
	return unix.Fallocate(int(y.f.Fd()), mode, at, n)
}

func (y *history) cutAndGrow() error {
	size := y.end()
	if err := y.f.Truncate(y.Int64N(size)); err != nil {
		return err
	}
	return y.f.Truncate(size)
}

// share makes the image have the same blocks at two places.
func (y *history) share() error {
	blocks := y.end() / fsBlock
	if blocks < 4 {
		return nil
	}
	n := 1 + y.Int64N(blocks/4)
	from, to := y.Int64N(blocks/2-n+1), blocks/2+y.Int64N(blocks/2-n+1)
	return unix.IoctlFileCloneRange(int(y.f.Fd()), &unix.FileCloneRange{Src_fd: int64(y.f.Fd()),
		Src_offset: uint64(from * fsBlock), Src_length: uint64(n * fsBlock), Dest_offset: uint64(to * fsBlock)})
}

// defragment moves the image's bytes, or those of a snapshot.
func (y *history) defragment() error {
	name := append(y.snaps[:len(y.snaps):len(y.snaps)], y.f.Name())[y.IntN(len(y.snaps)+1)]
	y.must("{ xfs_fsr " + name + " || btrfs filesystem defragment -f " + name + "; } >/dev/null 2>&1")
	return nil
}

// readExtents reads what xb-snap changes printed, which must be in order and whole.
func readExtents(t testing.TB, text string) (list [][2]int64) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	end, total := int64(-1), int64(0)
	for _, line := range lines[:len(lines)-1] {
		var x [2]int64
		if _, err := fmt.Sscanf(line, "%d %d", &x[0], &x[1]); err != nil || x[0] <= end || x[1] <= 0 {
			t.Fatalf("bad line %q behind byte %d: %v", line, end, err)
		}
		end, total = x[0]+x[1], total+x[1]
		list = append(list, x)
	}
	if want := fmt.Sprintf("end %d %d", len(list), total); lines[len(lines)-1] != want {
		t.Fatalf("the last line is %q, not %q", lines[len(lines)-1], want)
	}
	return list
}

// covered demands that each byte in which image b differs from a is in the list: what follows a's end, too. It returns
// how many bytes differ, and how many the list has.
func covered(t testing.TB, a, b []byte, list [][2]int64) (differ, listed int64) {
	t.Helper()
	at := int64(0)
	for _, x := range append(list, [2]int64{int64(len(b)), 0}) {
		if x[0]+x[1] > int64(len(b)) {
			t.Fatalf("extent %d is beyond the image's %d bytes", x, len(b))
		}
		if at < x[0] && (x[0] > int64(len(a)) || !bytes.Equal(a[at:x[0]], b[at:x[0]])) {
			t.Errorf("between bytes %d and %d something differs, and is not listed", at, x[0])
		}
		at = x[0] + x[1]
		listed += x[1]
	}
	for at := 0; at < len(b); at += 512 {
		end := min(at+512, len(b))
		if end > len(a) || !bytes.Equal(a[at:end], b[at:end]) {
			differ += int64(end - at)
		}
	}
	return differ, listed
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	defer noForks()()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
