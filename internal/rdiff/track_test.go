package rdiff

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// readImage keeps account of the blocks that are read, of any size but the image's last.
type readImage struct {
	*blockdev.File
	blockSize int64
	mu        sync.Mutex
	read      map[int64]int // blocks
}

func (r *readImage) ReadRanges(ranges []blockdev.Range) error {
	r.mu.Lock()
	for _, x := range ranges {
		for i := x.Off / r.blockSize; i*r.blockSize < x.Off+int64(len(x.Buf)); i++ {
			r.read[i]++
		}
	}
	r.mu.Unlock()
	return r.File.ReadRanges(ranges)
}

// listed returns the extents in which two images differ, as far as both have bytes, in units
// as storage has them, and some more.
func listed(rnd *rand.Rand, older, newer []byte) *extent.Set {
	unit := []int{1, 512, 4096, 64 << 10}[rnd.IntN(4)]
	set := extent.NewSet(int64(unit), int64(len(newer)))
	both := min(len(older), len(newer))
	for at := 0; at < both; at += unit {
		end := min(at+unit, both)
		if !bytes.Equal(older[at:end], newer[at:end]) || rnd.IntN(50) == 0 {
			set.Add(int64(at), int64(end-at))
		}
	}
	if rnd.IntN(2) == 0 { // thin_delta lists what was added too
		set.Add(int64(both), int64(len(newer)-both))
	}
	return set
}

func listReader(set *extent.Set) *extent.Reader {
	var text bytes.Buffer
	set.WriteText(&text)
	return extent.NewReader(&text)
}

func track(t testing.TB, list Extents, basis stream.Image, older, newer Image, level int) ([]byte, Result) {
	t.Helper()
	var delta bytes.Buffer
	e, err := stream.NewEncoder(level, 2)
	if err != nil {
		t.Fatal(err)
	}
	w := stream.NewDeltaWriter(&delta, header(basis.Hash, basis.BlockSize, newer.Size()))
	r, err := Track(list, basis, older, newer, Outputs{Delta: w, Encoder: e}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return delta.Bytes(), r
}

// TestTrack: from the extents comes the same delta as from the whole images, byte for byte, and
// nothing else was read.
func TestTrack(t *testing.T) {
	for seed := range uint64(testkit.Rounds(t, 40)) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		blockSize := []int{4 << 10, 64 << 10, 1 << 20}[seed%3]
		sizes := []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 7,
			rnd.IntN(2 << 20), 1<<20 + rnd.IntN(2<<20)}
		hash := []stream.Hash{stream.XXH64, stream.SHA256}[seed/3%2]
		older := randomImage(rnd, sizes[seed%8], blockSize)
		size := len(older)
		if rnd.IntN(2) == 0 {
			size = sizes[rnd.IntN(8)]
		}
		newer := changed(rnd, older, size, blockSize, []float64{0, 0.02, 0.3, 1}[rnd.IntN(4)])
		name := fmt.Sprintf("seed %d, %v, blocks of %d, %d to %d bytes", seed, hash, blockSize, len(older), size)
		t.Run(name, func(t *testing.T) { trackOne(t, rnd, hash, blockSize, older, newer) })
	}
}

func trackOne(t *testing.T, rnd *rand.Rand, hash stream.Hash, blockSize int, older, newer []byte) {
	sparse := rnd.IntN(2) == 0
	a, b := imageFile(t, older, sparse), imageFile(t, newer, !sparse)
	h := header(hash, blockSize, a.Size())
	sig, basis := sign(t, FromImage(a), h)
	want, _, result := diff(t, sig, FromImage(b), 1, b.Size())

	set := listed(rnd, older, newer)
	images := [2]*readImage{{File: a, blockSize: int64(blockSize), read: map[int64]int{}},
		{File: b, blockSize: int64(blockSize), read: map[int64]int{}}}
	got, tracked := track(t, listReader(set), basis, images[0], images[1], 1)
	if !bytes.Equal(got, want) || tracked != result {
		t.Errorf("from %d extents another delta: %+v, want %+v", set.Bytes(), tracked, result)
	}
	if c, err := Track(listReader(set), basis, a, b, Outputs{}, Options{}); err != nil || c != result {
		t.Errorf("without outputs: %+v (%v), want %+v", c, err, result)
	}
	tail := min(len(older), len(newer))
	for i, image := range images {
		for block, times := range image.read {
			off := block * int64(blockSize)
			end := min(off+int64(blockSize), image.Size())
			if times > 1 || set.Overlap(off, end-off) == 0 && (len(older) == len(newer) || off+int64(blockSize) <= int64(tail)) {
				t.Errorf("image %d: block %d was read %d times", i, block, times)
			}
		}
	}
}

