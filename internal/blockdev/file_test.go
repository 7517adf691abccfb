package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"xen-backup/internal/exit"
	"xen-backup/internal/pace"
	"xen-backup/internal/testkit"
)

func openTest(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], rnd.Uint64())
		copy(b[i:], word[:])
	}
	return b
}

func TestBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 511, 4096, 4097, 1 << 20} {
		for range 20 {
			b := Buffer(n)
			if len(b) != n || cap(b) != n {
				t.Fatalf("%d bytes, capacity %d, want %d", len(b), cap(b), n)
			}
			if n > 0 && uintptr(unsafe.Pointer(&b[0]))%4096 != 0 {
				t.Fatalf("%d bytes at %p", n, &b[0])
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink(filepath.Join(dir, "nothing"), dangling); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		"missing":           filepath.Join(dir, "none"),
		"missing directory": filepath.Join(dir, "none", "x"),
		"below a file":      filepath.Join(file, "x"),
		"directory":         dir, "fifo": fifo, "character device": "/dev/null", "dangling link": dangling, "empty": "",
		"missing device": "/dev/xbtest/none",
	}
	if os.Getuid() == 0 {
		regular, err := os.CreateTemp("/dev", "xbtest")
		if err != nil {
			t.Skip(err)
		}
		defer os.Remove(regular.Name())
		regular.Close()
		link := filepath.Join(dir, "link")
		if err := os.Symlink(regular.Name(), link); err != nil {
			t.Fatal(err)
		}
		refused["regular file below /dev"], refused["link to it"] = regular.Name(), link
		refused["by another name"] = "/dev/../dev/" + filepath.Base(regular.Name())
	}
	for what, path := range refused {
		for _, open := range []func(string) (*File, error){Open, OpenWrite} {
			f, err := open(path)
			testkit.WantStatus(t, what, err, exit.NoInput)
			if f != nil {
				t.Errorf("%s: opened", what)
			}
		}
		testkit.WantStatus(t, what, Check(path), exit.NoInput)
	}
	for what := range refused {
		if what == "missing" || what == "missing device" {
			if _, err := os.Lstat(refused[what]); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was created", refused[what])
			}
		}
	}
	link := filepath.Join(dir, "good link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if err := Check(path); err != nil {
			t.Error(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if f.Size() != 1 || f.IsBlock() || f.Path() != path {
			t.Errorf("%d bytes, block %v, %s", f.Size(), f.IsBlock(), f.Path())
		}
		if _, err := f.WriteAt([]byte("y"), 0); err == nil {
			t.Error("a file opened for reading was written")
		}
		f.Close()
	}
}

func TestFileReadsAndWrites(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		temp, err := os.CreateTemp(dir, "xbtest")
		if err != nil {
			t.Skip(err)
		}
		defer os.Remove(temp.Name())
		temp.Close()
		f := openTest(t, temp.Name())
		const size = 3<<20 + 77
		if err := f.Truncate(size); err != nil || f.Size() != size {
			t.Fatal(f.Size(), err)
		}
		rnd := rand.New(rand.NewPCG(1, 1))
		checkAccess(t, f, rnd)
		f.SetPace(pace.New(true, 0))
		checkAccess(t, f, rnd)
		if err := f.Truncate(100); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(temp.Name()); err != nil || info.Size() != 100 || f.Size() != 100 {
			t.Error(info.Size(), f.Size(), err)
		}
	}
}

// TestDevice works on devices with both sizes of sectors, whose size is no
// multiple of a page or of the block size.
func TestDevice(t *testing.T) {
	for sector, sizes := range map[string][]int64{
		"512":  {512, 4096 + 512, 1<<20 + 512, 2<<20 - 512, 1<<20 + 3*4096},
		"4096": {4096, 1<<20 + 3*4096},
	} {
		for _, size := range sizes {
			device, file := testkit.LoopDevice(t, size, "--sector-size", sector)
			f := openTest(t, device)
			if f.Size() != size || !f.IsBlock() || f.Readers() < 8 {
				t.Fatalf("%d bytes, want %d; block %v, %d readers", f.Size(), size, f.IsBlock(), f.Readers())
			}
			if err := f.Truncate(5); err != nil || f.Size() < 5 {
				t.Errorf("a device was truncated: %v, %d", err, f.Size())
			}
			checkAccess(t, f, rand.New(rand.NewPCG(uint64(size), 1)))
			f.SetPace(pace.New(true, 1<<30))
			checkAccess(t, f, rand.New(rand.NewPCG(uint64(size), 2)))
			if _, err := OpenWrite(device); exit.StatusOf(err) != exit.Busy {
				t.Errorf("opened twice for writing: %v", err)
			}
			if other, err := Open(device); err != nil { // xb-sig reads beside xb-patch
				t.Error(err)
			} else {
				other.Close()
			}
			f.Close()
			if info, err := os.Stat(file); err != nil || info.Size() != size {
				t.Errorf("the file behind it has %d bytes, %v", info.Size(), err)
			}
		}
	}
}

