package rdiff

import (
	"bytes"
	"io"

	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// Result of a Diff.
type Result struct {
	Source  stream.Image
	Blocks  int64 // blocks of the source that changed
	Bytes   int64 // their bytes
	Dropped bool  // the source is smaller than the basis
}

// Differs reports whether the images are not the same.
func (r Result) Differs() bool { return r.Blocks > 0 || r.Dropped }

// Outputs of Diff; each may be nil.
type Outputs struct {
	Delta     *stream.DeltaWriter
	Encoder   *stream.Encoder // for Delta
	Signature *stream.SignatureWriter
}

// comparison is a piece of the source beside the basis's blocks of the same
// numbers.
type comparison struct {
	scan
	runs    []basisRun
	hashBuf []byte
	last    int64 // number of the basis's last block, if it is here
	lastLen int

	basisSum stream.Sum
	changes  []change
}

// change is a literal block or a run of zero blocks, with the sum of the terms
// that they replace.
type change struct {
	stream.Run
	old stream.Sum
}

// Diff reads a basis's signature and a source and writes the delta between them,
// reading the source as the signature arrives.
func Diff(sig *stream.SignatureReader, src Source, out Outputs, o Options) (Result, error) {
	b, err := newBasis(sig)
	if err != nil {
		return Result{}, err
	}
	d := &differ{h: sig.Header, src: src, out: out, o: o, frames: newFrameBuilder(sig.Header, out)}
	d.result.Source = d.h.NewImage(0, stream.Sum{})
	readers := readersOf(src, d.h)
	q := ordered.New(readers, depth(readers), d.alloc, d.work, d.consume)
	err = q.Close(d.feed(q, b))
	if err := d.frames.close(err); err != nil {
		return d.result, err
	}
	err = d.end(b)
	return d.result, err
}

type differ struct {
	h      stream.Header
	src    Source
	out    Outputs
	o      Options
	frames *frameBuilder

	result   Result
	basisSum stream.Sum // of the blocks compared
	oldSum   stream.Sum // of the blocks replaced
}

func (d *differ) alloc() *comparison { return &comparison{scan: newScan(d.h)} }

// feed pairs each piece of the source with the basis's blocks of that place.
func (d *differ) feed(q *ordered.Queue[comparison], b *basis) error {
	for {
		c, err := q.Get()
		if err != nil {
			return err
		}
		// A hole is compared with one run of the basis at a time, so that a hole of
		// any size costs one step where the basis has none there either.
		_, n := b.left()
		bs := int64(d.h.BlockSize)
		if err := d.src.next(&c.piece, d.h.BlockSize, min(n, stream.MaxImageSize/bs)*bs); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		c.runs, c.hashBuf = c.runs[:0], c.hashBuf[:0]
		for _, left := c.blocks(d.h); left > 0; {
			var run basisRun
			if run, c.hashBuf, err = b.take(left, c.hashBuf); err != nil {
				return err
			}
			c.runs = append(c.runs, run)
			left -= run.count
		}
		c.last, c.lastLen = b.last()
		q.Put(c)
	}
}

// work compares one piece.
func (d *differ) work(c *comparison) error {
	if err := d.src.load(&c.piece); err != nil {
		return err
	}
	c.hash(d.h)
	c.basisSum, c.changes = stream.Sum{}, c.changes[:0]
	first, _ := c.blocks(d.h)
	block := first
	for i := range c.runs {
		run := &c.runs[i]
		if c.hole {
			c.compareHole(d.h, run, block)
		} else {
			c.compareData(d.h, run, block-first)
		}
		block += run.count
	}
	return nil
}

// compareHole compares a run of the basis with zero blocks.
func (c *comparison) compareHole(h stream.Header, run *basisRun, block int64) {
	switch run.kind {
	case absent:
		c.changes = append(c.changes, change{Run: stream.Run{First: block, Count: run.count, Zero: true}})
	case zero:
		// Equal, but for the length of the last block of either image.
		if last := block + run.count - 1; c.basisLen(h, last) != h.BlockLen(last, c.off+c.size) {
			c.changes = append(c.changes, change{Run: stream.Run{First: last, Count: 1, Zero: true}})
		}
	case hashed:
		var sum stream.Sum
		for i := range run.count {
			sum = h.Hash.Add(sum, h.Hash.Term(block+i, run.hash(h.Hash, i)))
		}
		c.basisSum = h.Hash.Add(c.basisSum, sum)
		c.changes = append(c.changes, change{stream.Run{First: block, Count: run.count, Zero: true}, sum})
	}
}

// compareData compares a run of the basis with what was read; at is the run's
// place in the piece, in blocks.
func (c *comparison) compareData(h stream.Header, run *basisRun, at int64) {
	first, _ := c.blocks(h)
	for i := range run.count {
		block := first + at + i
		data, hash := c.block(h, at+i)
		isZero := c.zero[at+i]
		var old stream.Sum
		var same bool
		switch run.kind {
		case zero:
			same = isZero
		case hashed:
			oldHash := run.hash(h.Hash, i)
			old = h.Hash.Term(block, oldHash)
			c.basisSum = h.Hash.Add(c.basisSum, old)
			same = !isZero && bytes.Equal(hash, oldHash)
		}
		if !same || len(data) != c.basisLen(h, block) {
			c.changes = append(c.changes, change{stream.Run{First: block, Count: 1, Zero: isZero}, old})
		}
	}
}

// basisLen returns the length of a block that the basis has.
func (c *comparison) basisLen(h stream.Header, block int64) int {
	if block == c.last {
		return c.lastLen
	}
	return h.BlockSize
}

// consume adds the changes of a piece to the frames.
func (d *differ) consume(c *comparison) error {
	d.result.Source.Size += c.size
	d.result.Source.Sum = d.h.Hash.Add(d.result.Source.Sum, c.sum)
	d.basisSum = d.h.Hash.Add(d.basisSum, c.basisSum)
	if err := d.o.count(&c.piece); err != nil {
		return err
	}
	if d.out.Signature != nil {
		if err := c.sign(d.h, d.out.Signature); err != nil {
			return err
		}
	}
	first, _ := c.blocks(d.h)
	for _, ch := range c.changes {
		d.oldSum = d.h.Hash.Add(d.oldSum, ch.old)
		d.result.Blocks += ch.Count
		off := ch.First * int64(d.h.BlockSize)
		n := min(ch.End()*int64(d.h.BlockSize), c.off+c.size) - off
		d.result.Bytes += n
		if d.o.Changed != nil {
			d.o.Changed(off, n)
		}
		var data []byte
		if !ch.Zero {
			data, _ = c.block(d.h, ch.First-first)
		}
		if err := d.frames.add(ch, data); err != nil {
			return err
		}
	}
	return nil
}

// end checks the signature as a whole and completes the outputs.
func (d *differ) end(b *basis) error {
	dropped, err := b.drop()
	if err != nil {
		return err
	}
	if err := b.r.CheckSum(d.h.Hash.Add(d.basisSum, dropped)); err != nil {
		return err
	}
	d.result.Dropped = d.result.Source.Size < b.r.Image.Size
	if err := d.o.beforeEnd(d.result.Source); err != nil {
		return err
	}
	if d.out.Signature != nil {
		if err := d.out.Signature.End(d.result.Source); err != nil {
			return err
		}
	}
	if d.out.Delta == nil {
		return nil
	}
	return d.out.Delta.End(b.r.Image, d.result.Source, d.h.Hash.Add(d.oldSum, dropped))
}
