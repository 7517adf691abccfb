package snapshot

import (
	"errors"
	"slices"
	"sync"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// member is a part of a batch, a snapshot that is to be taken. Its methods are called in
// this order, each for all members before the next one; undo may come after any of them.
type member interface {
	prepare() error // all that need not happen at the moment that counts
	take() error
	finish() error // now it is durable and can be opened
	undo() error
	path() string
}

// allOrNothing takes all members, while nothing writes to them, and then calls done. If a
// step or done fails, or a signal ends the process before done is through, all that was begun
// is undone. span is the time between the beginning of the first one's take and the end of the
// last one's.
func allOrNothing(members []member, still Stillness, words Words, done func(span time.Duration) error) error {
	b := new(batch)
	defer durable.OnSignal(func() {
		if err := b.undo(); err != nil {
			words.Warn("%v", err)
		}
	})()
	span, err := b.takeAll(members, still)
	if err == nil {
		err = done(span)
	}
	if err != nil {
		return errors.Join(err, b.undo())
	}
	return nil
}

// batch knows what must be undone.
type batch struct {
	sync.Mutex
	begun  []member
	undone bool
}

func (b *batch) takeAll(members []member, still Stillness) (span time.Duration, err error) {
	if err := b.each(members, member.prepare); err != nil {
		return 0, err
	}
	if err := still.Begin(); err != nil {
		return 0, err
	}
	start := time.Now()
	err = b.each(members, member.take)
	span = time.Since(start)
	if err := errors.Join(err, still.End()); err != nil {
		return 0, err
	}
	return span, b.each(members, member.finish)
}

func (b *batch) each(members []member, do func(member) error) error {
	for _, m := range members {
		if err := b.step(m, do); err != nil {
			return err
		}
	}
	return nil
}

// step holds the lock, so that a signal waits for a snapshot that is just being
// taken: else it would appear after everything was undone.
func (b *batch) step(m member, do func(member) error) error {
	b.Lock()
	defer b.Unlock()
	if b.undone {
		return exit.Fail(exit.Internal, "interrupted")
	}
	if !slices.Contains(b.begun, m) {
		b.begun = append(b.begun, m)
	}
	return do(m)
}

// undo removes every snapshot that was begun, newest first. It also closes the
// batch.
func (b *batch) undo() error {
	b.Lock()
	defer b.Unlock()
	b.undone = true
	var errs []error
	for _, m := range slices.Backward(b.begun) {
		errs = append(errs, m.undo())
	}
	b.begun = nil
	return errors.Join(errs...)
}
