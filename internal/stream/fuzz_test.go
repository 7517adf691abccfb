package stream

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// What parses re-encodes to the same bytes: else two streams would mean one thing.

func FuzzSignature(f *testing.F) {
	seed(f, signatureMagic)
	f.Fuzz(func(t *testing.T, data []byte) {
		reencodeSignature(t, data)
		reencodeSignature(t, reseal(data))
	})
}

func FuzzDelta(f *testing.F) {
	seed(f, deltaMagic)
	f.Fuzz(func(t *testing.T, data []byte) {
		reencodeDelta(t, data)
		reencodeDelta(t, reseal(data))
	})
}

func seed(f *testing.F, magic string) {
	for _, s := range samples(f) {
		if bytes.HasPrefix(s.stream, []byte(magic)) {
			f.Add(s.stream)
			f.Add(s.stream[:len(s.stream)-9])
		}
	}
	f.Add(signature(2049*4096, 2048, 1, hashRecord(1024), zeroRecord(1), hashRecord(1024)))
	f.Add(delta(1<<20, 1, 1, 4, rawFrame{table: table(0, 2, 0, 3, 200, 7), raw: literals(4096)}.bytes()))
	f.Add(delta(1<<20, 1, 256, 0,
		rawFrame{encoding: Zstd, table: table(0, 512), raw: literals(1 << 20), payload: rleFrames(1, 8)}.bytes()))
	f.Add(deltaFrom(0, 1<<40, 2, 0, 1<<28,
		rawFrame{table: manyRuns(4096)}.bytes(), rawFrame{table: table(1, 1<<29-2*8192-1)}.bytes()))
}

// reseal puts right checksums where a stream has them, so that the fuzzer gets
// beyond them.
func reseal(stream []byte) []byte {
	b := bytes.Clone(stream)
	seal := func(from, at int) {
		binary.LittleEndian.PutUint64(b[at:], xxhash.Sum64(b[from:at]))
	}
	if len(b) < HeaderSize+8 {
		return b
	}
	seal(0, HeaderSize-8)
	h := Hash(b[10])
	for at := HeaderSize; at+22+h.Size() < len(b) && b[at] == 'F'; {
		u := func(i int) int { return int(binary.LittleEndian.Uint32(b[at+i:])) }
		end := at + 22 + h.Size() + u(2) + u(10)
		if end+8 > len(b) {
			break
		}
		if b[at+1] == Stored {
			binary.LittleEndian.PutUint64(b[at+14:], xxhash.Sum64(b[end-u(10):end]))
		}
		seal(at, end)
		at = end + 8
	}
	seal(0, len(b)-8)
	return b
}

func reencodeSignature(t *testing.T, data []byte) {
	r, err := NewSignatureReader(bytes.NewReader(data))
	if err != nil {
		return
	}
	var again bytes.Buffer
	w := NewSignatureWriter(&again, r.Header)
	var rec SignatureRecord
	for {
		if err = r.Next(&rec); err != nil {
			break
		}
		if rec.Hashes == nil {
			w.Zeroes(rec.Count)
			continue
		}
		if int(rec.Count)*r.Hash.Size() != len(rec.Hashes) {
			t.Fatalf("%d hashes in %d bytes", rec.Count, len(rec.Hashes))
		}
		for rest := rec.Hashes; len(rest) > 0; rest = rest[r.Hash.Size():] {
			w.Hash(rest[:r.Hash.Size()])
		}
	}
	if err != io.EOF {
		return
	}
	if r.Blocks(r.Image.Size) != r.Hashed+r.Zero {
		t.Fatalf("%d bytes in %d+%d blocks", r.Image.Size, r.Hashed, r.Zero)
	}
	if err := w.End(r.Image); err != nil || !bytes.Equal(again.Bytes(), data) {
		t.Fatalf("%x\nwas re-encoded (%v) as\n%x", data, err, again.Bytes())
	}
}

func reencodeDelta(t *testing.T, data []byte) {
	r, err := NewDeltaReader(bytes.NewReader(data))
	if err != nil {
		return
	}
	var again bytes.Buffer
	w := NewDeltaWriter(&again, r.Header)
	var f Frame
	next, end := int64(0), int64(0) // blocks, bytes
	for {
		if err = r.Next(&f); err != nil {
			break
		}
		if f.RawSize > MaxLiteral || len(f.Payload) > f.RawSize || len(f.Runs) == 0 || len(f.Runs) > MaxRuns {
			t.Fatalf("frame of %d bytes in %d, %d runs", f.RawSize, len(f.Payload), len(f.Runs))
		}
		if raw, err := f.Decode(nil); err == nil && len(raw) != f.RawSize {
			t.Fatalf("%d bytes became %d", f.RawSize, len(raw))
		}
		for _, run := range f.Runs {
			if run.First < next || run.Count < 1 {
				t.Fatalf("run %+v after block %d", run, next)
			}
			next = run.End()
		}
		if last := f.Runs[len(f.Runs)-1]; !last.Zero {
			end = last.End()*int64(r.BlockSize) - (f.Literals()*int64(r.BlockSize) - int64(f.RawSize))
		}
		w.Frame(&f)
	}
	if err != io.EOF {
		return
	}
	if next > r.Blocks(r.End.Source.Size) || end > r.End.Source.Size {
		t.Fatalf("runs up to block %d, byte %d of an image of %d bytes", next, end, r.End.Source.Size)
	}
	if err := w.End(r.End.Basis, r.End.Source, r.End.Old); err != nil || !bytes.Equal(again.Bytes(), data) {
		t.Fatalf("%x\nwas re-encoded (%v) as\n%x", data, err, again.Bytes())
	}
}

// TestReseal makes sure that the fuzz targets get beyond the checksums.
func TestReseal(t *testing.T) {
	for _, s := range samples(t) {
		b := bytes.Clone(s.stream)
		b[24]++
		b[len(b)-1]++
		if i := bytes.Index(b, []byte("abc")); i > 0 {
			b[i]++
		}
		if s.read(bytes.NewReader(b)) == nil {
			t.Errorf("%s: accepted though damaged", s.name)
		}
		if err := s.read(bytes.NewReader(reseal(b))); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}
