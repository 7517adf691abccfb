package ordered

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

type item struct{ in, out int }

func newItem() *item { return new(item) }

// noLeak fails the test if goroutines stay behind.
func noLeak(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(testkit.Long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
	})
}

// feed puts n numbers, and returns how many went in.
func feed(q *Queue[item], n int) (int, error) {
	for i := range n {
		it, err := q.Get()
		if err != nil {
			return i, err
		}
		it.in = i
		q.Put(it)
	}
	return n, nil
}

func TestOrder(t *testing.T) {
	noLeak(t)
	for workers := 1; workers <= 8; workers *= 2 {
		for _, depth := range []int{1, workers, workers + 3, 40} {
			var items, atWork, most atomic.Int64
			var got []int
			q := New(workers, depth, func() *item { items.Add(1); return new(item) }, func(it *item) error {
				n := atWork.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if rand.IntN(4) == 0 {
					time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
				}
				it.out = it.in * it.in
				atWork.Add(-1)
				return nil
			}, func(it *item) error {
				got = append(got, it.out)
				return nil
			})
			n, err := feed(q, 200)
			if err := q.Close(err); err != nil || n != 200 {
				t.Fatalf("%d items, %v", n, err)
			}
			if len(got) != 200 {
				t.Fatalf("%d of 200 results", len(got))
			}
			for i, out := range got {
				if out != i*i {
					t.Fatalf("result %d is %d", i, out)
				}
			}
			if items.Load() != int64(depth) || most.Load() > int64(workers) {
				t.Errorf("%d items of %d, %d at work of %d", items.Load(), depth, most.Load(), workers)
			}
		}
	}
}

// TestParallel: work goes on while the first item is late, as far as items last.
func TestParallel(t *testing.T) {
	noLeak(t)
	const depth = 6
	release, others := make(chan bool), make(chan int, depth)
	q := New(2, depth, newItem, func(it *item) error {
		if it.in == 0 {
			<-release
		} else {
			others <- it.in
		}
		return nil
	}, nil)
	if n, err := feed(q, depth); n != depth || err != nil {
		t.Fatalf("%d items, %v", n, err)
	}
	for range depth - 1 {
		<-others
	}
	close(release)
	if err := q.Close(nil); err != nil {
		t.Error(err)
	}
}

var errFirst, errLater = errors.New("first"), errors.New("later")

// TestErrors: an error in any place ends all, without a deadlock, and nothing
// after it is consumed.
func TestErrors(t *testing.T) {
	noLeak(t)
	fail := func(n int) func(*item) error {
		return func(it *item) error {
			if it.in == n {
				return errFirst
			}
			return nil
		}
	}
	never := func(*item) error { return nil }
	for _, at := range []int{0, 1, 7, 99} {
		for name, test := range map[string]struct{ work, consume func(*item) error }{
			"work":       {fail(at), never},
			"consume":    {never, fail(at)},
			"no consume": {fail(at), nil},
		} {
			consumed := -1
			consume := test.consume
			if consume != nil {
				consume = func(it *item) error {
					if it.in != consumed+1 {
						t.Errorf("%s at %d: %d was consumed after %d", name, at, it.in, consumed)
					}
					consumed = it.in
					return test.consume(it)
				}
			}
			q := New(3, 5, newItem, test.work, consume)
			n, err := feed(q, 1000)
			if err != errFirst || n > at+6 {
				t.Errorf("%s at %d: Get after %d items: %v", name, at, n, err)
			}
			if _, err := q.Get(); err != errFirst {
				t.Errorf("%s at %d: Get does not keep its error: %v", name, at, err)
			}
			if err := q.Close(errLater); err != errFirst {
				t.Errorf("%s at %d: Close: %v", name, at, err)
			}
			if consumed > at {
				t.Errorf("%s at %d: %d was consumed", name, at, consumed)
			}
		}
	}
}

// TestFeedError: work that is under way is waited for, none is begun.
func TestFeedError(t *testing.T) {
	noLeak(t)
	var worked, consumed atomic.Int64
	begun := make(chan bool)
	q := New(1, 4, newItem, func(*item) error {
		if worked.Add(1) == 1 {
			close(begun)
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}, func(*item) error { consumed.Add(1); return nil })
	feed(q, 4)
	<-begun
	if err := q.Close(errFirst); err != errFirst {
		t.Errorf("Close: %v", err)
	}
	if worked.Load() != 1 || consumed.Load() != 0 {
		t.Errorf("%d were worked on, %d consumed", worked.Load(), consumed.Load())
	}
}

// TestLastError: an error in the very last item must not be lost.
func TestLastError(t *testing.T) {
	noLeak(t)
	for range 200 {
		q := New(4, 8, newItem, func(it *item) error {
			if it.in == 4 {
				return errFirst
			}
			return nil
		}, nil)
		n, err := feed(q, 5)
		if n != 5 && err != errFirst {
			t.Fatal(n, err)
		}
		if err := q.Close(nil); err != errFirst {
			t.Fatalf("Close: %v", err)
		}
	}
}

// TestUnused: a queue that never got anything, or whose item was not put.
func TestUnused(t *testing.T) {
	noLeak(t)
	for range 3 {
		q := New(2, 3, newItem, func(*item) error { t.Error("worked"); return nil }, nil)
		if _, err := q.Get(); err != nil {
			t.Error(err)
		}
		if err := q.Close(nil); err != nil {
			t.Error(err)
		}
	}
}