// TestManyBatches: callers beyond the number that is kept do not wait for ever.
func TestManyBatches(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all []*batch
		for range cap(batches) + 2 {
			b, err := getBatch()
			if err != nil {
				t.Error(err)
				return
			}
			all = append(all, b)
		}
		for _, b := range all {
			putBatch(b)
		}
	}()
	select {
	case <-done:
	case <-time.After(testkit.Long):
		t.Fatal("a batch too many cannot be given back")
	}
}

// checkAccess writes, zeroes and reads at all kinds of offsets, and compares with
// plain memory.
func checkAccess(t *testing.T, f *File, rnd *rand.Rand) {
	t.Helper()
	size := int(f.Size())
	model := randomBytes(rnd, size)
	if n, err := f.WriteAt(model, 0); n != size || err != nil {
		t.Fatal(n, err)
	}
	// span returns an odd or even, short or long piece, often the last one.
	span := func() (off, n int) {
		off = rnd.IntN(size)
		if rnd.IntN(2) == 0 {
			off -= off % []int{512, 4096, 65536}[rnd.IntN(3)]
		}
		n = min(size-off, rnd.IntN([]int{10, 5000, 300000}[rnd.IntN(3)]))
		if rnd.IntN(3) == 0 {
			n -= n % 512
		}
		if rnd.IntN(6) == 0 {
			n = size - off
		}
		return off, n
	}
	for i := range testkit.Rounds(t, 60) {
		off, n := span()
		b := Buffer(n + 1)[i%2:][:n] // aligned and not
		switch i % 3 {
		case 0:
			copy(b, randomBytes(rnd, n))
			if got, err := f.WriteAt(b, int64(off)); got != n || err != nil {
				t.Fatalf("write of %d at %d of %d: %d, %v", n, off, size, got, err)
			}
			copy(model[off:], b)
		case 1:
			if err := f.ZeroRange(int64(off), int64(n)); err != nil {
				t.Fatalf("zeroing of %d at %d of %d: %v", n, off, size, err)
			}
			clear(model[off : off+n])
		case 2:
			copy(b, randomBytes(rnd, n))
			var ranges []Range // every other piece
			piece := []int{512, 4096, 5000}[rnd.IntN(3)]
			for at := 0; at < n; at += 2 * piece {
				end := min(n, at+piece)
				ranges = append(ranges, Range{int64(off + at), b[at:end]})
				copy(model[off+at:], b[at:end])
			}
			if err := f.WriteRanges(ranges); err != nil {
				t.Fatalf("write of %d ranges at %d of %d: %v", len(ranges), off, size, err)
			}
		}
		off, n = span()
		b = Buffer(n + 1)[i%2:][:n]
		if got, err := f.ReadAt(b, int64(off)); got != n || err != nil && err != io.EOF {
			t.Fatalf("read of %d at %d of %d: %d, %v", n, off, size, got, err)
		}
		if !bytes.Equal(b, model[off:off+n]) {
			t.Fatalf("read of %d at %d of %d: other bytes", n, off, size)
		}
	}
	whole := make([]byte, size)
	if n, err := f.ReadAt(whole, 0); n != size || err != nil || !bytes.Equal(whole, model) {
		t.Fatalf("%d bytes, %v; they are right: %v", n, err, bytes.Equal(whole, model))
	}
	checkEnd(t, f, model)
	checkReread(t, f, model)
}

