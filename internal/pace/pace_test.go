package pace

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/testkit"
)

// serve lets a window send what it wants, all of which takes as long as the disk says, and returns its size at last.
func serve(w *window, requests int, took func(inFlight int64) time.Duration) int64 {
	for range requests {
		size := w.request(Read, 1<<20)
		now := time.Now()
		w.returned(Read, size, now.Add(-took(w.size)), now)
	}
	return w.size
}

func TestWindowWidensWhileTheDiskIsQuiet(t *testing.T) {
	w := newWindow()
	if n := w.request(Read, 1<<20); n != minRequest {
		t.Errorf("the first request has %d bytes", n)
	}
	if size := serve(w, 10000, func(int64) time.Duration { return time.Millisecond }); size != maxWindow {
		t.Errorf("nobody else is there, and the window has %d bytes", size)
	}
	if n := w.request(Read, 1<<20); n != maxRequest {
		t.Errorf("requests have %d bytes", n)
	}
}

// TestWindowStopsAtWhatTheDiskCanDo: what is in flight beyond that only waits, and a guest's requests behind it.
func TestWindowStopsAtWhatTheDiskCanDo(t *testing.T) {
	const enough = 512 << 10
	most := int64(0)
	serve(newWindow(), 10000, func(inFlight int64) time.Duration {
		most = max(most, inFlight)
		return time.Duration(max(inFlight, enough)) // a nanosecond a byte
	})
	if most < enough || most > 2*slow*enough {
		t.Errorf("%d bytes were in flight where %d keep the disk busy", most, enough)
	}
}

func TestWindowGivesWayAtOnce(t *testing.T) {
	w, quiet, busy := newWindow(), time.Millisecond, 10*time.Millisecond
	serve(w, 10000, func(int64) time.Duration { return quiet })
	began := time.Now()
	for range 10 {
		before := w.size
		// All of them were in flight when the guest came: they tell of it only once.
		for range max(before/maxRequest, 1) {
			w.returned(Read, maxRequest, began, began.Add(busy))
		}
		if want := max(before/2, minRequest); w.size != want {
			t.Fatalf("one look at a busy disk made %d bytes of %d", w.size, before)
		}
		began = began.Add(busy + 1)
	}
	if w.size != minRequest || !w.admits(maxRequest, 0) || w.admits(minRequest, minRequest) {
		t.Errorf("a window of %d bytes", w.size)
	}
	if size := serve(w, 10000, func(int64) time.Duration { return quiet }); size != maxWindow {
		t.Errorf("the guest is gone, and the window has %d bytes", size)
	}
}

// TestWindowComparesLikeWithLike: a larger request takes longer, and one that writes.
func TestWindowComparesLikeWithLike(t *testing.T) {
	w, now := newWindow(), time.Now()
	for i := range 10000 {
		k, size := Kind(i%int(kinds)), int64(4096)<<(i%7)
		took := time.Duration(size) * time.Duration(1+10*int(k))
		w.returned(k, size, now.Add(-took), now)
	}
	if w.size != maxWindow {
		t.Errorf("requests of several kinds made a window of %d bytes", w.size)
	}
}

func TestRequests(t *testing.T) {
	for _, test := range []struct {
		pace *Pace
		kind Kind
		n    int
		want []int64
	}{
		{nil, Read, 1 << 20, []int64{1 << 20}},
		{New(true, 0), Read, 3*minRequest + 5, []int64{minRequest, minRequest, minRequest, 5}},
		{New(true, 0), Write, 2 * minRequest, []int64{minRequest, minRequest}},
		{New(true, 0), Zero, 2<<20 + 512, []int64{1 << 20, 1 << 20, 512}},
		{New(true, 0), Discard, 64 << 20, []int64{64 << 20}},
		{New(true, 0), Read, 0, nil},
		{New(false, 100<<20), Read, 20 << 20, []int64{10 << 20, 10 << 20}},
		{New(false, 1000003), Read, 200000, []int64{98304, 98304, 3392}},
		{New(false, 1<<20), Write, 4 << 20, []int64{4 << 20}},
		{New(false, 1<<20), Zero, 1 << 30, []int64{1 << 30}},
	} {
		var got []int64
		at := int64(0)
		n, err := test.pace.Do(test.kind, test.n, func(from, to int64) (int, bool, error) {
			if from != at {
				t.Errorf("a request from byte %d, not %d", from, at)
			}
			got, at = append(got, to-from), to
			return int(to - from), false, nil
		})
		if n != test.n || err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%d bytes of kind %d were done in requests of %d, want %d; %d, %v", test.n, test.kind, got, test.want, n,
				err)
		}
	}
}

