package rdiff

import (
	"cmp"
	"io"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// passWorkers is how many frames are worked on at once: as many as a device wants
// reads under way.
const passWorkers = 8

// passDepth is how many frames a pass has in memory, each with up to three buffers of MaxLiteral.
const passDepth = passWorkers + 2

// frameJob is a frame in a pass, with room for what the pass needs, or a slice of
// one of the frame's long zero runs: see slice.
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
	inUse   int64 // blocks of the target, in its runs, that are not zero
}

// end returns the byte of the image before which the frame ends.
func (f *frameJob) end(h stream.Header) int64 {
	return f.Runs[len(f.Runs)-1].End() * int64(h.BlockSize)
}

// spareJobs are those of passes that are over. A run goes over its delta several times, and on a busy machine the
// garbage collector comes late: what one pass has left would stand beside what the next one allocates, for longer than
// its memory lasts.
var spareJobs = make(chan *frameJob, passDepth)

// newJobs returns the queue of a pass, and what must be called when that is closed.
func newJobs(workers int, work, consume func(*frameJob) error) (q *ordered.Queue[frameJob], closed func()) {
	var jobs []*frameJob
	alloc := func() *frameJob {
		f := new(frameJob)
		select {
		case f = <-spareJobs:
		default:
		}
		jobs = append(jobs, f)
		return f
	}
	return ordered.New(workers, passDepth, alloc, work, consume), func() {
		for _, f := range jobs {
			select {
			case spareJobs <- f:
			default: // of two passes at once
			}
		}
	}
}

func (f *frameJob) buffer() []byte {
	if f.scratch == nil {
		f.scratch = blockdev.Buffer(stream.MaxLiteral)
	}
	return f.scratch
}

// Steps are what a caller does while a delta arrives. Each may be nil.
type Steps struct {
	// Header may refuse the delta before the rest of it has come.
	Header func(stream.Header) error
	// BeforeWrite comes before each write of ApplyInPlace, from several goroutines. Its
	// error leaves what is to be written unwritten, and ends the run.
	BeforeWrite func() error
	// Done is told of each frame, in order, when everything is done with it: the bytes of
	// its literal data, and the byte of the image before which it ends.
	Done func(literal, end int64)
}

// pass reads a delta and works on its frames in parallel.
type pass struct {
	steps   Steps
	workers int  // how many jobs at once; 0: passWorkers
	decode  bool // the literal data is decoded and proved
	slices  bool // long zero runs are read in slices, each a job of its own
	// work is done on each job, in parallel; it may be nil.
	work func(h stream.Header, f *frameJob) error
	// add is called for each frame, in order, when all of its jobs are done; it may be nil.
	add func(h stream.Header, f *frameJob)
}

func (p *pass) run(in io.Reader) (Delta, error) {
	r, err := stream.NewDeltaReader(in)
	if err != nil {
		return Delta{}, err
	}
	h := r.Header
	if p.steps.Header != nil {
		if err := p.steps.Header(h); err != nil {
			return Delta{}, err
		}
	}
	d := Delta{Header: h}
	var literals stream.Sum
	work := func(f *frameJob) (err error) {
		if p.decode && f.of == f {
			if f.literal, err = f.proveLiterals(h); err != nil {
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
		if p.add != nil {
			p.add(h, f)
		}
		if p.steps.Done != nil {
			p.steps.Done(int64(f.RawSize), f.end(h))
		}
		return nil
	}
	q, closed := newJobs(cmp.Or(p.workers, passWorkers), work, consume)
	defer closed()
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
