package rdiff

import (
	"sync"

	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

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
