// How much may be in flight. What makes a guest wait is the queue of requests that its own come behind: here it is as
// short as it can be, one small request, and longer only while the disk has time for more.

package pace

import (
	"math/bits"
	"time"
)

const (
	pageSize = 4 << 10
	// minRequest is the size of the smallest request that is worth a disk's while, and the least that is in flight.
	minRequest = 64 << 10
	// maxRequest is as much as a guest's request should ever have to wait for.
	maxRequest = 256 << 10
	maxWindow  = 4 << 20
	// zeroRequest is how much is zeroed at once: most disks are merely told to.
	zeroRequest = 1 << 20
	// slow is how many times as long as the fastest a request may take: more means that the disk has others to
	// serve, or as much of ours as it can take.
	slow = 2
)

// window is how many bytes may be in flight. It grows by one request each time that all of it came back fast, and is
// halved at once when one was slow (additive increase, multiplicative decrease, as TCP does it): so the share that is
// free is found, and given back as soon as a guest wants it.
type window struct {
	size    int64                         // bytes
	fastest [kinds][classes]time.Duration // of the requests of each kind and size; 0: there was none
	cut     time.Time                     // when it was last halved
}

// classes of requests by size, each twice that of the one before.
const classes = 16

func class(size int64) int { return min(bits.Len64(uint64(size/pageSize)), classes-1) }

func newWindow() *window { return &window{size: minRequest} }

// share is what a request counts in the window: scattered small ones keep a disk as busy as larger ones.
func share(size int64) int64 { return max(size, minRequest) }

// request returns how many of want bytes the next request may have.
func (w *window) request(k Kind, want int64) int64 {
	switch {
	case w == nil, k == Discard:
		return want
	case k == Zero:
		return min(want, zeroRequest)
	}
	return min(want, maxRequest, 1<<(bits.Len64(uint64(w.size))-1)) // a power of two: few sizes, to be compared
}

// admits reports whether a request may be sent. One always is: who waits for an idle disk may wait for ever.
func (w *window) admits(size, inFlight int64) bool {
	return w == nil || inFlight == 0 || inFlight+share(size) <= w.size
}

// returned tells that a request has come back.
func (w *window) returned(k Kind, size int64, began, now time.Time) {
	if w == nil {
		return
	}
	took, fastest := now.Sub(began), &w.fastest[k][class(size)]
	if *fastest == 0 || took < *fastest {
		*fastest = took
	}
	switch {
	case took <= slow**fastest:
		w.size = min(w.size+minRequest*share(size)/w.size, maxWindow)
	case began.After(w.cut): // those that were sent before have had the old size
		w.size, w.cut = max(w.size/2, minRequest), now
	}
}
