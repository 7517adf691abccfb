package rdiff

import (
	"io"

	"xen-backup/internal/stream"
)

// basis walks through a signature. It reads one record ahead, because a record
// alone does not tell whether its last block is the image's last one, which may
// be short.
type basis struct {
	r         *stream.SignatureReader
	cur, next stream.SignatureRecord
	used      int64 // blocks of cur already taken
	ended     bool  // next is the end record
	first     int64 // number of the next block
}

// basisRun is a run of blocks of the basis: all hashed, all zero or all absent.
type basisRun struct {
	kind   basisKind
	count  int64
	hashes []byte
}

type basisKind byte

const (
	absent basisKind = iota // the basis ends before
	hashed
	zero
)

func newBasis(r *stream.SignatureReader) (*basis, error) {
	b := &basis{r: r}
	if err := b.advance(); err != nil { // fills next
		return nil, err
	}
	return b, b.advance() // moves it to cur
}

// advance moves to the next record. After the end record, cur has Count 0.
func (b *basis) advance() error {
	b.cur, b.next = b.next, b.cur
	b.used = 0
	if b.ended {
		b.next.Count = 0
		return nil
	}
	err := b.r.Next(&b.next)
	if err == io.EOF {
		b.ended, err = true, nil
	}
	return err
}

// left returns the kind and number of blocks that can be taken at once.
func (b *basis) left() (basisKind, int64) {
	switch {
	case b.cur.Count == 0:
		return absent, stream.MaxImageSize
	case b.cur.Hashes == nil:
		return zero, b.cur.Count - b.used
	}
	return hashed, b.cur.Count - b.used
}

// take returns a run of at most limit blocks; hashes are appended to buf.
func (b *basis) take(limit int64, buf []byte) (basisRun, []byte, error) {
	kind, n := b.left()
	run := basisRun{kind: kind, count: min(n, limit)}
	if kind == hashed {
		size := int64(b.r.Hash.Size())
		start := len(buf)
		buf = append(buf, b.cur.Hashes[b.used*size:(b.used+run.count)*size]...)
		run.hashes = buf[start:]
	}
	b.first += run.count
	b.used += run.count
	if kind != absent && b.used == b.cur.Count {
		return run, buf, b.advance()
	}
	return run, buf, nil
}

// last returns the number and length of the basis's last block if all of it was
// taken, else -1.
func (b *basis) last() (block int64, length int) {
	if !b.ended || b.cur.Count != 0 || b.r.Image.Size == 0 {
		return -1, 0
	}
	block = b.r.Blocks(b.r.Image.Size) - 1
	return block, b.r.BlockLen(block, b.r.Image.Size)
}

// drop reads the rest of the signature, whose blocks the source has not, and
// returns the sum of their terms.
func (b *basis) drop() (sum stream.Sum, err error) {
	var buf []byte
	for b.cur.Count != 0 {
		first := b.first
		var run basisRun
		if run, buf, err = b.take(b.cur.Count, buf[:0]); err != nil {
			return sum, err
		}
		for i := range int64(len(run.hashes) / b.r.Hash.Size()) {
			sum = b.r.Hash.Add(sum, b.r.Hash.Term(first+i, run.hash(b.r.Hash, i)))
		}
	}
	return sum, nil
}

func (r *basisRun) hash(h stream.Hash, i int64) []byte {
	n := int64(h.Size())
	return r.hashes[i*n : (i+1)*n]
}

// VerifySignature reads a signature to its end and proves it: structure, checksum and
// digest.
func VerifySignature(r *stream.SignatureReader) error {
	b, err := newBasis(r)
	if err != nil {
		return err
	}
	sum, err := b.drop()
	if err != nil {
		return err
	}
	return r.CheckSum(sum)
}
