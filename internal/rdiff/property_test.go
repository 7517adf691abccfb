package rdiff

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// TestRoundTrip brings images of all shapes up to date, and holds each step
// against the plainest implementation of what it should find. 24 have each block size with each hash and each size.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(testkit.Rounds(t, 24)) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		blockSize := []int{4 << 10, 64 << 10, 1 << 20}[seed%3]
		sizes := []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 7,
			rnd.IntN(2 << 20), 1<<20 + rnd.IntN(2<<20)}
		hash := []stream.Hash{stream.XXH64, stream.SHA256}[seed/3%2]
		basis := randomImage(rnd, sizes[seed%8], blockSize)
		size := len(basis)
		if rnd.IntN(2) == 0 {
			size = sizes[rnd.IntN(8)]
		}
		share := []float64{0, 0.02, 0.3, 1}[rnd.IntN(4)]
		source := changed(rnd, basis, size, blockSize, share)
		name := fmt.Sprintf("seed %d, %v, blocks of %d, %d to %d bytes, %.2f changed",
			seed, hash, blockSize, len(basis), size, share)
		t.Run(name, func(t *testing.T) { roundTrip(t, rnd, hash, blockSize, basis, source) })
	}
}

func roundTrip(t *testing.T, rnd *rand.Rand, hash stream.Hash, blockSize int, basis, source []byte) {
	sparse := rnd.IntN(2) == 0
	target, src := imageFile(t, basis, sparse), imageFile(t, source, sparse)
	h := header(hash, blockSize, target.Size())

	sig, basisDigest := sign(t, FromImage(target), h)
	if want := digestOf(hash, blockSize, basis); basisDigest != want {
		t.Fatalf("digest of the basis is %v, want %v", basisDigest, want)
	}
	if again, err := DigestOf(target, h, uncounted); err != nil || again != basisDigest {
		t.Errorf("DigestOf gives %v (%v), Sign %v", again, err, basisDigest)
	}
	for name, same := range map[string]Source{
		"file with other holes": FromImage(imageFile(t, basis, !sparse)),
		"pipe":                  FromPipe(slowReader{bytes.NewReader(basis), rnd}),
	} {
		if got, _ := sign(t, same, h); !bytes.Equal(got, sig) {
			t.Errorf("the signature of a %s is another one", name)
		}
	}

	level := rnd.IntN(4)
	delta, newSig, result := diff(t, sig, FromImage(src), level, int64(len(source)))
	for name, same := range map[string]Source{
		"file with other holes": FromImage(imageFile(t, source, !sparse)),
		"pipe":                  FromPipe(slowReader{bytes.NewReader(source), rnd}),
	} {
		d, s, r := diff(t, sig, same, level, int64(len(source)))
		if !bytes.Equal(d, delta) || !bytes.Equal(s, newSig) || r != result {
			t.Errorf("the delta of a %s is another one", name)
		}
	}
	sourceDigest := digestOf(hash, blockSize, source)
	blocks, size := differing(basis, source, blockSize)
	want := Result{sourceDigest, blocks, size, len(source) < len(basis)}
	if result != want || result.Differs() == bytes.Equal(basis, source) {
		t.Errorf("result %+v, want %+v", result, want)
	}
	if check, err := Diff(signatureReader(t, sig), FromImage(src), Outputs{}, Options{}); err != nil || check != result {
		t.Errorf("without outputs: %+v (%v), want %+v", check, err, result)
	}
	h.Size = src.Size()
	if direct, _ := sign(t, FromImage(src), h); !bytes.Equal(direct, newSig) {
		t.Error("the new signature is not the source's")
	}

	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	if d.Basis != basisDigest || d.Source != sourceDigest || d.Literals+d.Zeroes != blocks || d.Bytes != int64(len(delta)) {
		t.Errorf("the delta is %+v", d)
	}
	if hash.Sub(basisDigest.Sum, sourceDigest.Sum) != hash.Sub(d.Old, literalSum(t, delta)) {
		t.Error("old terms and literal terms don't make the difference of the digests")
	}
	if err := ProveOld(bytes.NewReader(delta), d, target); err != nil {
		t.Fatal(err)
	}
	apply(t, delta, d, target)
	if got := content(t, target); !bytes.Equal(got, source) {
		t.Fatal("the target is not the source")
	}
	again, err := target.Reread()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := CheckWritten(bytes.NewReader(delta), d, again); err != nil {
		t.Error(err)
	}
	apply(t, delta, d, target) // a recovery applies it once more
	if got := content(t, target); !bytes.Equal(got, source) {
		t.Error("a delta applied twice is another one")
	}
	inPlace(t, delta, basis, source)
	proveRest(t, delta, d, basis, source)
	onLarger(t, delta, d, basis, source)
}

