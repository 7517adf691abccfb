// Package rdiff is the algorithm: Sign describes an image block by block, Diff turns
// that description and another image into a delta, and passes over the delta bring the
// first image up to date: those of prove.go read and judge, those of write.go write,
// and that of readback.go holds the disk against the delta. Nothing is written that was
// not proved before. Images are read in pieces by several goroutines; results come in
// the order of the image. Memory does not depend on the size of the images.
package rdiff

import (
	"bytes"
	"io"
	"runtime"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/stream"
)

// Image is what can be read: a device or a file.
type Image interface {
	io.ReaderAt
	// ReadRanges fills all ranges, which may lie anywhere.
	ReadRanges(ranges []blockdev.Range) error
	// Size returns the size in bytes, which does not change.
	Size() int64
	// NextData returns the first range at or after off that may hold other bytes
	// than zeroes; start and end are Size if there is none. What lies between off
	// and start reads as zero and need not be read.
	NextData(off int64) (start, end int64, err error)
	// Readers returns how many reads should be under way at once.
	Readers() int
}

// pieceSize is how much of an image is read at once, in bytes; blocks larger than
// that are read one by one.
const pieceSize = 512 << 10

var zeroBlock [stream.MaxBlockSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }

// piece is a run of blocks of an image.
type piece struct {
	off, size int64  // bytes; off is a multiple of the block size
	hole      bool   // nothing to read: all zero
	data      []byte // of size bytes unless it is a hole
	buf       []byte
}

func newPiece(blockSize int) piece {
	return piece{buf: blockdev.Buffer(max(pieceSize, blockSize))}
}

// Source hands out an image in pieces, in order.
type Source interface {
	// Size returns the size in bytes, -1 if it is not known yet.
	Size() int64
	readers() int
	// next describes the next piece, io.EOF after the last. A hole has at most
	// maxHole bytes, a multiple of the block size.
	next(p *piece, blockSize int, maxHole int64) error
	// load fills in the piece's data; it may be called concurrently.
	load(p *piece) error
}

// FromImage returns a source that reads an image.
func FromImage(img Image) Source { return &imageSource{Image: img, limit: img.Size()} }

type imageSource struct {
	Image
	pos, limit         int64 // what is before limit may be read: a multiple of the block size, or all
	dataStart, dataEnd int64 // the extent that pos is in or before
}

func (s *imageSource) readers() int { return s.Readers() }

func (s *imageSource) next(p *piece, blockSize int, maxHole int64) error {
	block := int64(blockSize)
	if s.pos >= s.limit {
		return io.EOF
	}
	if s.pos >= s.dataEnd {
		start, end, err := s.NextData(s.pos)
		if err != nil {
			return err
		}
		s.dataStart = min(s.limit, max(s.pos, start-start%block))
		s.dataEnd = min(s.limit, (end+block-1)/block*block)
	}
	*p = piece{off: s.pos, buf: p.buf}
	if p.hole = s.pos < s.dataStart; p.hole {
		p.size = min(s.dataStart-s.pos, maxHole)
	} else {
		length := int64(len(p.buf))
		p.size = min(s.dataEnd, (s.pos/length+1)*length) - s.pos
		p.data = p.buf[:p.size]
	}
	s.pos += p.size
	return nil
}

func (s *imageSource) load(p *piece) error {
	if p.hole {
		return nil
	}
	return readFull(s, p.data, p.off)
}

// FromPipe returns a source that reads a stream of unknown size to its end.
func FromPipe(r io.Reader) Source { return &pipeSource{r: r} }

type pipeSource struct {
	r    io.Reader
	pos  int64
	done bool
}

func (s *pipeSource) readers() int { return runtime.GOMAXPROCS(0) }

func (s *pipeSource) Size() int64 {
	if s.done {
		return s.pos
	}
	return -1
}

func (s *pipeSource) next(p *piece, _ int, _ int64) error {
	if s.done {
		return io.EOF
	}
	n, err := io.ReadFull(s.r, p.buf)
	*p = piece{off: s.pos, size: int64(n), data: p.buf[:n], buf: p.buf}
	s.pos += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		s.done, err = true, nil
		if n == 0 {
			return io.EOF
		}
	}
	return err
}

func (s *pipeSource) load(*piece) error { return nil }

// readFull reads all of b; an image that ends before its size is an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readersOf returns how many pieces are worked on at once: fewer where blocks make
// them larger, so that the bytes under way, and the memory, are the same.
func readersOf(src Source, h stream.Header) int {
	return max(2, src.readers()*pieceSize/max(pieceSize, h.BlockSize))
}

// depth is how many items a queue with that many workers has: enough that the
// others go on while the first in order is late.
func depth(workers int) int { return workers + workers/2 + 2 }
