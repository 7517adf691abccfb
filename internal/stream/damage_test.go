package stream

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// sample is a stream and what reads its kind.
type sample struct {
	name   string
	stream []byte
	read   func(io.Reader) error
	step   int // for tests of every byte
}

func samples(t testing.TB) []sample {
	s := []sample{
		{"empty signature", signature(0, 0, 0), readSignature, 1},
		{"empty delta", delta(0, 0, 0, 0), readDelta, 1},
	}
	for _, h := range []Hash{XXH64, SHA256} {
		s = append(s, sample{"signature " + h.String(), testkit.Golden(t, "signature-"+h.String()), readSignature, 1},
			sample{"delta " + h.String(), testkit.Golden(t, "delta-"+h.String()), readDelta, 1})
	}
	return s
}

// larger has full records, several frames and both encodings.
func larger(t testing.TB) []sample {
	rnd := rand.New(rand.NewPCG(1, 2))
	var sig, delta bytes.Buffer
	w := NewSignatureWriter(&sig, Header{BlockSize: 4096, Hash: XXH64, Size: -1})
	for range 1500 {
		w.Hash(u64(rnd.Uint64()))
	}
	w.Zeroes(2)
	w.Hash(u64(1))
	if err := w.End(Image{Size: 1503 * 4096}); err != nil {
		t.Fatal(err)
	}
	d := NewDeltaWriter(&delta, Header{BlockSize: 4096, Hash: SHA256, Size: -1})
	e, err := NewEncoder(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		raw := bytes.Repeat([]byte{1, 2, byte(i)}, 1<<20)[:1<<20]
		f := Frame{Runs: []Run{{i * 300, 256, false}}}
		if i == 2 {
			f.Runs[0].Count, raw = 2, make([]byte, 8192)
			for k := range raw {
				raw[k] = byte(rnd.Uint32())
			}
		}
		e.Encode(&f, raw, nil)
		d.Frame(&f)
	}
	if err := d.End(Image{Size: 1 << 22}, Image{Size: 1 << 22}, Sum{}); err != nil {
		t.Fatal(err)
	}
	return []sample{{"larger signature", sig.Bytes(), readSignature, 23}, {"larger delta", delta.Bytes(), readDelta, 23}}
}

func TestEveryPrefixIsCut(t *testing.T) {
	for _, s := range append(samples(t), larger(t)...) {
		if err := s.read(bytes.NewReader(s.stream)); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		for n := 0; n < len(s.stream); n += s.step {
			if err := s.read(bytes.NewReader(s.stream[:n])); exit.StatusOf(err) != exit.BadStream {
				t.Errorf("%s: the first %d of %d bytes: %v", s.name, n, len(s.stream), err)
			}
		}
	}
}

func TestOneByteMore(t *testing.T) {
	for _, s := range append(samples(t), larger(t)...) {
		for _, b := range []byte{0, '\n', 'E', 'F', 'H', 'Z', s.stream[0]} {
			testkit.WantStatus(t, s.name, s.read(bytes.NewReader(append(slices.Clip(s.stream), b))), exit.BadStream)
		}
	}
}

func TestEveryFlippedBit(t *testing.T) {
	flip := func(s sample, i int, bits byte) {
		b := bytes.Clone(s.stream)
		b[i] ^= bits
		want := exit.BadStream
		if i < 10 { // magic and version
			want = exit.NotOurs
		}
		if err := s.read(bytes.NewReader(b)); exit.StatusOf(err) != want {
			t.Errorf("%s: byte %d of %d changed by %#x: %v, want status %d", s.name, i, len(b), bits, err, want)
		}
	}
	for _, s := range samples(t) {
		for i := range s.stream {
			for bit := range 8 {
				flip(s, i, 1<<bit)
			}
			flip(s, i, 0xff)
		}
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, s := range larger(t) {
		for i := 0; i < len(s.stream); i += s.step {
			flip(s, i, byte(1+rnd.IntN(255)))
		}
	}
}

// TestDroppedAndDoubled: bytes that are lost or come twice.
func TestDroppedAndDoubled(t *testing.T) {
	for _, s := range samples(t) {
		for i := range s.stream {
			for _, n := range []int{1, 8} {
				if i+n > len(s.stream) {
					continue
				}
				for _, b := range [][]byte{
					cat(s.stream[:i], s.stream[i+n:]),
					cat(s.stream[:i+n], s.stream[i:]),
				} {
					if bytes.Equal(b, s.stream) {
						continue
					}
					if err := s.read(bytes.NewReader(b)); err == nil {
						t.Errorf("%s: accepted after a change of %d bytes at %d", s.name, n, i)
					}
				}
			}
		}
	}
}

func TestReaders(t *testing.T) {
	for _, s := range append(samples(t), larger(t)...) {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data and error": iotest.DataErrReader,
		} {
			if err := s.read(wrap(bytes.NewReader(s.stream))); err != nil {
				t.Errorf("%s, %s: %v", s.name, name, err)
			}
		}
	}
}

// TestReadError: a failed read is neither the end of the stream nor a cut one.
func TestReadError(t *testing.T) {
	broken := errors.New("broken cable")
	for _, s := range samples(t) {
		for n := 0; n <= len(s.stream); n++ {
			err := s.read(io.MultiReader(bytes.NewReader(s.stream[:n]), iotest.ErrReader(broken)))
			if !errors.Is(err, broken) || exit.StatusOf(err) != exit.IOError {
				t.Errorf("%s: a failed read after %d of %d bytes: %v", s.name, n, len(s.stream), err)
			}
		}
	}
}

func TestWriteError(t *testing.T) {
	h := Header{BlockSize: 4096, Hash: XXH64, Size: -1}
	raw := literals(1 << 20)
	write := func(out io.Writer) (sig, delta error) {
		w := NewSignatureWriter(out, h)
		for range 3000 {
			w.Hash(u64(1))
		}
		sig = w.End(Image{Size: 3000 * 4096})
		d := NewDeltaWriter(out, h)
		f := Frame{Runs: []Run{{0, 256, false}}}
		new(Encoder).Encode(&f, raw, nil)
		d.Frame(&f)
		return sig, d.End(Image{}, Image{Size: 1 << 20}, Sum{})
	}
	var whole bytes.Buffer
	if sig, delta := write(&whole); sig != nil || delta != nil {
		t.Fatal(sig, delta)
	}
	for room := 0; room < whole.Len(); room += 1 + whole.Len()/100 {
		if sig, delta := write(&testkit.FullWriter{Room: room}); !errors.Is(errors.Join(sig, delta), testkit.ErrFull) {
			t.Errorf("room for %d bytes: %v, %v", room, sig, delta)
		}
	}
	if _, delta := write(&testkit.FullWriter{Room: whole.Len() - 1}); delta != testkit.ErrFull {
		t.Errorf("one byte too many: %v", delta)
	}
}
