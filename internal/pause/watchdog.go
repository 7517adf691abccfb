package pause

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// Watchdog keeps a domain still, and lets it go when its leash ends: whoever started it closes
// that, or is gone. It lets it go after a time anyway. It is a process and a session
// of its own, so that nothing that ends a run ends it; a signal only makes it let go at once.
//
// It asks for the stillness itself and stays until that has ended or cannot come any more,
// however long the toolstack takes.
//
// args are those of Stillness.unchain. It reports, a line each:
//
//	still          the domain is
//	refused WORDS  it is not, for this reason
//	late           the time was over before it was told to let go
//	early          the domain had gone on already when it was told to
//	stuck WORDS    it cannot be let go, which is tried again
//	free           it goes on, or is gone
func Watchdog(args []string, leash io.Reader, reports io.Writer) error {
	if len(args) != 4 {
		return exit.Fail(exit.Usage, "watchdog is for xb-snap itself")
	}
	os.WriteFile("/proc/self/comm", []byte("xb-snap"), 0) // was started by another name
	w := &watchdog{
		tool: tool{name: args[1], uri: args[2], domain: args[3]}, way: way(args[0]),
		report: reports, told: whenTold(leash),
	}
	w.keepStill()
	return nil
}

// whenTold returns a channel that is closed when the domain is to be let go.
func whenTold(leash io.Reader) <-chan struct{} {
	told, signals := make(chan struct{}), make(chan os.Signal, 1)
	tell := sync.OnceFunc(func() { close(told) })
	deadly := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	signal.Reset(deadly...)
	signal.Notify(signals, deadly...) // not ignored: a program that we start would ignore them, too
	go func() { <-signals; tell() }()
	go func() { io.Copy(io.Discard, leash); tell() }()
	return told
}

type watchdog struct {
	tool
	way    way
	report io.Writer
	told   <-chan struct{}

	client  *program.Started // that asks for the stillness
	late    bool             // its time was over
	undone  bool             // the stillness has been ended, or that was tried
	settled bool             // what was refused cannot come any more
}

func (w *watchdog) say(word string, err error) {
	line := word
	if err != nil {
		line += " " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	fmt.Fprintln(w.report, line) // whoever reads it may be gone
}

func (w *watchdog) keepStill() {
	var err error
	if w.client, err = w.request(w.way); err != nil {
		w.say("refused", err)
		return
	}
	// The first file system is frozen before the last one is: the time of a freeze counts from
	// the request.
	var limit <-chan time.Time
	if w.way == freeze {
		limit = time.After(holdLimit)
	}
	select {
	case <-w.client.Ended:
		w.hold(limit)
	case <-limit:
		w.say("refused", fmt.Errorf("it takes more than %v", holdLimit))
	case <-w.told:
	}
	w.letGo()
}

// hold keeps the domain still, if it is, until its time is over.
func (w *watchdog) hold(limit <-chan time.Time) {
	if _, err := w.client.HasEnded(); err != nil {
		w.say("refused", err)
		return
	}
	w.say("still", nil)
	if limit == nil {
		limit = time.After(holdLimit)
	}
	select {
	case <-w.told:
	case <-limit:
		w.say("late", nil)
		w.late = true
	}
}

// letGo tries until the domain goes on, and as long as it may still come to a stop.
func (w *watchdog) letGo() {
	end := time.Now().Add(watchTime)
	for {
		// This is asked first: what is granted later may come after the domain was let go.
		ended, refused := w.client.HasEnded()
		free, err := w.try(ended && refused == nil)
		switch {
		case err != nil:
			w.say("stuck", err)
		case free && ended && (refused == nil || w.settled):
			w.say("free", nil)
			return
		case free && ended:
			// libvirt may hold what it has refused, or nobody waits for any more, so long before it
			// does it. A thaw every second until then would end what others freeze.
			w.settled = true
			time.Sleep(patience)
		}
		if time.Now().After(end) && (ended || w.way == stop && w.undone) {
			w.client.GiveUp()
			return
		}
		time.Sleep(retry)
	}
}

const retry = time.Second

// try lets the domain go. free reports whether it goes on, unless what was asked for is yet to
// be granted.
func (w *watchdog) try(granted bool) (free bool, err error) {
	if w.way == freeze {
		return w.tryThaw(granted)
	}
	stand, err := w.stand()
	switch {
	case err != nil:
		return false, err
	case stand == domain.Paused:
		w.undone = true
		err := w.resume()
		return err == nil, err
	case stand == domain.Runs && granted && !w.late && !w.undone:
		w.say("early", nil)
	}
	return granted || stand == domain.Absent, nil
}

// tryThaw relies on the order in which an agent answers: a thaw that it has answered after the
// freeze was asked for comes after it.
func (w *watchdog) tryThaw(granted bool) (free bool, err error) {
	frozen, err := w.thaw()
	if err == nil {
		if granted && frozen == 0 && !w.late {
			w.say("early", nil)
		}
		return true, nil
	}
	if stand, standErr := w.stand(); standErr == nil && stand == domain.Absent {
		return true, nil
	}
	return false, err
}
