package rdiff

import (
	"io"

	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// Options of Sign and Diff.
type Options struct {
	// Count is told the bytes of each piece that is done and how many of them were
	// read: all or, in a hole, none. Its error ends the run. It may be nil.
	Count func(done, read int64) error
	// used is told the number of each piece's first block and which of its blocks are
	// zero, unless all are; it may be nil.
	used func(first int64, zero []bool)
	// Changed is told each change that Diff or Track finds, n bytes from byte off on, in their order; it may be nil.
	Changed func(off, n int64)
	// BeforeEnd is called when all is read and before the end record is written;
	// its error makes the stream an incomplete one. It may be nil.
	BeforeEnd func(stream.Image) error
}

func (o Options) count(p *piece) error {
	if o.Count != nil {
		return o.Count(p.size, int64(len(p.data)))
	}
	return nil
}

func (o Options) beforeEnd(d stream.Image) error {
	if o.BeforeEnd != nil {
		return o.BeforeEnd(d)
	}
	return nil
}

// scan is a piece and what is known of its blocks.
type scan struct {
	piece
	hashes []byte // of each block, garbage for zero blocks
	zero   []bool // which blocks are zero; not used for holes
	sum    stream.Sum
}

func newScan(h stream.Header) scan {
	s := scan{piece: newPiece(h.BlockSize)}
	n := len(s.buf) / h.BlockSize
	s.hashes, s.zero = make([]byte, n*h.Hash.Size()), make([]bool, n)
	return s
}

// blocks returns the number of the piece's first block and how many it has.
func (s *scan) blocks(h stream.Header) (first, count int64) {
	return s.off / int64(h.BlockSize), h.Blocks(s.size)
}

// block returns the data and the hash of the piece's block i.
func (s *scan) block(h stream.Header, i int64) (data, hash []byte) {
	n, start := int64(h.Hash.Size()), i*int64(h.BlockSize)
	return s.data[start:min(start+int64(h.BlockSize), s.size)], s.hashes[i*n : (i+1)*n]
}

// hash finds the zero blocks and hashes the others.
func (s *scan) hash(h stream.Header) {
	s.sum = stream.Sum{}
	if s.hole {
		return
	}
	first, count := s.blocks(h)
	for i := range count {
		data, hash := s.block(h, i)
		if s.zero[i] = isZero(data); !s.zero[i] {
			h.Hash.Block(hash, data)
			s.sum = h.Hash.Add(s.sum, h.Hash.Term(first+i, hash))
		}
	}
}

// sign adds the piece to a signature.
func (s *scan) sign(h stream.Header, w *stream.SignatureWriter) (err error) {
	_, count := s.blocks(h)
	if s.hole {
		return w.Zeroes(count)
	}
	for i := range count {
		if s.zero[i] {
			err = w.Zeroes(1)
		} else {
			_, hash := s.block(h, i)
			err = w.Hash(hash)
		}
	}
	return err
}

// Sign reads an image and writes its signature to w; with w nil it only computes
// the digest, which it returns.
func Sign(src Source, h stream.Header, w *stream.SignatureWriter, o Options) (stream.Image, error) {
	digest := h.NewImage(0, stream.Sum{})
	work := func(s *scan) error {
		if err := src.load(&s.piece); err != nil {
			return err
		}
		s.hash(h)
		return nil
	}
	consume := func(s *scan) error {
		digest.Size += s.size
		digest.Sum = h.Hash.Add(digest.Sum, s.sum)
		if o.used != nil && !s.hole {
			first, count := s.blocks(h)
			o.used(first, s.zero[:count])
		}
		if err := o.count(&s.piece); err != nil || w == nil {
			return err
		}
		return s.sign(h, w)
	}
	alloc := func() *scan { s := newScan(h); return &s }
	readers := readersOf(src, h)
	q := ordered.New(readers, depth(readers), alloc, work, consume)
	if err := q.Close(feedScans(q, src, h)); err != nil {
		return digest, err
	}
	if err := o.beforeEnd(digest); err != nil || w == nil {
		return digest, err
	}
	return digest, w.End(digest)
}

func feedScans(q *ordered.Queue[scan], src Source, h stream.Header) error {
	for {
		s, err := q.Get()
		if err != nil {
			return err
		}
		if err := src.next(&s.piece, h.BlockSize, stream.MaxImageSize); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		q.Put(s)
	}
}

// DigestOf reads an image and returns its digest; count is told the bytes that are done.
func DigestOf(img Image, h stream.Header, count func(int64)) (stream.Image, error) {
	return Sign(FromImage(img), h, nil, Options{Count: func(done, _ int64) error { count(done); return nil }})
}

// Used reads an image and returns how many of its blocks are not zero, and how many of
// those lie behind its first size bytes; count is told the bytes that are done.
func Used(img Image, h stream.Header, size int64, count func(int64)) (all, beyond int64, err error) {
	end := h.Blocks(size)
	_, err = Sign(FromImage(img), h, nil, Options{
		Count: func(done, _ int64) error { count(done); return nil },
		used: func(first int64, zero []bool) {
			for i, z := range zero {
				if !z {
					all++
					if first+int64(i) >= end {
						beyond++
					}
				}
			}
		},
	})
	return all, beyond, err
}