// proveRest does as if an apply had been interrupted: what it would have written may
// have any content, and nothing else may have changed.
func proveRest(t *testing.T, delta []byte, d Delta, basis, source []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(len(delta)), 9))
	// with more bytes than the basis, perhaps, and not dropped yet
	mix := append(bytes.Clone(basis), make([]byte, rnd.IntN(max(0, len(source)-len(basis))+1))...)
	mix = mix[:min(len(mix), len(source))]
	kept := -1 // a byte that the delta leaves alone
	for at := 0; at < len(mix); at += d.BlockSize {
		block := mix[at:min(at+d.BlockSize, len(mix))]
		old, now := basis[min(at, len(basis)):min(at+d.BlockSize, len(basis))], source[at:min(at+d.BlockSize, len(source))]
		switch {
		case bytes.Equal(old, now):
			kept = at
		case rnd.IntN(3) == 0:
			copy(block, now)
		case rnd.IntN(2) == 0:
			fill(rnd, block)
		}
	}
	check := func() error { return ProveRest(bytes.NewReader(delta), d, imageFile(t, mix, true), uncounted) }
	if err := check(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if kept >= 0 {
		mix[kept] ^= 1
		if err := check(); err != ErrNotRest {
			t.Errorf("byte %d, which the delta leaves alone, changed: %v", kept, err)
		}
	}
}

// onLarger applies to a target that is larger than both images: what lies behind
// the source is left alone.
func onLarger(t *testing.T, delta []byte, d Delta, basis, source []byte) {
	t.Helper()
	old := append(bytes.Clone(basis), bytes.Repeat([]byte{0xee}, max(0, len(source)-len(basis))+5000)...)
	target := imageFile(t, old, false)
	if err := ProveOld(bytes.NewReader(delta), d, target); err != nil {
		t.Error(err)
	}
	if err := Apply(bytes.NewReader(delta), d, target); err != nil {
		t.Fatal(err)
	}
	if err := CheckWritten(bytes.NewReader(delta), d, target); err != nil {
		t.Error(err)
	}
	got := content(t, target)
	if !bytes.Equal(got[:len(source)], source) || !bytes.Equal(got[len(source):], old[len(source):]) {
		t.Error("on a larger target: it is not the source and then what was there")
	}
}

