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
