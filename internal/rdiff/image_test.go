package rdiff

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/stream"
)

// randomImage has blocks of data, and blocks that are zero.
func randomImage(rnd *rand.Rand, size, blockSize int) []byte {
	b := make([]byte, size)
	for at := 0; at < size; at += blockSize {
		if block := b[at:min(at+blockSize, size)]; rnd.IntN(10) < 7 {
			fill(rnd, block)
		}
	}
	return b
}

// fill writes data that shrinks, or not, and is not all zero.
func fill(rnd *rand.Rand, b []byte) {
	word := rnd.Uint64() | 1
	change := rnd.IntN(2) == 0
	for i := 0; i < len(b); i += 8 {
		if change {
			word = rnd.Uint64() | 1
		}
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], word)
		copy(b[i:], w[:])
	}
}

// changed returns the image with a share of its blocks changed, at another size.
func changed(rnd *rand.Rand, old []byte, size, blockSize int, share float64) []byte {
	b := make([]byte, size)
	copy(b, old)
	for at := 0; at < size; at += blockSize {
		block := b[at:min(at+blockSize, size)]
		if rnd.Float64() >= share {
			continue
		}
		switch rnd.IntN(4) {
		case 0:
			clear(block)
		case 1:
			block[rnd.IntN(len(block))] ^= 1 << rnd.IntN(8)
		default:
			fill(rnd, block)
		}
	}
	for at := len(old); at < size; at += blockSize {
		if rnd.IntN(3) > 0 {
			fill(rnd, b[at:min(at+blockSize, size)])
		}
	}
	return b
}

// writeImage makes a file; if sparse, its zero pages are holes.
func writeImage(t testing.TB, content []byte, sparse bool) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := 0; at < len(content); at += page {
		if b := content[at:min(at+page, len(content))]; !sparse || !isZero(b) {
			if _, err := f.WriteAt(b, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f.Name()
}

func openImage(t testing.TB, path string) *blockdev.File {
	t.Helper()
	f, err := blockdev.OpenWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func imageFile(t testing.TB, content []byte, sparse bool) *blockdev.File {
	return openImage(t, writeImage(t, content, sparse))
}

func content(t testing.TB, f *blockdev.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func header(h stream.Hash, blockSize int, size int64) stream.Header {
	return stream.Header{Hash: h, BlockSize: blockSize, Size: size}
}

func sign(t testing.TB, src Source, h stream.Header) ([]byte, stream.Image) {
	t.Helper()
	var b bytes.Buffer
	d, err := Sign(src, h, stream.NewSignatureWriter(&b, h), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), d
}

func signatureReader(t testing.TB, sig []byte) *stream.SignatureReader {
	t.Helper()
	r, err := stream.NewSignatureReader(bytes.NewReader(sig))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// diff returns the delta and the source's new signature.
func diff(t testing.TB, sig []byte, src Source, level int, size int64) (delta, newSig []byte, result Result) {
	t.Helper()
	r := signatureReader(t, sig)
	h := r.Header
	h.Size = size
	e, err := stream.NewEncoder(level, 2)
	if err != nil {
		t.Fatal(err)
	}
	var d, s bytes.Buffer
	out := Outputs{stream.NewDeltaWriter(&d, h), e, stream.NewSignatureWriter(&s, h)}
	result, err = Diff(r, src, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Bytes(), s.Bytes(), result
}

func verify(delta []byte) (Delta, error) {
	return Verify(bytes.NewReader(delta), Steps{})
}

// digestOf computes an image digest as the specification says it, in the plainest
// way.
func digestOf(h stream.Hash, blockSize int, image []byte) stream.Image {
	mod := new(big.Int).Lsh(big.NewInt(1), uint(8*h.Size()))
	sum := new(big.Int)
	hash := func(b []byte) []byte {
		if h == stream.SHA256 {
			s := sha256.Sum256(b)
			return s[:]
		}
		return binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(b))
	}
	for i := 0; i*blockSize < len(image); i++ {
		block := image[i*blockSize : min((i+1)*blockSize, len(image))]
		if bytes.Count(block, []byte{0}) == len(block) {
			continue
		}
		term := hash(append(binary.LittleEndian.AppendUint64(nil, uint64(i)), hash(block)...))
		for a, b := 0, len(term)-1; a < b; a, b = a+1, b-1 { // to big-endian
			term[a], term[b] = term[b], term[a]
		}
		sum.Mod(sum.Add(sum, new(big.Int).SetBytes(term)), mod)
	}
	d := stream.Image{BlockSize: blockSize, Hash: h, Size: int64(len(image))}
	for i := range d.Sum {
		word := new(big.Int).Rsh(sum, uint(64*i))
		d.Sum[i] = word.And(word, new(big.Int).SetUint64(^uint64(0))).Uint64()
	}
	return d
}

// differing returns which blocks of the source are not the basis's.
func differing(basis, source []byte, blockSize int) (blocks, size int64) {
	for at := 0; at < len(source); at += blockSize {
		block := source[at:min(at+blockSize, len(source))]
		if at >= len(basis) || !bytes.Equal(block, basis[at:min(at+blockSize, len(basis))]) {
			blocks++
			size += int64(len(block))
		}
	}
	return blocks, size
}

// slowReader returns a few bytes at a time.
type slowReader struct {
	r   io.Reader
	rnd *rand.Rand
}

func (s slowReader) Read(b []byte) (int, error) {
	return s.r.Read(b[:min(len(b), 1+s.rnd.IntN(70000))])
}

func uncounted(int64) {}
