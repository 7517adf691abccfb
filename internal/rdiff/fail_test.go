package rdiff

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

var errBroken = errors.New("broken disk")

// brokenFile fails from the nth read or write on, as a dying disk does.
type brokenFile struct {
	*blockdev.File
	reads, writes atomic.Int64 // left before it fails
	short         bool         // a failed write writes half
	lie           int64        // offset of a byte that reads as another; 0 none
}

func breaking(f *blockdev.File, reads, writes int64) *brokenFile {
	b := &brokenFile{File: f}
	b.reads.Store(reads)
	b.writes.Store(writes)
	return b
}

func (f *brokenFile) ReadAt(b []byte, off int64) (int, error) {
	if f.reads.Add(-1) < 0 {
		return 0, errBroken
	}
	n, err := f.File.ReadAt(b, off)
	if at := f.lie - off; f.lie > 0 && at >= 0 && at < int64(n) {
		b[at]++
	}
	return n, err
}

func (f *brokenFile) ReadRanges(ranges []blockdev.Range) error {
	for _, r := range ranges {
		if err := readFull(f, r.Buf, r.Off); err != nil {
			return err
		}
	}
	return nil
}

func (f *brokenFile) WriteAt(b []byte, off int64) (int, error) {
	if f.writes.Add(-1) < 0 {
		if f.short {
			n, _ := f.File.WriteAt(b[:len(b)/2], off)
			return n, errBroken
		}
		return 0, errBroken
	}
	return f.File.WriteAt(b, off)
}

func (f *brokenFile) WriteRanges(ranges []blockdev.Range) error {
	for _, r := range ranges {
		if _, err := f.WriteAt(r.Buf, r.Off); err != nil {
			return err
		}
	}
	return nil
}

func (f *brokenFile) ZeroRange(off, n int64) error {
	if f.writes.Add(-1) < 0 {
		return errBroken
	}
	return f.File.ZeroRange(off, n)
}

// noLeak fails the test if goroutines stay behind.
func noLeak(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(testkit.Long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
	})
}

func TestReadErrors(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	image := make([]byte, 6<<20) // 12 pieces
	fill(rnd, image)
	f := imageFile(t, image, false)
	h := header(stream.XXH64, testBlock, -1)
	sig, _ := sign(t, FromImage(imageFile(t, nil, false)), h)
	noLeak(t)
	for reads := range int64(13) {
		var b bytes.Buffer
		_, err := Sign(FromImage(breaking(f, reads, 0)), h, stream.NewSignatureWriter(&b, h), Options{})
		if failed := errors.Is(err, errBroken); failed != (reads < 12) {
			t.Errorf("Sign after %d reads: %v", reads, err)
		}
		_, err = Diff(signatureReader(t, sig), FromImage(breaking(f, reads, 0)), Outputs{}, Options{})
		if failed := errors.Is(err, errBroken); failed != (reads < 12) {
			t.Errorf("Diff after %d reads: %v", reads, err)
		}
	}
	for _, n := range []int64{0, 1, 600 << 10} {
		pipe := io.MultiReader(bytes.NewReader(image[:n]), iotest.ErrReader(errBroken))
		if _, err := Sign(FromPipe(pipe), h, nil, Options{}); !errors.Is(err, errBroken) {
			t.Errorf("pipe broken after %d bytes: %v", n, err)
		}
	}
}

// TestShrinks: an image that becomes shorter while it is read is no image that
// ends in zeroes.
func TestShrinks(t *testing.T) {
	const size = 8 << 20
	data := bytes.Repeat([]byte{1}, 1<<20)
	for name, test := range map[string]struct{ data, cut []int64 }{
		"all data": {
			[]int64{0, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 6 << 20, 7 << 20}, []int64{0, 1, 5<<20 + 5, size - 1}},
		"data, holes, data":   {[]int64{0, 7 << 20}, []int64{0, 1, 1 << 20, 5 << 20, size - 1}},
		"data and then holes": {[]int64{0, 3 << 20}, []int64{0, 1, 2 << 20, 3<<20 + 7}},
	} {
		for _, cut := range test.cut {
			f := imageFile(t, make([]byte, size), true)
			for _, off := range test.data {
				if _, err := f.WriteAt(data, off); err != nil {
					t.Fatal(err)
				}
			}
			shrunk := &shrinkingFile{File: f, to: cut}
			if _, err := Sign(FromImage(shrunk), header(stream.XXH64, testBlock, -1), nil, Options{}); err == nil {
				t.Errorf("%s, cut to %d: taken for an image of %d bytes", name, cut, size)
			}
		}
	}
}

