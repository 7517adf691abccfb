// Package durable makes files that are whole or absent, whatever ends the process or the
// machine, and keeps what must be undone if a signal ends the process.
package durable

import (
	"errors"
	"sync"
)

// What must be undone if a signal ends the process, newest last.
var undo struct {
	sync.Mutex
	stack []*func()
	ended bool // by a signal: what is on the stack is being undone
}

// OnSignal has f run if SIGINT, SIGTERM, SIGHUP or SIGQUIT ends the process; the returned
// function takes that back. f runs while other goroutines still do: it may only
// remove things that nobody else needs. After such a signal OnSignal does not
// return.
func OnSignal(f func()) (cancel func()) {
	lockUnlessEnded()
	defer undo.Unlock()
	return push(f)
}

// push needs the lock.
func push(f func()) (cancel func()) {
	entry := &f
	undo.stack = append(undo.stack, entry)
	return func() {
		undo.Lock()
		defer undo.Unlock()
		for i, e := range undo.stack {
			if e == entry {
				undo.stack = append(undo.stack[:i], undo.stack[i+1:]...)
				return
			}
		}
	}
}

// Create runs create and has remove run if a signal ends the process; a signal
// that comes during create waits until there is something to remove, and after
// one Create fails: it never waits, since what is undone may wait for a lock of
// its caller. The returned function takes that back.
func Create(create func() (remove func(), err error)) (cancel func(), err error) {
	undo.Lock()
	defer undo.Unlock()
	if undo.ended {
		return nil, errors.New("interrupted")
	}
	remove, err := create()
	if err != nil {
		return nil, err
	}
	return push(remove), nil
}

// lockUnlessEnded locks undo. After a signal it does not return: the process is
// about to end as that signal ends one, and its caller shall do nothing else.
func lockUnlessEnded() {
	undo.Lock()
	if undo.ended {
		undo.Unlock()
		select {}
	}
}

// UndoAll undoes what is to be undone if a signal ends the process, newest first. After it
// only the caller goes on: see OnSignal, Create and Wait.
func UndoAll() {
	lockUnlessEnded()
	stack := undo.stack
	undo.stack, undo.ended = nil, true
	undo.Unlock()
	for i := len(stack) - 1; i >= 0; i-- {
		(*stack[i])()
	}
}

// Wait does not return if a signal ends the process.
func Wait() {
	lockUnlessEnded()
	undo.Unlock()
}