// checkEnd reads beyond the end, which must give what there is, and io.EOF.
func checkEnd(t *testing.T, f *File, model []byte) {
	t.Helper()
	size := len(model)
	for _, before := range []int{1, 100, 512, 1024, 4096, 0, -512, -5000} {
		off := max(0, size-before)
		for _, n := range []int{1, 511, 512, 4096, 10000} {
			want := min(n, max(0, size-off))
			b := Buffer(n)
			got, err := f.ReadAt(b, int64(off))
			if got != want || got < n && err != io.EOF || !bytes.Equal(b[:got], model[min(off, size):][:got]) {
				t.Errorf("read of %d at %d of %d: %d, %v", n, off, size, got, err)
			}
		}
	}
}

// checkReread reads through a second handle, as CheckWritten does.
func checkReread(t *testing.T, f *File, model []byte) {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	again, err := f.Reread()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Size() != f.Size() || again.IsBlock() != f.IsBlock() {
		t.Errorf("reread: %d bytes, block %v", again.Size(), again.IsBlock())
	}
	var all sync.WaitGroup
	const piece = 100 << 10 // the last one is odd
	for off := 0; off < len(model); off += piece {
		all.Go(func() {
			b := Buffer(min(piece, len(model)-off))
			n, err := again.ReadAt(b, int64(off))
			if n != len(b) || err != nil && err != io.EOF || !bytes.Equal(b, model[off:off+n]) {
				t.Errorf("reread of %d at %d: %d, %v", len(b), off, n, err)
			}
		})
	}
	all.Wait()
	if _, err := again.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the second handle can write")
	}
}

// TestRereadEmpty has nothing to read.
func TestRereadEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	checkReread(t, openTest(t, path), nil)
}

func TestLimit(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	f := openTest(t, device)
	testkit.WantStatus(t, "more than there is", f.Limit(1<<20+1), exit.BadStream)
	if f.Size() != 1<<20 {
		t.Error(f.Size())
	}
	if err := f.Limit(5000); err != nil || f.Size() != 5000 {
		t.Error(f.Size(), err)
	}
	if start, end, err := f.NextData(4096); start != 4096 || end != 5000 || err != nil {
		t.Error(start, end, err)
	}
}

func TestHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := openTest(t, path)
	next := func(off, wantStart, wantEnd int64) {
		t.Helper()
		if start, end, err := f.NextData(off); start != wantStart || end != wantEnd || err != nil {
			t.Errorf("from %d: %d to %d (%v), want %d to %d", off, start, end, err, wantStart, wantEnd)
		}
	}
	next(0, 0, 0)
	const size = 1<<40 + 100
	if err := f.Truncate(size); err != nil {
		t.Skip(err)
	}
	next(0, size, size)
	for _, off := range []int64{1 << 20, 1 << 30} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 64<<10), off); err != nil {
			t.Fatal(err)
		}
	}
	next(0, 1<<20, 1<<20+64<<10)
	next(1<<20+5, 1<<20+5, 1<<20+64<<10)
	next(1<<20+64<<10, 1<<30, 1<<30+64<<10)
	next(1<<30+64<<10, size, size)
	if err := f.ZeroRange(1<<20, 1<<30-1<<20+16<<10); err != nil { // gives the space back
		t.Fatal(err)
	}
	next(0, 1<<30+16<<10, 1<<30+64<<10)
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil || stat.Blocks*512 > 128<<10 || stat.Size != size {
		t.Errorf("%d bytes on the disk of %d, %v", stat.Blocks*512, stat.Size, err)
	}
}

// TestShrunk: behind the end is no hole.
func TestShrunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f := openTest(t, path)
	if err := os.Truncate(path, 1<<19); err != nil {
		t.Fatal(err)
	}
	if start, end, err := f.NextData(1 << 19); err == nil {
		t.Errorf("%d to %d", start, end)
	}
}

// TestZeroInParts zeroes more than the kernel is given at once, with an end that is no
// whole sector.
func TestZeroInParts(t *testing.T) {
	const size = 2*rangeMax + 1<<20
	device, _ := testkit.LoopDevice(t, size)
	f := openTest(t, device)
	marks := []int64{
		0, 4095, 4096, rangeMax, rangeMax + 4095, rangeMax + 4096, 2 * rangeMax, 2*rangeMax + 4096,
		size - 101, size - 100,
	}
	for _, at := range marks {
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ZeroRange(4096, size-100-4096); err != nil {
		t.Fatal(err)
	}
	for _, at := range marks {
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		if want := at < 4096 || at == size-100; (b[0] == 1) != want {
			t.Errorf("byte %d is %d", at, b[0])
		}
	}
}
