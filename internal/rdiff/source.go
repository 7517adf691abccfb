package rdiff

import (
	"io"
	"runtime"
)

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
