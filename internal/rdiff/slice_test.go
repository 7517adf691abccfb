package rdiff

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

const sliceBlock = 64 << 10

// zeroed is a basis of data, the source with a zero run of several slices in it and a
// tail dropped, and the delta.
func zeroed(t *testing.T) (basis, source, delta []byte, d Delta) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(11, 11))
	basis = make([]byte, 6*sliceSize+7)
	for at := 0; at < len(basis); at += sliceBlock {
		fill(rnd, basis[at:min(at+512, len(basis))])
	}
	source = bytes.Clone(basis[:4*sliceSize+sliceBlock])
	source[0]++
	clear(source[3*sliceBlock : 3*sliceSize+5*sliceBlock])
	source[len(source)-1]++
	h := header(stream.XXH64, sliceBlock, int64(len(source)))
	sig, _ := sign(t, FromImage(imageFile(t, basis, true)), h)
	delta, _, _ = diff(t, sig, FromImage(imageFile(t, source, true)), 1, h.Size)
	d, err := verify(delta)
	if err != nil || d.Zeroes != 3*sliceSize/sliceBlock+2 {
		t.Fatalf("%d zero blocks, %v", d.Zeroes, err)
	}
	return basis, source, delta, d
}

// TestSlices looks at each slice of a long zero run, and at a dropped tail as long.
func TestSlices(t *testing.T) {
	basis, source, delta, d := zeroed(t)
	in := func() *bytes.Reader { return bytes.NewReader(delta) }
	inPlace := func(target Target) error {
		_, err := ApplyInPlace(in(), target, int64(len(basis)), Steps{})
		return err
	}
	if err := ProveOld(in(), d, imageFile(t, basis, true)); err != nil {
		t.Errorf("right basis: %v", err)
	}
	for _, at := range testkit.Some(t, 1, 3*sliceSize+4*sliceBlock, 5*sliceSize, 3*sliceBlock, sliceSize, 2*sliceSize+9*sliceBlock) {
		other := bytes.Clone(basis)
		other[at]++
		target := imageFile(t, other, true)
		testkit.WantStatus(t, "another basis", ProveOld(in(), d, target), exit.NotBasis)
		testkit.WantStatus(t, "another basis, in place", inPlace(target), exit.NotBasis)
		if at < len(source) && !bytes.Equal(content(t, target), other) {
			t.Errorf("byte %d differs, and the frame was written", at)
		}
	}

	target := imageFile(t, basis, true)
	if err := inPlace(target); err != nil {
		t.Fatal(err)
	}
	if got := content(t, target)[:len(source)]; !bytes.Equal(got, source) {
		t.Error("in place: the target is not the source")
	}
	target = imageFile(t, basis, true)
	if err := errors.Join(Apply(in(), d, target), target.Truncate(d.Source.Size)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, target), source) {
		t.Error("the target is not the source")
	}
	if err := errors.Join(CheckWritten(in(), d, target), ProveRest(in(), d, target, uncounted)); err != nil {
		t.Error(err)
	}
	for _, at := range []int64{3 * sliceBlock, sliceSize, 3*sliceSize + 4*sliceBlock} {
		if _, err := target.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if CheckWritten(in(), d, target) == nil {
			t.Errorf("byte %d reads back as another one, unnoticed", at)
		}
		if err := ProveRest(in(), d, target, uncounted); err != nil {
			t.Errorf("byte %d is to be written again: %v", at, err)
		}
		target.WriteAt([]byte{0}, at)
	}
	if _, err := target.WriteAt([]byte{1}, sliceBlock); err != nil {
		t.Fatal(err)
	}
	if err := ProveRest(in(), d, target, uncounted); err != ErrNotRest {
		t.Errorf("another block beside the run: %v", err)
	}
}

// TestSlicesInParallel reads a long zero run at such a depth that a disk has something to
// do: no read ends before others have begun.
func TestSlicesInParallel(t *testing.T) {
	basis, source, delta, d := zeroed(t)
	in := func() *bytes.Reader { return bytes.NewReader(delta) }
	old, now := imageFile(t, basis, false), imageFile(t, source, false)
	for name, pass := range map[string]func() error{
		"proving":      func() error { return ProveOld(in(), d, together(old, 3)) },
		"reading back": func() error { return CheckWritten(in(), d, together(now, 3)) },
		"in place": func() error {
			_, err := ApplyInPlace(in(), together(imageFile(t, basis, false), 3), int64(len(basis)), Steps{})
			return err
		},
		"recovering": func() error {
			return ProveRest(in(), d, together(now, 3), uncounted)
		},
		"dropping": func() error { return proveDropped(d, together(old, 2), stream.Sum{}) },
	} {
		if err := pass(); err != nil && (name != "dropping" || err != ErrNotBasis) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errAlone = errors.New("one read after another")

// company is an image whose first reads wait for others.
type company struct {
	*blockdev.File
	want int
	mu   sync.Mutex
	here int           // reads that have begun
	met  chan struct{} // closed when there were enough at once
}

func together(f *blockdev.File, n int) *company {
	return &company{File: f, want: n, met: make(chan struct{})}
}

func (c *company) ReadRanges(ranges []blockdev.Range) error {
	c.mu.Lock()
	if c.here++; c.here == c.want {
		close(c.met)
	}
	c.mu.Unlock()
	select {
	case <-c.met:
		return c.File.ReadRanges(ranges)
	case <-time.After(testkit.Long):
		return errAlone
	}
}
