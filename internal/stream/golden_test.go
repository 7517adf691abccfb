package stream

import (
	"bytes"
	"io"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// golden reads bytes written by hand: hexadecimal digits and comments.
// content of the blocks in the golden streams.
var (
	blockA = bytes.Repeat([]byte{1}, 4096)
	blockB = bytes.Repeat([]byte{2}, 4096)
	blockC = bytes.Repeat([]byte{3}, 100)
	blockD = []byte("abc")
)

func hashOf(h Hash, block []byte) []byte {
	b := make([]byte, h.Size())
	h.Block(b, block)
	return b
}

func sumOf(h Hash, blocks map[int64][]byte) (sum Sum) {
	for i, block := range blocks {
		sum = h.Add(sum, h.Term(i, hashOf(h, block)))
	}
	return sum
}

func bothHashes(t *testing.T, test func(*testing.T, Hash)) {
	for _, h := range []Hash{XXH64, SHA256} {
		t.Run(h.String(), func(t *testing.T) { test(t, h) })
	}
}

func TestGoldenSignature(t *testing.T) {
	bothHashes(t, func(t *testing.T, h Hash) {
		want := testkit.Golden(t, "signature-"+h.String())
		digest := Image{4096, h, 16484, sumOf(h, map[int64][]byte{0: blockA, 3: blockB, 4: blockC})}

		var got bytes.Buffer
		w := NewSignatureWriter(&got, Header{BlockSize: 4096, Hash: h, Size: 16484})
		w.Hash(hashOf(h, blockA))
		w.Zeroes(1)
		w.Zeroes(1)
		w.Hash(hashOf(h, blockB))
		w.Hash(hashOf(h, blockC))
		if err := w.End(digest); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("written\n%x, want\n%x", got.Bytes(), want)
		}
		if w.Written() != int64(len(want)) {
			t.Errorf("Written is %d, not %d", w.Written(), len(want))
		}

		r, err := NewSignatureReader(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		if r.Header != (Header{4096, h, 16484}) {
			t.Errorf("header %+v", r.Header)
		}
		var rec SignatureRecord
		for i, want := range []SignatureRecord{
			{1, hashOf(h, blockA)},
			{2, nil},
			{2, append(hashOf(h, blockB), hashOf(h, blockC)...)},
		} {
			if err := r.Next(&rec); err != nil || rec.Count != want.Count || !bytes.Equal(rec.Hashes, want.Hashes) ||
				(rec.Hashes == nil) != (want.Hashes == nil) {
				t.Errorf("record %d is %+v (%v), want %+v", i, rec, err, want)
			}
		}
		if err := r.Next(&rec); err != io.EOF || rec.Count != 0 {
			t.Errorf("end: %v, count %d", err, rec.Count)
		}
		if r.Image != digest || r.Records != 3 || r.Hashed != 3 || r.Zero != 2 {
			t.Errorf("end record %+v, %d records, %d hashed, %d zero", r.Image, r.Records, r.Hashed, r.Zero)
		}
		if err := r.CheckSum(digest.Sum); err != nil {
			t.Error(err)
		}
		testkit.WantStatus(t, "other sum", r.CheckSum(h.Add(digest.Sum, Sum{1})), exit.BadStream)
	})
}

func goldenRuns() []Run { return []Run{{0, 1, true}, {2, 1, true}, {3, 1, false}} }

func TestGoldenDelta(t *testing.T) {
	bothHashes(t, func(t *testing.T, h Hash) {
		want := testkit.Golden(t, "delta-"+h.String())
		basis := Image{4096, h, 8192, sumOf(h, map[int64][]byte{0: blockA})}
		source := Image{4096, h, 12291, sumOf(h, map[int64][]byte{3: blockD})}

		for _, level := range []int{0, 1, MaxLevel} { // three bytes never shrink
			var got bytes.Buffer
			w := NewDeltaWriter(&got, Header{BlockSize: 4096, Hash: h, Size: 12291})
			e, err := NewEncoder(level, 1)
			if err != nil {
				t.Fatal(err)
			}
			f := Frame{Runs: goldenRuns(), Old: basis.Sum}
			e.Encode(&f, blockD, nil)
			w.Frame(&f)
			if err := w.End(basis, source, basis.Sum); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("level %d: written\n%x, want\n%x", level, got.Bytes(), want)
			}
		}

		r, err := NewDeltaReader(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		if r.Header != (Header{4096, h, 12291}) {
			t.Errorf("header %+v", r.Header)
		}
		var f Frame
		if err := r.Next(&f); err != nil {
			t.Fatal(err)
		}
		for i, run := range goldenRuns() {
			if len(f.Runs) != 3 || f.Runs[i] != run {
				t.Fatalf("runs %v, want %v", f.Runs, goldenRuns())
			}
		}
		raw, err := f.Decode(nil)
		if err != nil || string(raw) != "abc" || f.Old != basis.Sum || f.Literals() != 1 {
			t.Errorf("frame %+v decodes to %q (%v)", f, raw, err)
		}
		if err := r.Next(&f); err != io.EOF {
			t.Errorf("end: %v", err)
		}
		if want := (DeltaEnd{basis, source, basis.Sum, 1, 1, 2}); r.End != want {
			t.Errorf("end record %+v, want %+v", r.End, want)
		}
		if err := r.End.CheckSum(h, source.Sum); err != nil {
			t.Error(err)
		}
		testkit.WantStatus(t, "other literals", r.End.CheckSum(h, Sum{}), exit.BadStream)
	})
}

// TestGoldenSum holds the arithmetic of sums against numbers from a calculator.
func TestGoldenSum(t *testing.T) {
	max := ^uint64(0)
	for _, test := range []struct {
		h         Hash
		a, b, sum Sum
		text      string
	}{
		{XXH64, Sum{max}, Sum{2}, Sum{1}, "0000000000000001"},
		{SHA256, Sum{max, max, 7}, Sum{1}, Sum{0, 0, 8},
			"0000000000000000" + "0000000000000008" + "0000000000000000" + "0000000000000000"},
		{SHA256, Sum{max, max, max, max}, Sum{2}, Sum{1},
			"000000000000000000000000000000000000000000000000" + "0000000000000001"},
	} {
		if got := test.h.Add(test.a, test.b); got != test.sum {
			t.Errorf("%v: %v + %v = %v, want %v", test.h, test.a, test.b, got, test.sum)
		}
		if got := test.h.Sub(test.sum, test.b); got != test.a {
			t.Errorf("%v: %v - %v = %v, want %v", test.h, test.sum, test.b, got, test.a)
		}
		if got := test.h.formatSum(test.sum); got != test.text {
			t.Errorf("%v: %v is formatted %s, want %s", test.h, test.sum, got, test.text)
		}
	}
}

func TestParseHash(t *testing.T) {
	for name, want := range map[string]Hash{"xxh64": XXH64, "sha256": SHA256} {
		if h, err := ParseHash(name); h != want || err != nil || h.String() != name {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	for _, name := range []string{"", "XXH64", "md5", "hash 1"} {
		if h, err := ParseHash(name); err == nil {
			t.Errorf("%q is taken for %v", name, h)
		}
	}
}

func TestBlockSizes(t *testing.T) {
	for n := int64(4096); n <= 1<<20; n *= 2 {
		if err := CheckBlockSize(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []int64{-4096, 0, 1, 2048, 4095, 4097, 12288, 1<<20 + 1, 2 << 20} {
		if CheckBlockSize(n) == nil {
			t.Errorf("%d is taken for a block size", n)
		}
	}
	h := Header{BlockSize: 4096}
	for size, want := range map[int64]int64{0: 0, 1: 1, 4096: 1, 4097: 2, MaxImageSize: MaxImageSize / 4096} {
		if n := h.Blocks(size); n != want {
			t.Errorf("%d bytes have %d blocks, want %d", size, n, want)
		}
	}
	for i, want := range []int{4096, 1, 0, 0} {
		if n := h.BlockLen(int64(i), 4097); n != want {
			t.Errorf("block %d of 4097 bytes has %d, want %d", i, n, want)
		}
	}
}