// shrinkingFile is cut by somebody else after the first question where data is.
type shrinkingFile struct {
	*blockdev.File
	to  int64
	cut bool
}

func (f *shrinkingFile) NextData(off int64) (int64, int64, error) {
	start, end, err := f.File.NextData(off)
	if !f.cut {
		f.cut = true
		if err := os.Truncate(f.Path(), f.to); err != nil {
			return 0, 0, err
		}
	}
	return start, end, err
}

func TestWriteErrors(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	basis := make([]byte, 5<<20)
	fill(rnd, basis)
	source := make([]byte, 5<<20)
	for i := range source[:4<<20] {
		source[i] = basis[i] + 1
	}
	basisFile := imageFile(t, basis, false)
	sig, _ := sign(t, FromImage(basisFile), header(stream.XXH64, testBlock, -1))
	delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, true)), 0, int64(len(source)))
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	noLeak(t)
	for writes := range int64(6) { // 4 frames of data, the last one also has a zero run
		for _, short := range []bool{false, true} {
			target := breaking(imageFile(t, basis, false), 1e6, writes)
			target.short = short
			err := Apply(bytes.NewReader(delta), d, target)
			if failed := errors.Is(err, errBroken); failed != (writes < 5) {
				t.Errorf("Apply after %d writes: %v", writes, err)
			}
			target = breaking(imageFile(t, basis, false), 1e6, writes)
			_, err = ApplyInPlace(bytes.NewReader(delta), target, int64(len(basis)), Steps{})
			if failed := errors.Is(err, errBroken); failed != (writes < 5) {
				t.Errorf("ApplyInPlace after %d writes: %v", writes, err)
			}
		}
	}
	if err := ProveOld(bytes.NewReader(delta), d, breaking(basisFile, 2, 0)); !errors.Is(err, errBroken) {
		t.Errorf("ProveOld: %v", err)
	}

	apply(t, delta, d, basisFile)
	check := func(target *brokenFile) error { return CheckWritten(bytes.NewReader(delta), d, target) }
	if err := check(breaking(basisFile, 1e6, 0)); err != nil {
		t.Error(err)
	}
	if err := check(breaking(basisFile, 2, 0)); !errors.Is(err, errBroken) {
		t.Errorf("CheckWritten of a disk that can't be read: %v", err)
	}
	for _, at := range []int64{1, 1 << 20, 4<<20 - 1, 4 << 20, 5<<20 - 1} {
		target := breaking(basisFile, 1e6, 0)
		target.lie = at
		// Where the file has a hole nothing is read that could lie.
		if start, _, _ := basisFile.NextData(at); start == at {
			testkit.WantStatus(t, "CheckWritten of a disk that lies", check(target), exit.IOError)
		}
		if _, err := basisFile.WriteAt([]byte{source[at] + 1}, at); err != nil {
			t.Fatal(err)
		}
		testkit.WantStatus(t, "CheckWritten of a wrong byte", check(breaking(basisFile, 1e6, 0)), exit.IOError)
		if _, err := basisFile.WriteAt(source[at:at+1], at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoSpace applies to a sparse file on a file system that is full.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("xbtest", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(dir, "target")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
	source := bytes.Repeat([]byte{3}, 4<<20)
	sig, _ := sign(t, FromPipe(bytes.NewReader(make([]byte, 4<<20))), header(stream.XXH64, testBlock, -1))
	delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, false)), 1, -1)
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	target, err := blockdev.OpenWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	err = Apply(bytes.NewReader(delta), d, target)
	if !errors.Is(err, syscall.ENOSPC) || exit.StatusOf(err) != exit.IOError {
		t.Errorf("full disk: %v", err)
	}
}

