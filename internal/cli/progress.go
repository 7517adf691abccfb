package cli

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"xen-backup/internal/text"
)

// Progress counts what a run has done and shows it: every second if stderr is a
// terminal or always is asked for, and once for each SIGUSR1. All counters are
// in bytes and may be advanced by any goroutine.
type Progress struct {
	Total   atomic.Int64 // of Done; 0 if not known
	Done    atomic.Int64
	Changed atomic.Int64
	Sent    atomic.Int64

	step     atomic.Pointer[step]
	env      *Env
	terminal bool
	stop     chan struct{}
	shown    sync.WaitGroup
}

// step is a part of a run that has figures of its own.
type step struct {
	name  string // "" for the first
	start time.Time
}

// ProgressFlag registers --progress[=always|auto|never].
func (f *Flags) ProgressFlag(p *string) {
	*p = "auto"
	set := OneOf(p, "always", "auto", "never")
	f.OptionalFunc("progress", func(s string) error {
		if s == "" {
			s = "always"
		}
		return set(s)
	})
}

// StartProgress begins to show progress as mode (see ProgressFlag) asks; the
// caller must Stop it.
func (e *Env) StartProgress(mode string) *Progress {
	p := &Progress{env: e, stop: make(chan struct{})}
	p.Step("", 0)
	p.terminal = IsTerminal(e.Stderr)
	periodic := mode == "always" || mode == "auto" && p.terminal && !e.Quiet
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	p.shown.Add(1)
	go func() {
		defer p.shown.Done()
		defer signal.Stop(asked)
		p.loop(periodic, asked)
	}()
	return p
}

// Step begins the next part of a run, of which total bytes are to be done.
func (p *Progress) Step(name string, total int64) {
	p.Done.Store(0)
	p.Total.Store(total)
	p.step.Store(&step{name, time.Now()})
}

// Reach tells that so much of the step is done.
func (p *Progress) Reach(n int64) { p.Done.Store(n) }

// Advance tells that so much more of the step is done.
func (p *Progress) Advance(n int64) { p.Done.Add(n) }

// Change tells that so much more is changed.
func (p *Progress) Change(n int64) { p.Changed.Add(n) }

// figures are all that a run's progress shows, to be compared.
type figures struct {
	step                       *step
	total, done, changed, sent int64
}

func (p *Progress) figures() figures {
	return figures{p.step.Load(), p.Total.Load(), p.Done.Load(), p.Changed.Load(), p.Sent.Load()}
}

func (p *Progress) loop(periodic bool, asked <-chan os.Signal) {
	var tick <-chan time.Time
	if periodic {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-tick:
			p.show(p.terminal)
		case <-asked:
			p.show(false)
		case <-p.stop:
			if periodic {
				p.show(false)
			}
			return
		}
	}
}

// Stop shows the final figures if there was a periodic display, and ends it.
func (p *Progress) Stop() {
	close(p.stop)
	p.shown.Wait()
}

// show prints one line; inPlace leaves the cursor on it.
func (p *Progress) show(inPlace bool) {
	line := p.now()
	switch {
	case inPlace:
		fmt.Fprintf(p.env.Stderr, "\r\033[K%s: %s", p.env.Name, line)
	case p.terminal:
		fmt.Fprintf(p.env.Stderr, "\r\033[K%s: %s\n", p.env.Name, line)
	default:
		fmt.Fprintf(p.env.Stderr, "%s: %s\n", p.env.Name, line)
	}
}

// now returns what is to be shown now.
func (p *Progress) now() string {
	step := p.step.Load()
	line := p.line(time.Since(step.start))
	if step.name != "" {
		line = step.name + ": " + line
	}
	return line
}

func (p *Progress) line(elapsed time.Duration) string {
	done, total := p.Done.Load(), p.Total.Load()
	rate := float64(done) / max(elapsed.Seconds(), 0.001)
	line := fmt.Sprintf("%s, %s/s", text.FormatSize(done), text.FormatSize(int64(rate)))
	if total > 0 {
		line = fmt.Sprintf("%s of %s (%d %%), %s/s", text.FormatSize(done), text.FormatSize(total),
			min(100, int64(float64(done)/float64(total)*100)), text.FormatSize(int64(rate)))
		const year = 365 * 24 * 3600 // longer says nothing, and may not fit a Duration
		if left := float64(total-done) / rate; done < total && left < year {
			eta := time.Duration(left * float64(time.Second))
			line += ", " + eta.Round(time.Second).String() + " left"
		}
	}
	if changed := p.Changed.Load(); changed > 0 {
		line += ", " + text.FormatSize(changed) + " changed"
	}
	if sent := p.Sent.Load(); sent > 0 {
		line += ", " + text.FormatSize(sent) + " sent"
	}
	return line
}
