package stream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// Hash is the hash that blocks are compared by.
type Hash uint8

const (
	// XXH64 is xxHash64 with seed 0. It is fast and finds accidental change, but it
	// is not collision-resistant: a guest that controls the bytes of its disk can
	// make two blocks with one hash, and so keep its own standby from following.
	// SHA256 is the answer where guests are hostile.
	XXH64 Hash = 1
	// SHA256 is SHA-256 (FIPS 180-4).
	SHA256 Hash = 2
)

// MaxHashSize is the largest Hash.Size, in bytes.
const MaxHashSize = sha256.Size

// ParseHash returns the hash of that name: "xxh64" or "sha256".
func ParseHash(name string) (Hash, error) {
	for _, h := range []Hash{XXH64, SHA256} {
		if h.String() == name {
			return h, nil
		}
	}
	return 0, fmt.Errorf("%q is none of xxh64, sha256", name)
}

func (h Hash) String() string {
	switch h {
	case XXH64:
		return "xxh64"
	case SHA256:
		return "sha256"
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

// Size returns the bytes of one hash.
func (h Hash) Size() int {
	if h == SHA256 {
		return sha256.Size
	}
	return 8
}

// Block puts the hash of a block into the first Size bytes of dst.
func (h Hash) Block(dst, block []byte) {
	if h == SHA256 {
		sum := sha256.Sum256(block)
		copy(dst, sum[:])
		return
	}
	binary.LittleEndian.PutUint64(dst, xxhash.Sum64(block))
}

// Term returns what block number i with this hash adds to an image's sum.
func (h Hash) Term(i int64, hash []byte) Sum {
	var buf [8 + MaxHashSize]byte
	binary.LittleEndian.PutUint64(buf[:], uint64(i))
	n := 8 + copy(buf[8:], hash[:h.Size()])
	if h == SHA256 {
		sum := sha256.Sum256(buf[:n])
		return h.sum(sum[:])
	}
	return Sum{xxhash.Sum64(buf[:n])}
}

// Sum is the sum of an image digest, least significant word first. xxh64 uses
// the first word alone. Arithmetic is that of the Hash.
type Sum [4]uint64

// Add returns a + b.
func (h Hash) Add(a, b Sum) Sum {
	var c uint64
	a[0], c = bits.Add64(a[0], b[0], 0)
	if h == SHA256 {
		a[1], c = bits.Add64(a[1], b[1], c)
		a[2], c = bits.Add64(a[2], b[2], c)
		a[3], _ = bits.Add64(a[3], b[3], c)
	}
	return a
}

// Sub returns a - b.
func (h Hash) Sub(a, b Sum) Sum {
	var c uint64
	a[0], c = bits.Sub64(a[0], b[0], 0)
	if h == SHA256 {
		a[1], c = bits.Sub64(a[1], b[1], c)
		a[2], c = bits.Sub64(a[2], b[2], c)
		a[3], _ = bits.Sub64(a[3], b[3], c)
	}
	return a
}

// sum reads a Sum of the hash's size.
func (h Hash) sum(b []byte) (s Sum) {
	for i := range h.Size() / 8 {
		s[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s
}

// appendSum appends a Sum in the hash's size.
func (h Hash) appendSum(b []byte, s Sum) []byte {
	for i := range h.Size() / 8 {
		b = binary.LittleEndian.AppendUint64(b, s[i])
	}
	return b
}

// formatSum renders a Sum as a hexadecimal number, most significant digit first.
func (h Hash) formatSum(s Sum) string {
	var b []byte
	for i := h.Size()/8 - 1; i >= 0; i-- {
		b = binary.BigEndian.AppendUint64(b, s[i])
	}
	return hex.EncodeToString(b)
}
