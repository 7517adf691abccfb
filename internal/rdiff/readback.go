package rdiff

import (
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/stream"
)

// CheckWritten reads back what Apply wrote and compares it with the delta. The
// image must read from the disk, not from a cache.
func CheckWritten(delta io.Reader, d Delta, target Image) error {
	p := pass{slices: true, work: func(h stream.Header, f *frameJob) error {
		return f.checkWritten(h, target, d.Source.Size)
	}}
	_, err := p.run(delta)
	return err
}

func (f *frameJob) checkWritten(h stream.Header, target Image, size int64) error {
	sum := xxhash.New()
	s := scatter{img: target, bs: int64(h.BlockSize), size: size, buf: f.buffer(),
		skipHoles: func(r stream.Run) bool { return r.Zero },
		visit: func(r stream.Run, off int64, data []byte) error {
			if !r.Zero {
				sum.Write(data)
			} else if !isZero(data) {
				return errReadBack(off)
			}
			return nil
		}}
	if err := s.read(f.reads); err != nil {
		return err
	}
	if f.of == f && sum.Sum64() != f.RawSum {
		return errReadBack(f.Runs[0].First * int64(h.BlockSize))
	}
	return nil
}

// ErrReadBack is returned where the disk has something else than was written.
var ErrReadBack = errors.New("what was written does not read back")

func errReadBack(off int64) error { return fmt.Errorf("%w, at or after byte %d", ErrReadBack, off) }
