// Package pace promises that a disk is its guest's first: what is read of it and written to it in the background goes
// in small requests, few at once, and as many more as come back without delay (window.go); at no higher rate than was
// allowed (bucket.go); and by threads that everybody else goes before (priority.go).
package pace

import (
	"slices"
	"sync"
	"time"
)

// Pace is how all disks of a run are used. Its methods may be called by several goroutines. A nil Pace is no
// restraint, and is asked for nothing but Do.
type Pace struct {
	mu     sync.Mutex
	moved  sync.Cond // the line or what is in flight has become shorter
	window *window   // nil: not in the background
	reads  Bucket

	inFlight int64   // what the requests that have not come back count in the window
	tickets  int64   // how many were drawn
	line     []int64 // the tickets whose next request has not begun, lowest first
}

// New returns the pace of a run: in the background or not, with at most rate bytes read a second; 0 is no limit.
func New(background bool, rate int64) *Pace {
	p := &Pace{reads: Bucket{Rate: rate}}
	p.moved.L = &p.mu
	if background {
		p.window = newWindow()
	}
	return p
}

// Background reports whether guests come first.
func (p *Pace) Background() bool { return p != nil && p.window != nil }

// Kind is what a request does to a disk.
type Kind int

const (
	Read Kind = iota
	Write
	Zero
	Discard // in one request: a device may ignore parts of its own unit
	kinds
)

// Request does the bytes from one to another of those that Do was called for. waited is false if the disk had nothing
// to do with it, as where the page cache had them: that tells nothing of how busy it is.
type Request func(from, to int64) (done int, waited bool, err error)

// Do has n bytes done in one request after another, each when its turn has come. It ends early where a request does.
// Who calls it first is served first: the pieces of an image that several goroutines read come in the order of the
// image, which is the one that disks are fast in.
func (p *Pace) Do(k Kind, n int, request Request) (int, error) {
	if p == nil {
		done, _, err := request(0, int64(n))
		return done, err
	}
	if n == 0 {
		return 0, nil
	}
	ticket := p.draw()
	for done := 0; ; {
		size, began := p.begin(k, ticket, int64(n-done))
		m, waited, err := request(int64(done), int64(done)+size)
		done += m
		over := done == n || err != nil || int64(m) < size
		p.end(k, size, began, waited, ticket, over)
		if over {
			return done, err
		}
	}
}

// draw returns a ticket, which stands in the line.
func (p *Pace) draw() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tickets++
	p.queue(p.tickets)
	return p.tickets
}

func (p *Pace) queue(ticket int64) {
	i, _ := slices.BinarySearch(p.line, ticket)
	p.line = slices.Insert(p.line, i, ticket)
}

// begin waits for the turn of a ticket in the line, and says how much of want bytes the next request may have.
func (p *Pace) begin(k Kind, ticket, want int64) (size int64, began time.Time) {
	p.mu.Lock()
	for {
		size = p.size(k, want)
		if p.line[0] == ticket && p.window.admits(size, p.inFlight) {
			break
		}
		p.moved.Wait()
	}
	p.line = p.line[1:]
	p.inFlight += share(size)
	var wait time.Duration
	if k == Read {
		wait = p.reads.Take(size, time.Now())
	}
	p.mu.Unlock()
	p.moved.Broadcast() // the next in the line may have room, too
	time.Sleep(wait)
	return size, time.Now()
}

// size is that of the next request.
func (p *Pace) size(k Kind, want int64) int64 {
	size := p.window.request(k, want)
	if k == Read && p.reads.Rate > 0 {
		size = min(size, max(minRequest, p.reads.Rate/10))
	}
	if size < want {
		size -= size % pageSize // what is left must be aligned as the whole was
	}
	return size
}

// end takes a request out of what is in flight. Unless its ticket is over, that is back in the line before anybody can
// have the room: who asks for a whole piece is not overtaken between two requests.
func (p *Pace) end(k Kind, size int64, began time.Time, waited bool, ticket int64, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight -= share(size)
	if !over {
		p.queue(ticket)
	}
	if waited {
		p.window.returned(k, size, began, time.Now())
	}
	p.moved.Broadcast()
}