// TestTrackMissed leaves an extent out of the list. No sum of the delta tells of it, and neither
// do the blocks that it replaces; but the target then is not the image that the delta says.
func TestTrackMissed(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 2))
	older := randomImage(rnd, 1<<20, 4096)
	newer := bytes.Clone(older)
	full := extent.NewSet(4096, int64(len(newer)))
	missing := extent.NewSet(4096, int64(len(newer)))
	for _, block := range []int{3, 77, 78, 200} {
		fill(rnd, newer[block*4096:(block+1)*4096])
		full.Add(int64(block)*4096, 4096)
		if block != 77 {
			missing.Add(int64(block)*4096, 4096)
		}
	}
	target, a, b := imageFile(t, older, true), imageFile(t, older, false), imageFile(t, newer, false)
	h := header(stream.XXH64, 4096, a.Size())
	_, basis := sign(t, FromImage(a), h)
	delta, result := track(t, listReader(missing), basis, a, b, 1)
	d, err := verify(delta)
	if err == nil {
		err = ProveOld(bytes.NewReader(delta), d, target)
	}
	if err != nil {
		t.Fatal(err)
	}
	apply(t, delta, d, target)
	there, err := DigestOf(target, h, uncounted)
	if err != nil || there != d.Source || there != result.Source {
		t.Errorf("the target holds %v (%v), the delta says %v", there, err, d.Source)
	}
	here, err := DigestOf(b, h, uncounted)
	if err != nil || here == there {
		t.Errorf("a full reading of the source does not tell: %v, %v", here, err)
	}
	delta, _ = track(t, listReader(full), basis, a, b, 1)
	if d, err = verify(delta); err != nil || d.Source != here {
		t.Errorf("with the whole list: %v (%v), want %v", d.Source, err, here)
	}
}

// TestTrackRefused: a list that is wrong leaves no end record.
func TestTrackRefused(t *testing.T) {
	image := make([]byte, 10_000)
	a, b := imageFile(t, image, false), imageFile(t, image[:9000], false)
	h := header(stream.XXH64, 4096, a.Size())
	_, basis := sign(t, FromImage(a), h)
	for text, word := range map[string]string{
		"":                                "empty",
		"0 10\n":                          "cut",
		"9000 1000\n9999 2\nend 2 1002":   "before the end",
		"9999 2\nend 1 2\n":               "beyond both images",
		"10000 1\nend 1 1\n":              "beyond both images",
		"0 1\n9223372036854775806 1\n":    "beyond both images",
		"9000 1000\nend 1 999\n":          "end line",
		"0 4096\n4096 4096\nend 2 8191\n": "end line",
	} {
		var delta bytes.Buffer
		w := stream.NewDeltaWriter(&delta, header(basis.Hash, basis.BlockSize, b.Size()))
		e, _ := stream.NewEncoder(1, 1)
		_, err := Track(extent.NewReader(strings.NewReader(text)), basis, a, b, Outputs{Delta: w, Encoder: e}, Options{})
		if exit.StatusOf(err) != exit.BadStream || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v", text, err)
		}
		w.Flush()
		if _, err := verify(delta.Bytes()); exit.StatusOf(err) != exit.BadStream {
			t.Errorf("%q: the delta is complete: %v", text, err)
		}
	}
	broken := fmt.Errorf("broken")
	if _, err := Track(noExtents{}, basis, a, b, Outputs{}, Options{
		BeforeEnd: func(stream.Image) error { return broken }}); err != broken {
		t.Errorf("BeforeEnd: %v", err)
	}
}

type noExtents struct{}

func (noExtents) Next() (int64, int64, error) { return 0, 0, io.EOF }

// TestTrackVast: what was added and is not there, or was there and is not now, costs no time.
func TestTrackVast(t *testing.T) {
	small, vast := imageFile(t, []byte("small"), false), imageFile(t, []byte("small"), false)
	if err := vast.Truncate(8 << 40); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]*blockdev.File{{small, vast}, {vast, small}, {vast, vast}} {
		h := header(stream.XXH64, 4096, pair[0].Size())
		basis, err := DigestOf(pair[0], h, uncounted)
		if err != nil {
			t.Fatal(err)
		}
		set := extent.NewSet(4096, pair[1].Size())
		set.Add(0, pair[1].Size())
		delta, result := track(t, listReader(set), basis, pair[0], pair[1], 1)
		want, err := DigestOf(pair[1], h, uncounted)
		if err != nil || result.Source != want {
			t.Errorf("%v, %v, want %v", result, err, want)
		}
		if d, err := verify(delta); err != nil || d.Source != want {
			t.Errorf("%v, %v, want %v", d, err, want)
		}
	}
}
