package rdiff

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
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
	Bytes        int64 // of the stream
	Runs         int64
	LiteralBytes int64
	end          int64 // number of the block after the last run
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

// frameJob is a frame in a pass, with room for what the pass needs, or a slice of
// one of the frame's long zero runs: see pass.slice.
type frameJob struct {
	stream.Frame
	of      *frameJob    // the frame that this is a slice of, or the job itself
	reads   []stream.Run // what this job reads of the target
	literal []byte       // the frame's literal data, if it is decoded
	decoded []byte       // room for it
	scratch []byte       // room for what is read of the target
	ranges  []blockdev.Range
	terms   stream.Sum // of the literal data
	total   total
	used    int64 // blocks of the target, in its runs, that are not zero
}

// total is what the jobs of a frame have found out together.
type total struct {
	mu   sync.Mutex
	left int // jobs that have not added their part
	sum  stream.Sum
}

// add adds a job's sum to that of its frame. It returns true to the last job.
func (f *frameJob) add(h stream.Header, sum stream.Sum) (last bool) {
	t := &f.of.total
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum = h.Hash.Add(t.sum, sum)
	t.left--
	return t.left == 0
}

// pass reads a delta and works on its frames in parallel.
type pass struct {
	workers int                                      // how many jobs at once; 0: passWorkers
	header  func(stream.Header) error                // may refuse the stream
	decode  bool                                     // the literal data is decoded and proved
	slices  bool                                     // long zero runs are read in slices, each a job of its own
	work    func(h stream.Header, f *frameJob) error // may be nil
	count   func(h stream.Header, f *frameJob)       // called for each frame, in order, when all of it is done; may be nil
}

func (p *pass) run(in io.Reader) (Delta, error) {
	r, err := stream.NewDeltaReader(in)
	if err != nil {
		return Delta{}, err
	}
	h := r.Header
	if p.header != nil {
		if err := p.header(h); err != nil {
			return Delta{}, err
		}
	}
	d := Delta{Header: h}
	var literals stream.Sum
	work := func(f *frameJob) (err error) {
		if p.decode && f.of == f {
			if f.literal, err = f.prove(h); err != nil {
				return err
			}
		}
		if p.work == nil {
			return nil
		}
		return p.work(h, f)
	}
	consume := func(f *frameJob) error {
		if f.of != f {
			return nil
		}
		literals = h.Hash.Add(literals, f.terms)
		d.Runs += int64(len(f.Runs))
		d.LiteralBytes += int64(f.RawSize)
		d.end = f.Runs[len(f.Runs)-1].End()
		if p.count != nil {
			p.count(h, f)
		}
		return nil
	}
	workers := cmp.Or(p.workers, passWorkers)
	q := ordered.New(workers, depth(workers), func() *frameJob { return new(frameJob) }, work, consume)
	if err := q.Close(p.feed(q, r)); err != nil {
		return Delta{}, err
	}
	if p.decode {
		if err := r.End.CheckSum(h.Hash, literals); err != nil {
			return Delta{}, err
		}
	}
	d.DeltaEnd, d.Bytes = r.End, r.BytesRead()
	return d, nil
}

func (p *pass) feed(q *ordered.Queue[frameJob], r *stream.DeltaReader) error {
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
		if f.of = f; p.slices {
			if err := f.slice(q, r.Header); err != nil {
				return err
			}
		} else {
			f.reads = append(f.reads[:0], f.Runs...)
		}
		q.Put(f)
	}
}

// A zero run has any length, and to read one is more than a job's share: it is cut into
// slices. Holes are skipped in one step, so that a run of holes has to be few jobs,
// whatever its length.
const (
	sliceSize = 16 << 20 // bytes
	maxSlices = 4096     // of a run
)

// cut passes a run on in slices.
func cut(run stream.Run, h stream.Header, slice func(stream.Run) error) error {
	n := max(sliceSize/int64(h.BlockSize), (run.Count+maxSlices-1)/maxSlices)
	for end := run.End(); run.First < end; run.First += n {
		run.Count = min(n, end-run.First)
		if err := slice(run); err != nil {
			return err
		}
	}
	return nil
}

