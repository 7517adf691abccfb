package rdiff

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// Target is an image that a delta is applied to.
type Target interface {
	Image
	// WriteRanges writes all ranges, which may lie anywhere but not overlap.
	WriteRanges(ranges []blockdev.Range) error
	// ZeroRange makes bytes read as zero, and gives their space back if it can.
	ZeroRange(off, n int64) error
}

// Delta is what a pass over a delta has found: all of it is proved.
type Delta struct {
	stream.Header
	stream.DeltaEnd
	Bytes int64 // of the stream
	end   int64 // number of the block after the last run
}

// Changed returns how many bytes the delta changes.
func (d Delta) Changed() int64 {
	bytes := (d.Literals + d.Zeroes) * int64(d.BlockSize)
	if last := d.Blocks(d.Source.Size); d.end == last {
		bytes -= last*int64(d.BlockSize) - d.Source.Size // the last block may be short
	}
	return bytes
}

// passWorkers is how many frames are worked on at once: as many as a device wants
// reads under way.
const passWorkers = 8

// frameJob is a frame in a pass, with room for what the pass needs.
type frameJob struct {
	stream.Frame
	decoded []byte // room for the literal data
	scratch []byte // room for what is read of the target
	ranges  []blockdev.Range
	terms   stream.Sum
}

// pass reads a delta and works on its frames in parallel.
type pass struct {
	workers int                                                       // how many frames at once; 0: passWorkers
	header  func(stream.Header) error                                 // may refuse the stream
	decode  bool                                                      // work gets the literal data, and it is proved
	work    func(h stream.Header, f *frameJob, literals []byte) error // may be nil
	count   func(h stream.Header, f *frameJob)                        // called in order; may be nil
}

func (p *pass) run(in io.Reader) (Delta, error) {
	counted := &countingReader{r: in}
	r, err := stream.NewDeltaReader(counted)
	if err != nil {
		return Delta{}, err
	}
	h := r.Header
	if p.header != nil {
		if err := p.header(h); err != nil {
			return Delta{}, err
		}
	}
	var literals stream.Sum
	var end int64
	work := func(f *frameJob) (err error) {
		var raw []byte
		if p.decode {
			if raw, err = f.prove(h); err != nil {
				return err
			}
		}
		if p.work == nil {
			return nil
		}
		return p.work(h, f, raw)
	}
	consume := func(f *frameJob) error {
		literals = h.Hash.Add(literals, f.terms)
		end = f.Runs[len(f.Runs)-1].End()
		if p.count != nil {
			p.count(h, f)
		}
		return nil
	}
	workers := cmp.Or(p.workers, passWorkers)
	q := ordered.New(workers, depth(workers), func() *frameJob { return new(frameJob) }, work, consume)
	if err := q.Close(feedFrames(q, r)); err != nil {
		return Delta{}, err
	}
	if p.decode {
		if err := r.End.CheckSum(h.Hash, literals); err != nil {
			return Delta{}, err
		}
	}
	return Delta{h, r.End, counted.n, end}, nil
}

func feedFrames(q *ordered.Queue[frameJob], r *stream.DeltaReader) error {
	for {
		f, err := q.Get()
		if err != nil {
			return err
		}
		if err := r.Next(&f.Frame); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		q.Put(f)
	}
}

// prove decodes the literal data and sums up the terms of its blocks.
func (f *frameJob) prove(h stream.Header) ([]byte, error) {
	if f.decoded == nil && f.Encoding == stream.Zstd {
		f.decoded = blockdev.Buffer(stream.MaxLiteral)
	}
	raw, err := f.Decode(f.decoded)
	if err != nil {
		return nil, err
	}
	f.terms = stream.Sum{}
	var hash [stream.MaxHashSize]byte
	rest := raw
	for _, r := range f.Runs {
		if r.Zero {
			continue
		}
		for i := r.First; i < r.End(); i++ {
			block := rest[:min(len(rest), h.BlockSize)]
			if isZero(block) {
				return nil, cli.Fail(cli.BadStream, "bad delta: literal block %d is all zero", i)
			}
			h.Hash.Block(hash[:], block)
			f.terms = h.Hash.Add(f.terms, h.Hash.Term(i, hash[:]))
			rest = rest[len(block):]
		}
	}
	return raw, nil
}

// end returns the byte of the image before which the frame ends.
func (f *frameJob) end(h stream.Header) int64 {
	return f.Runs[len(f.Runs)-1].End() * int64(h.BlockSize)
}