func TestRequestsEndWithOneThatFails(t *testing.T) {
	for _, want := range []error{errors.New("failed"), nil} { // nil: a short one
		p := New(true, 0)
		n, err := p.Do(Read, 1<<20, func(from, _ int64) (int, bool, error) {
			if from > 0 {
				return 7, true, want
			}
			return minRequest, true, nil
		})
		if n != minRequest+7 || err != want {
			t.Errorf("%d bytes, %v", n, err)
		}
		if p.inFlight != 0 || len(p.line) != 0 {
			t.Errorf("%d bytes are in flight still, %d wait", p.inFlight, len(p.line))
		}
	}
}

// TestOneAfterAnother: while the disk is busy one request is in flight, and who came first is served first.
func TestOneAfterAnother(t *testing.T) {
	p := New(true, 0)
	const readers = 8
	until := func(done func() bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for !done() {
			p.mu.Unlock()
			runtime.Gosched()
			p.mu.Lock()
		}
	}
	var order []int
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			p.Do(Read, 4*minRequest, func(from, _ int64) (int, bool, error) {
				order = append(order, i)
				if i == 0 && from == 0 {
					until(func() bool { return len(p.line) == readers-1 })
				}
				return minRequest, false, nil
			})
		})
		until(func() bool { return p.tickets == int64(i+1) })
	}
	all.Wait()
	if !slices.IsSorted(order) || len(order) != 4*readers {
		t.Errorf("served in the order %v", order)
	}
}

// TestNobodySlipsIn where the processor takes long from the end of a request to the beginning of the next one.
func TestNobodySlipsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(true, 0)
		first, second := p.draw(), p.draw()
		size, began := p.begin(Read, first, 2*minRequest)
		served := make(chan time.Time, 1)
		go func() {
			_, began := p.begin(Read, second, minRequest)
			served <- began
		}()
		synctest.Wait()
		p.end(Read, size, began, false, first, false)
		synctest.Wait()
		if len(served) > 0 {
			t.Error("the second was served while the first had more to ask for")
		}
		_, began = p.begin(Read, first, minRequest)
		p.end(Read, minRequest, began, false, first, true)
		<-served
	})
}

func TestBucket(t *testing.T) {
	b, now := Bucket{Rate: 1 << 20}, time.Now()
	start, bytes := now, int64(0)
	for range 100 {
		now = now.Add(b.Take(64<<10, now)) // who takes does nothing but wait
		bytes += 64 << 10
	}
	if took := now.Sub(start); took != time.Duration(bytes*int64(time.Second)>>20)-bucketDepth {
		t.Errorf("%d bytes took %v at 1 MiB/s", bytes, took)
	}
	now = now.Add(time.Hour) // what was not used does not add up
	first := b.Take(1<<20, now)
	second := b.Take(1<<20, now)
	if first != time.Second-bucketDepth || second != 2*time.Second-bucketDepth {
		t.Errorf("after an hour 2 MiB took %v and %v", first, second)
	}
	if wait := new(Bucket).Take(1<<40, now); wait != 0 {
		t.Errorf("without a limit it waits for %v", wait)
	}
}

// TestLowerPriority lowers those of the threads that are there and of those to come.
func TestLowerPriority(t *testing.T) {
	if os.Getenv("XB_TEST_LOWER") == "" {
		testInChild(t)
		return
	}
	if err := LowerPriority(); err != nil {
		t.Fatal(err)
	}
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	defer unix.Close(ends[1])
	for range 20 { // each wants a thread of its own
		readers.Go(func() { unix.Read(ends[0], make([]byte, 1)) })
	}
	var ids []int
	testkit.Eventually(t, "threads", func() (done bool) {
		var err error
		ids, err = threads()
		return err == nil && len(ids) >= 20
	})
	for _, id := range ids {
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, id) // 20 - nice
		io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(id), 0)
		if nice != 20-lowestNice || err != nil || io != lowestIO || errno != 0 {
			t.Errorf("thread %d: nice %d, %v; I/O priority %#x, %v", id, 20-nice, err, io, errno)
		}
	}
}