// slice puts the frame's long zero runs into the queue, ahead of the frame itself. Who
// consumes in order has done with all of them when the frame's turn comes, and until then
// the frame's buffers are there.
func (f *frameJob) slice(q *ordered.Queue[frameJob], h stream.Header) error {
	f.reads = f.reads[:0]
	var long []stream.Run
	for _, r := range f.Runs {
		if r.Zero && r.Count*int64(h.BlockSize) > sliceSize {
			long = append(long, r)
		} else {
			f.reads = append(f.reads, r)
		}
	}
	f.total.sum, f.total.left = stream.Sum{}, 1
	for _, r := range long {
		cut(r, h, func(stream.Run) error { f.total.left++; return nil })
	}
	for _, r := range long {
		err := cut(r, h, func(slice stream.Run) error {
			s, err := q.Get()
			if err == nil {
				s.of, s.reads = f, append(s.reads[:0], slice)
				q.Put(s)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
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
				return nil, exit.Fail(exit.BadStream, "bad delta: literal block %d is all zero", i)
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

// VerifyOver does so and reads the blocks of the target that the delta replaces: used
// becomes the number of those that are not zero.
func VerifyOver(in io.Reader, target Image, used *int64, check func(stream.Header) error, done func(literal, end int64)) (Delta, error) {
	p := pass{header: check, decode: true,
		work: func(h stream.Header, f *frameJob) (err error) {
			f.used, err = countRuns(target, h, f.Runs, f.buffer())
			return err
		},
		count: func(h stream.Header, f *frameJob) {
			*used += f.used
			done(int64(f.RawSize), f.end(h))
		}}
	return p.run(in)
}

// Runs calls visit for the bytes of each run of a proved delta, in order; zero tells that
// they become zero.
func Runs(delta io.Reader, d Delta, visit func(off, n int64, zero bool) error) error {
	var failed error
	p := pass{count: func(h stream.Header, f *frameJob) {
		for _, r := range f.Runs {
			off, end := r.First*int64(h.BlockSize), min(r.End()*int64(h.BlockSize), d.Source.Size)
			if failed == nil {
				failed = visit(off, end-off, r.Zero)
			}
		}
	}}
	_, err := p.run(delta)
	return cmp.Or(failed, err)
}

// ErrNotBasis is returned where the target's blocks are not those that the delta
// was made against.
var ErrNotBasis = exit.Fail(exit.NotBasis, "the blocks to be replaced are not those that the delta was made against")

// ProveOld reads the blocks of the target that a delta replaces or drops, and
// returns ErrNotBasis if their terms don't add up to what the delta says.
func ProveOld(delta io.Reader, d Delta, target Image) error {
	var sum stream.Sum
	p := pass{
		slices: true,
		work: func(h stream.Header, f *frameJob) error {
			_, err := f.proveOld(h, target, d.Basis.Size)
			return err
		},
		count: func(_ stream.Header, f *frameJob) { sum = d.Hash.Add(sum, f.Old) },
	}
	if _, err := p.run(delta); err != nil {
		return err
	}
	return proveDropped(d, target, sum)
}

// ErrNotRest is returned where what a delta leaves alone is not as in its basis.
var ErrNotRest = exit.Fail(exit.NotBasis, "the blocks that the delta leaves alone are not those of its basis")

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
		slices: true,
		work: func(h stream.Header, f *frameJob) error {
			sum, err := sumRuns(target, h, target.Size(), f.reads, f.buffer())
			f.add(h, sum)
			return err
		},
		count: func(_ stream.Header, f *frameJob) { written = d.Hash.Add(written, f.total.sum) },
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
	tail := stream.Run{First: first, Count: max(0, d.Blocks(d.Basis.Size)-first)}
	sum := replaced
	work := func(f *frameJob) (err error) {
		f.terms, err = sumRuns(target, d.Header, d.Basis.Size, f.reads, f.buffer())
		return err
	}
	consume := func(f *frameJob) error {
		sum = d.Hash.Add(sum, f.terms)
		return nil
	}
	q := ordered.New(passWorkers, depth(passWorkers), func() *frameJob { return new(frameJob) }, work, consume)
	err := q.Close(cut(tail, d.Header, func(slice stream.Run) error {
		f, err := q.Get()
		if err == nil {
			f.reads = append(f.reads[:0], slice)
			q.Put(f)
		}
		return err
	}))
	if err != nil {
		return err
	}
	if sum != d.Old {
		return ErrNotBasis
	}
	return nil
}

// proveOld compares the sum of the old terms in a frame with the target's, when the
// last job of the frame has read its part; last tells whether this was it.
func (f *frameJob) proveOld(h stream.Header, target Image, size int64) (last bool, err error) {
	sum, err := sumRuns(target, h, size, f.reads, f.buffer())
	if err != nil {
		return false, err
	}
	if last = f.add(h, sum); last && f.of.total.sum != f.of.Old {
		return last, ErrNotBasis
	}
	return last, nil
}

// countRuns returns how many of an image's blocks in runs are not zero.
func countRuns(img Image, h stream.Header, runs []stream.Run, buf []byte) (n int64, err error) {
	s := scatter{img: img, bs: int64(h.BlockSize), size: img.Size(), buf: buf, skipHoles: func(stream.Run) bool { return true },
		visit: func(_ stream.Run, _ int64, data []byte) error {
			for len(data) > 0 {
				block := data[:min(len(data), h.BlockSize)]
				if data = data[len(block):]; !isZero(block) {
					n++
				}
			}
			return nil
		}}
	return n, s.read(runs)
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
	p := pass{workers: target.Readers(), decode: true, work: func(h stream.Header, f *frameJob) error {
		return f.write(h, target, d.Source.Size)
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

func (f *frameJob) write(h stream.Header, target Target, size int64) error {
	bs, raw := int64(h.BlockSize), f.literal
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
	p := pass{slices: true, work: func(h stream.Header, f *frameJob) error {
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

// ApplyInPlace applies a delta to a target of basisSize bytes as it arrives. Each
// frame is proved, and compared with the blocks that it replaces, before any of it
// is written; begin is called before each write, and a target of 0 bytes is not
// touched before. check may refuse the header, which must tell the source's size.
// done is told the bytes of each frame's literal data, and the byte before which
// all is written. The caller must set the target's size, sync, and then demand the source's digest
// of the whole target.
func ApplyInPlace(in io.Reader, target Target, basisSize int64, check func(stream.Header) error, begin func() error, done func(literal, end int64)) (Delta, error) {
	var old stream.Sum
	p := pass{header: check, decode: true, slices: true,
		count: func(h stream.Header, f *frameJob) {
			old = h.Hash.Add(old, f.Old)
			done(int64(f.RawSize), f.end(h))
		},
		work: func(h stream.Header, f *frameJob) error {
			if !f.of.fits(h) {
				return exit.Fail(exit.BadStream, "bad delta: a run goes beyond the image size in its header")
			}
			if last, err := f.proveOld(h, target, basisSize); err != nil || !last {
				return err
			}
			if err := begin(); err != nil {
				return err
			}
			return f.of.write(h, target, h.Size)
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
