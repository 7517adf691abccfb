// Package ordered does work in parallel and hands on the results in the order
// in which the work came.
package ordered

import "sync"

// Queue is a pipeline of one stage: items are filled by one goroutine (Get, Put),
// worked on by several, and consumed by one in the order of Put. Items are
// recycled, so a queue's memory is that of its depth. The first error ends
// everything: work not yet begun is skipped.
type Queue[T any] struct {
	work    func(*T) error
	consume func(*T) error

	free   chan *T       // items that nobody uses
	todo   chan *job[T]  // for the workers
	order  chan *job[T]  // for the consumer, in order
	failed chan struct{} // closed with the first error

	once    sync.Once
	err     error
	workers sync.WaitGroup
	done    chan struct{} // closed when the consumer has ended
}

type job[T any] struct {
	item *T
	done chan struct{}
}

// New starts a queue with that many workers and items; depth should be larger
// than workers, so that a slow consumer or a slow first item lets others go on.
// alloc makes an item; consume may be nil.
func New[T any](workers, depth int, alloc func() *T, work, consume func(*T) error) *Queue[T] {
	q := &Queue[T]{
		work: work, consume: consume,
		free:   make(chan *T, depth),
		todo:   make(chan *job[T], depth),
		order:  make(chan *job[T], depth),
		failed: make(chan struct{}),
		done:   make(chan struct{}),
	}
	for range depth {
		q.free <- alloc()
	}
	q.workers.Add(workers)
	for range workers {
		go q.worker()
	}
	go q.consumer()
	return q
}

// Get returns an item to fill, waiting until one is free. After an error it
// returns that error.
func (q *Queue[T]) Get() (*T, error) {
	select {
	case <-q.failed:
		return nil, q.err
	default:
	}
	select {
	case item := <-q.free:
		return item, nil
	case <-q.failed:
		return nil, q.err
	}
}

// Put hands an item from Get over to the workers. It never waits.
func (q *Queue[T]) Put(item *T) {
	j := &job[T]{item, make(chan struct{})}
	q.todo <- j
	q.order <- j
}

// Close waits until all that was Put is worked on and consumed, and returns the
// first error: of work, of consume, or the one given to it.
func (q *Queue[T]) Close(err error) error {
	if err != nil {
		q.fail(err)
	}
	close(q.todo)
	close(q.order)
	q.workers.Wait()
	<-q.done
	return q.err
}

func (q *Queue[T]) fail(err error) {
	q.once.Do(func() {
		q.err = err
		close(q.failed)
	})
}

func (q *Queue[T]) hasFailed() bool {
	select {
	case <-q.failed:
		return true
	default:
		return false
	}
}

func (q *Queue[T]) worker() {
	defer q.workers.Done()
	for j := range q.todo {
		if !q.hasFailed() {
			if err := q.work(j.item); err != nil {
				q.fail(err)
			}
		}
		close(j.done)
	}
}

func (q *Queue[T]) consumer() {
	defer close(q.done)
	for j := range q.order {
		<-j.done
		if q.consume != nil && !q.hasFailed() {
			if err := q.consume(j.item); err != nil {
				q.fail(err)
			}
		}
		q.free <- j.item
	}
}
