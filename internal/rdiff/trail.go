package rdiff

import (
	"errors"
	"sync"

	"xen-backup/internal/stream"
)

// Trail reads a target back while it is written, behind a writer that goes forward
// only: to do so after the last write would cost the time of another read.
type Trail struct {
	src    *trailSource
	digest stream.Image
	err    error
	ended  chan struct{}
}

// trailStep is how many bytes are written before they are synced and read back:
// so many that the syncs cost little.
const trailStep = 256 << 20

// StartTrail begins to read the image, which must read from the disk and not from
// a cache. sync makes durable what was written to it.
func StartTrail(img Image, h stream.Header, sync func() error) *Trail {
	return startTrail(img, h, sync, trailStep)
}

func startTrail(img Image, h stream.Header, sync func() error, step int64) *Trail {
	src := &trailSource{imageSource: imageSource{Image: img}, sync: sync, step: step}
	src.moved.L = &src.mu
	t := &Trail{src: src, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		t.digest, t.err = Sign(t.src, h, nil, Options{})
	}()
	return t
}

// Written says that what is before end, in bytes, will not be written again.
func (t *Trail) Written(end int64) { t.src.move(end, false) }

// Digest returns the digest of the image, all of which is written.
func (t *Trail) Digest() (stream.Image, error) {
	t.Written(t.src.Size())
	<-t.ended
	return t.digest, t.err
}

// Failed returns the error with which the reading has ended already, if it has.
func (t *Trail) Failed() error {
	select {
	case <-t.ended:
		return t.err
	default:
		return nil
	}
}

// Stop ends the reading, if that has not ended yet.
func (t *Trail) Stop() {
	t.src.move(0, true)
	<-t.ended
}

// trailSource hands out an image as far as it is written and synced.
type trailSource struct {
	imageSource
	sync func() error
	step int64 // see trailStep

	mu      sync.Mutex
	moved   sync.Cond
	written int64 // bytes
	stopped bool
}

func (s *trailSource) move(written int64, stop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = max(s.written, min(written, s.Size()))
	s.stopped = s.stopped || stop
	s.moved.Signal()
}

func (s *trailSource) next(p *piece, blockSize int, maxHole int64) error {
	written, err := s.wait()
	if err == nil && s.pos == s.limit && s.limit < s.Size() {
		err = s.sync()
		s.limit = written
	}
	if err != nil {
		return err
	}
	return s.imageSource.next(p, blockSize, maxHole)
}

// wait returns how much is written, as soon as there is something to read or enough
// for a sync.
func (s *trailSource) wait() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pos == s.limit && s.written < min(s.limit+s.step, s.Size()) && !s.stopped {
		s.moved.Wait()
	}
	if s.stopped {
		return 0, errors.New("stopped")
	}
	return s.written, nil
}