func (f *frameJob) buffer() []byte {
	if f.scratch == nil {
		f.scratch = blockdev.Buffer(stream.MaxLiteral)
	}
	return f.scratch
}

// Verify reads a whole delta and proves it: structure, checksums, contents and
// digests. check may refuse it by its header, before the rest has come; done is
// told each frame as by ApplyInPlace.
func Verify(in io.Reader, check func(stream.Header) error, done func(literal, end int64)) (Delta, error) {
	p := pass{header: check, decode: true, count: func(h stream.Header, f *frameJob) { done(int64(f.RawSize), f.end(h)) }}
	return p.run(in)
}

// ErrNotBasis is returned where the target's blocks are not those that the delta
// was made against.
var ErrNotBasis = cli.Fail(cli.NotBasis, "the blocks to be replaced are not those that the delta was made against")

// ProveOld reads the blocks of the target that a delta replaces or drops, and
// returns ErrNotBasis if their terms don't add up to what the delta says.
func ProveOld(delta io.Reader, d Delta, target Image) error {
	var sum stream.Sum
	p := pass{
		work: func(h stream.Header, f *frameJob, _ []byte) error {
			return f.proveOld(h, target, d.Basis.Size)
		},
		count: func(_ stream.Header, f *frameJob) { sum = d.Hash.Add(sum, f.Old) },
	}
	if _, err := p.run(delta); err != nil {
		return err
	}
	return proveDropped(d, target, sum)
}

// ErrNotRest is returned where what a delta leaves alone is not as in its basis.
var ErrNotRest = cli.Fail(cli.NotBasis, "the blocks that the delta leaves alone are not those of its basis")

// ProveRest reads a target to which an apply has written some of the delta, and
// returns ErrNotRest if any other block is not that of the basis: then to write the
// rest of the delta would not make it the source. The target must not be larger than
// the source; what has no bytes yet is as good as zero.
func ProveRest(delta io.Reader, d Delta, target Image, count func(int64)) error {
	whole, err := DigestOf(target, d.Header, count)
	if err != nil {
		return err
	}
	var written stream.Sum // or still to be written
	p := pass{
		work: func(h stream.Header, f *frameJob, _ []byte) (err error) {
			f.terms, err = sumRuns(target, h, target.Size(), f.Runs, f.buffer())
			return err
		},
		count: func(_ stream.Header, f *frameJob) { written = d.Hash.Add(written, f.terms) },
	}
	if _, err := p.run(delta); err != nil {
		return err
	}
	if d.Hash.Sub(whole.Sum, written) != d.Hash.Sub(d.Basis.Sum, d.Old) {
		return ErrNotRest
	}
	return nil
}

// proveDropped adds the blocks that the delta drops to the sum of those that it
// replaces, and compares that with what the delta says.
func proveDropped(d Delta, target Image, replaced stream.Sum) error {
	first := d.Blocks(d.Source.Size)
	tail := []stream.Run{{First: first, Count: max(0, d.Blocks(d.Basis.Size)-first)}}
	dropped, err := sumRuns(target, d.Header, d.Basis.Size, tail, blockdev.Buffer(stream.MaxLiteral))
	if err != nil {
		return err
	}
	if d.Hash.Add(replaced, dropped) != d.Old {
		return ErrNotBasis
	}
	return nil
}

// proveOld compares the sum of the old terms in a frame with the target's.
func (f *frameJob) proveOld(h stream.Header, target Image, size int64) error {
	sum, err := sumRuns(target, h, size, f.Runs, f.buffer())
	if err != nil {
		return err
	}
	if sum != f.Old {
		return ErrNotBasis
	}
	return nil
}

// sumRuns returns the sum of the terms of an image's blocks in runs; the image has
// size bytes.
func sumRuns(img Image, h stream.Header, size int64, runs []stream.Run, buf []byte) (sum stream.Sum, err error) {
	var hash [stream.MaxHashSize]byte
	s := scatter{img: img, bs: int64(h.BlockSize), size: size, buf: buf, skipHoles: func(stream.Run) bool { return true },
		visit: func(_ stream.Run, off int64, data []byte) error {
			for i := off / int64(h.BlockSize); len(data) > 0; i++ {
				block := data[:min(len(data), h.BlockSize)]
				if data = data[len(block):]; !isZero(block) {
					h.Hash.Block(hash[:], block)
					sum = h.Hash.Add(sum, h.Hash.Term(i, hash[:]))
				}
			}
			return nil
		}}
	return sum, s.read(runs)
}

