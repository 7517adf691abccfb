package rdiff

import (
	"bytes"
	"io"
	"math"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// Extents are the byte ranges in which two images may differ, in ascending order.
type Extents interface {
	// Next returns the next one, io.EOF after the last if the list is known to be whole.
	Next() (off, n int64, err error)
}

// Track writes the delta between two images of which both are at hand, and reads them only
// where they may differ: in the extents, and where only one of them has bytes. basis is the
// digest of the older one, and decides how both are read. What the extents leave out is taken
// to be equal: nothing here, and no sum in the delta, would tell.
func Track(list Extents, basis stream.Image, older, newer Image, out Outputs, o Options) (Result, error) {
	h := stream.Header{BlockSize: basis.BlockSize, Hash: basis.Hash, Size: newer.Size()}
	t := &tracker{h: h, o: o, older: older, newer: newer, frames: newFrameBuilder(h, out), tail: h.Blocks(newer.Size()),
		holes: [2]holes{{img: older}, {img: newer}}}
	if older.Size() != newer.Size() {
		t.tail = min(older.Size(), newer.Size()) / int64(h.BlockSize)
	}
	readers := max(2, newer.Readers()*pieceSize/max(pieceSize, 2*h.BlockSize))
	t.q = ordered.New(readers, depth(readers), t.alloc, t.work, t.consume)
	if err := t.frames.close(t.q.Close(t.feed(list))); err != nil {
		return t.result, err
	}
	sum := h.Hash.Add(h.Hash.Sub(basis.Sum, t.old), t.new)
	t.result.Source = h.NewImage(newer.Size(), sum)
	t.result.Dropped = newer.Size() < older.Size()
	if err := o.beforeEnd(t.result.Source); err != nil || out.Delta == nil {
		return t.result, err
	}
	return t.result, out.Delta.End(basis, t.result.Source, t.old)
}

type tracker struct {
	h            stream.Header
	o            Options
	older, newer Image
	frames       *frameBuilder
	tail         int64 // number of the first block that not both images have at one length
	holes        [2]holes
	next         int64 // number of the first block that is not dealt with
	q            *ordered.Queue[pair]
	cur          *pair // being filled

	done     int64 // bytes of the image that are dealt with
	old, new stream.Sum
	result   Result
}

// pair are some blocks of both images.
type pair struct {
	parts []part
	bufs  [2][]byte // of older and newer
	used  [2]int

	ranges   [2][]blockdev.Range
	changes  []blockChange
	end      int64 // byte of the image before which it ends
	read     int64 // bytes
	old, new stream.Sum
}

// part is a run of blocks, with what there is of each in both images.
type part struct {
	stream.Run
	data [2][]byte // nil: all zero, or not there
}

type blockChange struct {
	change
	data []byte // nil: zero
}

// holes finds what need not be read of an image, going forward.
type holes struct {
	img        Image
	start, end int64 // the extent with data that was found last, or the next
}

// at reports whether there is data at a byte of the image, and up to where it is so; both are
// at a block's border.
func (s *holes) at(off, blockSize int64) (data bool, until int64, err error) {
	if off >= s.img.Size() {
		return false, math.MaxInt64, nil
	}
	if off >= s.end {
		start, end, err := s.img.NextData(off)
		if err != nil {
			return false, 0, err
		}
		s.start, s.end = start-start%blockSize, (end+blockSize-1)/blockSize*blockSize
	}
	if off < s.start {
		return false, s.start, nil
	}
	return true, s.end, nil
}

// feed has all blocks read that may differ.
func (t *tracker) feed(list Extents) error {
	bs := int64(t.h.BlockSize)
	size := max(t.older.Size(), t.newer.Size())
	for {
		off, n, err := list.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if off+n > size {
			return exit.Fail(exit.BadStream, "bad list of extents: %d bytes at %d go beyond both images, which have %d and %d bytes",
				n, off, t.older.Size(), t.newer.Size())
		}
		if err := t.add(off/bs, min(t.h.Blocks(off+n), t.tail)); err != nil {
			return err
		}
	}
	// What was cut off or added at the end differs, listed or not.
	if err := t.add(t.tail, t.h.Blocks(size)); err != nil {
		return err
	}
	if t.cur != nil {
		t.q.Put(t.cur)
	}
	return nil
}

// add has a run of blocks read, but for those that an extent before has touched already.
func (t *tracker) add(first, end int64) error {
	bs := int64(t.h.BlockSize)
	for first = max(first, t.next); first < end; first = t.next {
		until := end
		var data [2]bool
		for i := range t.holes {
			has, upTo, err := t.holes[i].at(first*bs, bs)
			if err != nil {
				return err
			}
			data[i], until = has, min(until, upTo/bs)
		}
		if err := t.part(first, until-first, data); err != nil {
			return err
		}
	}
	return nil
}

// part adds at most count blocks to what is read at once, and moves on.
func (t *tracker) part(first, count int64, data [2]bool) (err error) {
	p := t.cur
	if p == nil {
		if p, err = t.q.Get(); err != nil {
			return err
		}
		*p = pair{parts: p.parts[:0], bufs: p.bufs, ranges: [2][]blockdev.Range{p.ranges[0][:0], p.ranges[1][:0]},
			changes: p.changes[:0]}
		t.cur = p
	}
	bs := int64(t.h.BlockSize)
	run := stream.Run{First: first, Count: count}
	for i, has := range data {
		if has {
			run.Count = min(run.Count, int64(len(p.bufs[i])-p.used[i])/bs)
		}
	}
	this := part{Run: run}
	for i, img := range []Image{t.older, t.newer} {
		if !data[i] {
			continue
		}
		off := first * bs
		n := min(run.End()*bs, img.Size()) - off
		this.data[i] = p.bufs[i][p.used[i] : p.used[i]+int(n)]
		p.ranges[i] = append(p.ranges[i], blockdev.Range{Off: off, Buf: this.data[i]})
		p.used[i] += int(run.Count * bs)
		p.read += n
	}
	p.parts = append(p.parts, this)
	t.next = run.End()
	p.end = min(t.next*bs, max(t.older.Size(), t.newer.Size()))
	if p.full(bs) {
		t.q.Put(p)
		t.cur = nil
	}
	return nil
}

// maxParts bounds a pair whose parts need no room.
const maxParts = 1024

func (p *pair) full(blockSize int64) bool {
	full := len(p.parts) >= maxParts
	for i, buf := range p.bufs {
		full = full || int64(len(buf)-p.used[i]) < blockSize
	}
	return full
}

func (t *tracker) alloc() *pair {
	n := max(pieceSize/2, t.h.BlockSize)
	return &pair{bufs: [2][]byte{blockdev.Buffer(n), blockdev.Buffer(n)}}
}

// work reads and compares.
func (t *tracker) work(p *pair) error {
	for i, img := range []Image{t.older, t.newer} {
		if len(p.ranges[i]) > 0 {
			if err := img.ReadRanges(p.ranges[i]); err != nil {
				return err
			}
		}
	}
	for i := range p.parts {
		t.compare(p, &p.parts[i])
	}
	return nil
}

// compare finds the blocks that are not the same in both images. Those that only the older
// one has are dropped by its size.
func (t *tracker) compare(p *pair, s *part) {
	if s.data[0] == nil && s.data[1] == nil {
		if t.differ(s.First) && s.First < t.h.Blocks(t.newer.Size()) { // then all of them do
			p.changes = append(p.changes, blockChange{change: change{Run: stream.Run{First: s.First, Count: s.Count, Zero: true}}})
		}
		return
	}
	var hash [stream.MaxHashSize]byte
	term := func(block int64, data []byte) stream.Sum {
		t.h.Hash.Block(hash[:], data)
		return t.h.Hash.Term(block, hash[:])
	}
	for i := range s.Count {
		older, newer := blockOf(s.data[0], i, t.h.BlockSize), blockOf(s.data[1], i, t.h.BlockSize)
		block := s.First + i
		wasZero, isZero := isZero(older), isZero(newer)
		if (bytes.Equal(older, newer) || wasZero && isZero) && !t.differ(block) {
			continue
		}
		c := blockChange{change: change{Run: stream.Run{First: block, Count: 1, Zero: isZero}}, data: newer}
		if !wasZero {
			c.old = term(block, older)
			p.old = t.h.Hash.Add(p.old, c.old)
		}
		switch {
		case block >= t.h.Blocks(t.newer.Size()):
			continue
		case isZero:
			c.data = nil
		default:
			p.new = t.h.Hash.Add(p.new, term(block, newer))
		}
		p.changes = append(p.changes, c)
	}
}

// differ reports whether a block differs whatever is in it: one image has it not, or at
// another length.
func (t *tracker) differ(block int64) bool {
	return t.h.BlockLen(block, t.older.Size()) != t.h.BlockLen(block, t.newer.Size())
}

// blockOf returns block i of what was read; nothing where nothing was.
func blockOf(data []byte, i int64, size int) []byte {
	start := min(int(i)*size, len(data))
	return data[start:min(start+size, len(data))]
}

// consume adds the changes to the frames.
func (t *tracker) consume(p *pair) error {
	t.old, t.new = t.h.Hash.Add(t.old, p.old), t.h.Hash.Add(t.new, p.new)
	if t.o.Count != nil {
		if err := t.o.Count(p.end-t.done, p.read); err != nil {
			return err
		}
	}
	t.done = p.end
	for _, c := range p.changes {
		off := c.First * int64(t.h.BlockSize)
		n := min(c.End()*int64(t.h.BlockSize), t.newer.Size()) - off
		t.result.Blocks += c.Count
		t.result.Bytes += n
		if t.o.Changed != nil {
			t.o.Changed(off, n)
		}
		if err := t.frames.add(c.change, c.data); err != nil {
			return err
		}
	}
	return nil
}