// apply does what xb-patch does.
func apply(t *testing.T, delta []byte, d Delta, target interface {
	Target
	Truncate(int64) error
	Sync() error
}) {
	t.Helper()
	if d.Source.Size > target.Size() {
		if err := target.Truncate(d.Source.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := Apply(bytes.NewReader(delta), d, target); err != nil {
		t.Fatal(err)
	}
	if err := target.Truncate(d.Source.Size); err != nil {
		t.Fatal(err)
	}
	if err := target.Sync(); err != nil {
		t.Fatal(err)
	}
}

func inPlace(t *testing.T, delta, basis, source []byte) {
	t.Helper()
	target := imageFile(t, basis, true)
	if len(source) > len(basis) {
		if err := target.Truncate(int64(len(source))); err != nil {
			t.Fatal(err)
		}
	}
	begun, counted, trail := make(chan bool, 1<<16), int64(0), (*Trail)(nil)
	d, err := ApplyInPlace(bytes.NewReader(delta), target, int64(len(basis)), Steps{
		Header: func(h stream.Header) error {
			if h.Size != int64(len(source)) {
				t.Errorf("header %+v", h)
			}
			image := openImage(t, target.Path())
			if err := image.Limit(h.Size); err != nil {
				return err
			}
			trail = startTrail(image, h, image.Sync, 2*int64(h.BlockSize))
			return nil
		},
		BeforeWrite: func() error { begun <- true; return nil },
		Done: func(literal, end int64) {
			counted += literal
			trail.Written(end)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if read, err := trail.Digest(); err != nil || read != d.Source {
		t.Errorf("in place: read back behind the writer: %v, %v, not %v", read, err, d.Source)
	}
	if err := target.Truncate(d.Source.Size); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, target), source) {
		t.Error("in place: the target is not the source")
	}
	if int64(len(begun)) != d.Frames || d.LiteralBytes != counted {
		t.Errorf("in place: %d writes begun of %d frames, %d bytes counted of %d",
			len(begun), d.Frames, counted, d.LiteralBytes)
	}
}

// literalSum sums up the terms of a delta's literal blocks.
func literalSum(t *testing.T, delta []byte) (sum stream.Sum) {
	r, err := stream.NewDeltaReader(bytes.NewReader(delta))
	if err != nil {
		t.Fatal(err)
	}
	var f stream.Frame
	for r.Next(&f) == nil {
		raw, err := f.Decode(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range f.Runs {
			for i := run.First; i < run.End() && !run.Zero; i++ {
				hash := make([]byte, r.Hash.Size())
				n := min(len(raw), r.BlockSize)
				r.Hash.Block(hash, raw[:n])
				sum = r.Hash.Add(sum, r.Hash.Term(i, hash))
				raw = raw[n:]
			}
		}
	}
	return sum
}

// TestSlowestPipe reads a source byte by byte.
func TestSlowestPipe(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	image := randomImage(rnd, 600<<10+5, 4096) // more than a piece
	h := header(stream.XXH64, 4096, -1)
	want, _ := sign(t, FromImage(imageFile(t, image, true)), h)
	got, _ := sign(t, FromPipe(iotest.OneByteReader(bytes.NewReader(image))), h)
	if !bytes.Equal(got, want) {
		t.Error("the signature of a slow pipe is another one")
	}
}

// TestFullFrames has more runs, and more data, than a frame holds.
func TestFullFrames(t *testing.T) {
	const blocks = 9000
	basis := make([]byte, blocks*4096)
	source := make([]byte, blocks*4096)
	for i := range blocks {
		switch {
		case i < 8500 && i%2 == 0:
			basis[i*4096] = 1 // becomes zero: 4250 runs without data
		case i > 8510:
			source[i*4096+1] = 2 // 489 adjacent blocks of data
		}
	}
	target := imageFile(t, basis, true)
	sig, _ := sign(t, FromImage(target), header(stream.XXH64, 4096, -1))
	delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, true)), 1, -1)
	var shape [][2]int64 // runs and literal blocks
	r, err := stream.NewDeltaReader(bytes.NewReader(delta))
	if err != nil {
		t.Fatal(err)
	}
	var f stream.Frame
	for r.Next(&f) == nil {
		shape = append(shape, [2]int64{int64(len(f.Runs)), f.Literals()})
	}
	// 4096 runs; the other 154 and 256 blocks of data; the other 233.
	if want := "[[4096 0] [155 256] [1 233]]"; fmt.Sprint(shape) != want {
		t.Errorf("frames of %v, want %s", shape, want)
	}
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, delta, d, target)
	if !bytes.Equal(content(t, target), source) {
		t.Error("the target is not the source")
	}
}
