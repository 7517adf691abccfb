package rdiff

import (
	"bytes"
	"testing"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// TestGolden makes the images that the golden streams are of (see their comments).
func TestGolden(t *testing.T) {
	for _, hash := range []stream.Hash{stream.XXH64, stream.SHA256} {
		image := make([]byte, 16484)
		copy(image, bytes.Repeat([]byte{1}, testBlock))
		copy(image[3*testBlock:], bytes.Repeat([]byte{2}, testBlock))
		copy(image[4*testBlock:], bytes.Repeat([]byte{3}, 100))
		got, _ := sign(t, FromImage(imageFile(t, image, true)), header(hash, testBlock, 16484))
		if want := testkit.Golden(t, "signature-"+hash.String()); !bytes.Equal(got, want) {
			t.Errorf("signature\n%x, want\n%x", got, want)
		}

		basis := make([]byte, 8192)
		copy(basis, bytes.Repeat([]byte{1}, testBlock))
		source := append(make([]byte, 3*testBlock), "abc"...)
		sig, _ := sign(t, FromImage(imageFile(t, basis, true)), header(hash, testBlock, 8192))
		for level := range 3 {
			delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, true)), level, 12291)
			if want := testkit.Golden(t, "delta-"+hash.String()); !bytes.Equal(delta, want) {
				t.Errorf("delta\n%x, want\n%x", delta, want)
			}
		}
	}
}

// TestHugeSparse: holes cost nothing, however large they are.
func TestHugeSparse(t *testing.T) {
	const size = 1<<40 + 5
	sparse := func(data ...int64) *blockdev.File {
		f := imageFile(t, nil, true)
		if err := f.Truncate(size); err != nil {
			t.Skipf("no large files here: %v", err)
		}
		for _, off := range data {
			if _, err := f.WriteAt([]byte{1}, off); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	target, src := sparse(1<<30, 1<<39), sparse(1<<30, 1<<38, size-1)
	sig, _ := sign(t, FromImage(target), header(stream.XXH64, testBlock, size))
	if len(sig) > 200 {
		t.Errorf("the signature has %d bytes", len(sig))
	}
	delta, _, result := diff(t, sig, FromImage(src), 1, size)
	if result.Blocks != 3 || result.Bytes != 2*testBlock+5 || len(delta) > 500 {
		t.Errorf("%+v in %d bytes", result, len(delta))
	}
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	if err := ProveOld(bytes.NewReader(delta), d, target); err != nil {
		t.Error(err)
	}
	apply(t, delta, d, target)
	if got, err := DigestOf(target, d.Header, uncounted); err != nil || got != result.Source {
		t.Errorf("digest %v (%v), want %v", got, err, result.Source)
	}

	// All of it against nothing, and nothing against all of it.
	none, _ := sign(t, FromImage(imageFile(t, nil, true)), header(stream.XXH64, testBlock, 0))
	if _, _, r := diff(t, none, FromImage(src), 1, size); r.Blocks != size/testBlock+1 || r.Bytes != size {
		t.Errorf("from nothing: %+v", r)
	}
	if _, _, r := diff(t, sig, FromImage(imageFile(t, nil, true)), 1, 0); r.Blocks != 0 || !r.Dropped {
		t.Errorf("to nothing: %+v", r)
	}
}
