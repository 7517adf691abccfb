package cli

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"xen-backup/internal/exit"
)

// Heartbeat looks every ten seconds whether a run moves, and says so: "progress" or
// "waiting". Whoever waits for the run can tell so that it stands still, and a
// connection over which nothing else goes for hours is found to be dead.
//
// A line that can't be written must not hurt what is being written to a disk. Until
// Commit it ends the run: nobody is left who waits for it. After that it is the last
// line, and the run goes on; so does one whose line blocks.
type Heartbeat struct {
	Out   io.Writer   // nil: nothing is said
	Moved func() bool // whether the run moved since the last call

	env  *Env
	stop chan struct{}

	mu        sync.Mutex
	committed bool
}

// beatEvery is the time between two lines.
const beatEvery = 10 * time.Second

// Start begins to look; the caller must Stop it.
func (h *Heartbeat) Start(env *Env) {
	ticker := time.NewTicker(beatEvery)
	h.start(env, ticker.C, ticker.Stop)
}

func (h *Heartbeat) start(env *Env, tick <-chan time.Time, done func()) {
	h.env, h.stop = env, make(chan struct{})
	go func() {
		defer done()
		for {
			select {
			case <-tick:
				if !h.beat() {
					return
				}
			case <-h.stop:
				return
			}
		}
	}()
}

// Stop ends it, if it was started. A line that is being written is not waited for: perhaps
// nobody reads it.
func (h *Heartbeat) Stop() {
	if h.stop != nil {
		h.Commit() // what is done by now counts
		close(h.stop)
	}
}

// Commit has the run go on from now on whatever becomes of the lines. It does not
// return if the run is about to be ended.
func (h *Heartbeat) Commit() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.committed = true
}

func (h *Heartbeat) beat() (goOn bool) {
	word := "waiting\n"
	if h.Moved() {
		word = "progress\n"
	}
	if h.Out == nil {
		return true
	}
	_, err := io.WriteString(h.Out, word)
	if err == nil {
		h.Moved() // the line itself is no movement: Out may be a file
		return true
	}
	h.mu.Lock() // and keep it: what has not committed by now never will
	if h.committed {
		h.mu.Unlock()
		return false
	}
	h.env.end(exit.Fail(exit.IOError, "nobody waits for this run any more: the heartbeat cannot be written: %w",
		exit.Cause(err)))
	return false
}

// ownLine keeps lines whole on a file that others have written to: what a login shell has
// left there without a newline ends before the first one.
type ownLine struct {
	w     io.Writer
	begun bool
}

func (o *ownLine) Write(b []byte) (int, error) {
	if o.begun {
		return o.w.Write(b)
	}
	n, err := o.w.Write(append([]byte{'\n'}, b...))
	o.begun = err == nil
	return max(0, n-1), err
}

// Movement reports whether a run moves: by its progress, and by what the process has
// read from and written to storage, which counts what no progress shows.
type Movement struct {
	progress *Progress
	last     movement
}

type movement struct {
	figures figures
	storage string
}

// Movement begins to watch the figures of p.
func (p *Progress) Movement() *Movement {
	m := &Movement{progress: p}
	m.Moved()
	return m
}

// Moved reports whether there was any since the last call.
func (m *Movement) Moved() bool {
	now := movement{m.progress.figures(), ownStorage()}
	defer func() { m.last = now }()
	return now != m.last
}

// ownStorage returns what the kernel counts of this process's reads and writes below
// the page cache: the other counts in this file are moved by reading it.
func ownStorage() string {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return "" // a kernel without task I/O accounting
	}
	_, storage, _ := strings.Cut(string(text), "\nread_bytes:")
	return storage
}

// StartHeartbeat begins the heartbeat of a command whose standard output is data, if it
// is wanted: on stderr, without any say in how the run goes on.
func (p *Progress) StartHeartbeat(wanted bool) (stop func()) {
	if !wanted {
		return func() {}
	}
	h := &Heartbeat{Out: &ownLine{w: p.env.Stderr}, Moved: p.Movement().Moved, committed: true}
	h.Start(p.env)
	return h.Stop
}