// Apply writes the changes of a proved delta to the target. It neither sets the
// target's size nor syncs.
func Apply(delta io.Reader, d Delta, target Target) error {
	p := pass{workers: target.Readers(), decode: true, work: func(h stream.Header, f *frameJob, raw []byte) error {
		return f.write(h, target, d.Source.Size, raw)
	}}
	_, err := p.run(delta)
	return err
}

// fits tells whether a frame stays within the image size in the header. On a larger
// device, bytes behind the image are not ours.
func (f *frameJob) fits(h stream.Header) bool {
	last, bs := f.Runs[len(f.Runs)-1], int64(h.BlockSize)
	missing := f.Literals()*bs - int64(f.RawSize) // of a short last block
	return last.End() <= h.Blocks(h.Size) && (last.Zero || last.End()*bs-missing <= h.Size)
}

func (f *frameJob) write(h stream.Header, target Target, size int64, raw []byte) error {
	bs := int64(h.BlockSize)
	f.ranges = f.ranges[:0]
	for _, r := range f.Runs {
		off, end := r.First*bs, min(r.End()*bs, size)
		if r.Zero {
			if err := target.ZeroRange(off, end-off); err != nil {
				return err
			}
			continue
		}
		n := min(r.Count*bs, int64(len(raw)))
		f.ranges = append(f.ranges, blockdev.Range{Off: off, Buf: raw[:n]})
		raw = raw[n:]
	}
	return target.WriteRanges(f.ranges)
}

// CheckWritten reads back what Apply wrote and compares it with the delta. The
// image must read from the disk, not from a cache.
func CheckWritten(delta io.Reader, d Delta, target Image) error {
	p := pass{work: func(h stream.Header, f *frameJob, _ []byte) error {
		return f.checkWritten(h, target, d.Source.Size)
	}}
	_, err := p.run(delta)
	return err
}

func (f *frameJob) checkWritten(h stream.Header, target Image, size int64) error {
	sum := xxhash.New()
	s := scatter{img: target, bs: int64(h.BlockSize), size: size, buf: f.buffer(), skipHoles: func(r stream.Run) bool { return r.Zero },
		visit: func(r stream.Run, off int64, data []byte) error {
			if !r.Zero {
				sum.Write(data)
			} else if !isZero(data) {
				return errReadBack(off)
			}
			return nil
		}}
	if err := s.read(f.Runs); err != nil {
		return err
	}
	if sum.Sum64() != f.RawSum {
		return errReadBack(f.Runs[0].First * int64(h.BlockSize))
	}
	return nil
}

// ErrReadBack is returned where the disk has something else than was written.
var ErrReadBack = errors.New("what was written does not read back")

func errReadBack(off int64) error { return fmt.Errorf("%w, at or after byte %d", ErrReadBack, off) }

// ApplyInPlace applies a delta to a target of basisSize bytes as it arrives. Each
// frame is proved, and compared with the blocks that it replaces, before any of it
// is written; begin is called before each write, and a target of 0 bytes is not
// touched before. check may refuse the header, which must tell the source's size.
// done is told the bytes of each frame's literal data, and the byte before which
// all is written. The caller must set the target's size, sync, and then demand the source's digest
// of the whole target.
func ApplyInPlace(in io.Reader, target Target, basisSize int64, check func(stream.Header) error, begin func() error, done func(literal, end int64)) (Delta, error) {
	var old stream.Sum
	p := pass{header: check, decode: true,
		count: func(h stream.Header, f *frameJob) {
			old = h.Hash.Add(old, f.Old)
			done(int64(f.RawSize), f.end(h))
		},
		work: func(h stream.Header, f *frameJob, raw []byte) error {
			if !f.fits(h) {
				return cli.Fail(cli.BadStream, "bad delta: a run goes beyond the image size in its header")
			}
			if err := f.proveOld(h, target, basisSize); err != nil {
				return err
			}
			if err := begin(); err != nil {
				return err
			}
			return f.write(h, target, h.Size, raw)
		}}
	d, err := p.run(in)
	if err != nil {
		return d, err
	}
	if d.Basis.Size > basisSize {
		return d, ErrNotBasis
	}
	return d, proveDropped(d, target, old)
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