// TestOutputErrors: an output that fails ends the run with its error.
func TestOutputErrors(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	image := make([]byte, 8<<20)
	fill(rnd, image)
	img := imageFile(t, image, false)
	h := header(stream.SHA256, testBlock, -1)
	sig, _ := sign(t, FromImage(imageFile(t, nil, false)), h)
	e, _ := stream.NewEncoder(0, 1)
	noLeak(t)
	for _, room := range []int{0, 10, 40 << 10, 3 << 20} {
		if room < 60<<10 {
			full := stream.NewSignatureWriter(&testkit.FullWriter{Room: room}, h)
			if _, err := Sign(FromImage(img), h, full, Options{}); !errors.Is(err, testkit.ErrFull) {
				t.Errorf("Sign with room for %d bytes: %v", room, err)
			}
			out := Outputs{stream.NewDeltaWriter(io.Discard, h), e, stream.NewSignatureWriter(&testkit.FullWriter{Room: room}, h)}
			if _, err := Diff(signatureReader(t, sig), FromImage(img), out, Options{}); !errors.Is(err, testkit.ErrFull) {
				t.Errorf("Diff with room for a signature of %d bytes: %v", room, err)
			}
		}
		out := Outputs{Delta: stream.NewDeltaWriter(&testkit.FullWriter{Room: room}, h), Encoder: e}
		if _, err := Diff(signatureReader(t, sig), FromImage(img), out, Options{}); !errors.Is(err, testkit.ErrFull) {
			t.Errorf("Diff with room for a delta of %d bytes: %v", room, err)
		}
	}
}

func TestOptions(t *testing.T) {
	image := make([]byte, 3<<20+5)
	fill(rand.New(rand.NewPCG(1, 1)), image[:1<<20])
	img := imageFile(t, image, true)
	h := header(stream.XXH64, testBlock, -1)
	sig, want := sign(t, FromImage(imageFile(t, nil, false)), h)
	var done, read int64
	o := Options{Count: func(d, r int64) error { done, read = done+d, read+r; return nil }}
	if _, err := Sign(FromImage(img), h, nil, o); err != nil || done != 3<<20+5 || read > 1<<20+testBlock {
		t.Errorf("%v, %d bytes done, %d read", err, done, read)
	}

	broken := Options{Count: func(int64, int64) error { return errBroken }}
	if _, err := Sign(FromImage(img), h, nil, broken); err != errBroken {
		t.Errorf("refused by Count: %v", err)
	}

	// A source that proves bad after the last read must not give a whole stream.
	invalid := exit.Fail(exit.BadSnapshot, "snapshot overflowed")
	o.BeforeEnd = func(d stream.Image) error { want = d; return invalid }
	var delta, newSig, direct bytes.Buffer
	e, _ := stream.NewEncoder(1, 1)
	out := Outputs{stream.NewDeltaWriter(&delta, h), e, stream.NewSignatureWriter(&newSig, h)}
	if _, err := Diff(signatureReader(t, sig), FromImage(img), out, o); err != invalid {
		t.Errorf("Diff: %v", err)
	}
	if want != digestOf(h.Hash, testBlock, image) {
		t.Errorf("digest %+v", want)
	}
	out.Delta.Flush()
	if _, err := verify(delta.Bytes()); exit.StatusOf(err) != exit.BadStream {
		t.Errorf("the delta of a bad snapshot: %v", err)
	}
	if _, err := Sign(FromImage(img), h, stream.NewSignatureWriter(&direct, h), o); err != invalid {
		t.Errorf("Sign: %v", err)
	}
	for _, b := range [][]byte{newSig.Bytes(), direct.Bytes()} {
		if err := verifySignature(b); exit.StatusOf(err) != exit.BadStream {
			t.Errorf("the signature of a bad snapshot: %v", err)
		}
	}
}
