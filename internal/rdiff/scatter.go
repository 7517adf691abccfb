package rdiff

import (
	"xen-backup/internal/blockdev"
	"xen-backup/internal/stream"
)

// scatter reads runs of blocks that lie apart, many at once.
type scatter struct {
	img       Image
	bs        int64                 // block size in bytes
	size      int64                 // of the image in bytes: what is behind it is not read
	buf       []byte                // room for what is read at once
	skipHoles func(stream.Run) bool // whether holes need not be visited
	visit     func(r stream.Run, off int64, data []byte) error

	ranges []blockdev.Range
	runs   []stream.Run // of each range
	used   int          // of buf
}

// read visits all bytes of the runs in order, in pieces that begin at a block.
func (s *scatter) read(runs []stream.Run) error {
	for _, r := range runs {
		off, end := r.First*s.bs, min(r.End()*s.bs, s.size)
		for off < end {
			if end-off > 16*s.bs && s.skipHoles(r) { // worth the question
				start, _, err := s.img.NextData(off)
				if err != nil {
					return err
				}
				if off = max(off, min(start, end)/s.bs*s.bs); off >= end {
					break
				}
			}
			room := int64(len(s.buf)-s.used) / s.bs * s.bs
			if room == 0 {
				if err := s.flush(); err != nil {
					return err
				}
				continue
			}
			n := min(end-off, room)
			s.ranges = append(s.ranges, blockdev.Range{Off: off, Buf: s.buf[s.used : s.used+int(n)]})
			s.runs = append(s.runs, r)
			s.used += int((n + s.bs - 1) / s.bs * s.bs)
			off += n
		}
	}
	return s.flush()
}

// flush reads what is due and visits it.
func (s *scatter) flush() error {
	if len(s.ranges) == 0 {
		return nil // there may be no target yet: see ApplyInPlace
	}
	if err := s.img.ReadRanges(s.ranges); err != nil {
		return err
	}
	for i, r := range s.ranges {
		if err := s.visit(s.runs[i], r.Off, r.Buf); err != nil {
			return err
		}
	}
	s.ranges, s.runs, s.used = s.ranges[:0], s.runs[:0], 0
	return nil
}
