package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// beats runs a heartbeat that beats when it is told to, and returns how to tell it.
func beats(t *testing.T, h *Heartbeat, env *Env) func() {
	t.Helper()
	tick := make(chan time.Time)
	h.start(env, tick, func() {})
	t.Cleanup(h.Stop)
	return func() { tick <- time.Time{} }
}

// lines passes on what is written, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func TestHeartbeatWords(t *testing.T) {
	out := make(lines, 1)
	var moved atomic.Bool
	beat := beats(t, &Heartbeat{Out: out, Moved: func() bool { return moved.Swap(false) }}, &Env{})
	for _, step := range []struct {
		moves bool
		want  string
	}{{false, "waiting\n"}, {true, "progress\n"}, {false, "waiting\n"}} {
		moved.Store(step.moves)
		beat()
		if got := <-out; got != step.want {
			t.Errorf("it says %q, want %q", got, step.want)
		}
	}
}

// A line in a file is a write like any other, and must not pass for a movement of the run.
func TestHeartbeatIsNoMovement(t *testing.T) {
	var text []byte
	for range 5 { // a page of the program may have to be read meanwhile, but not always
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p := (&Env{Stderr: new(bytes.Buffer)}).StartProgress("never")
		defer p.Stop()
		// With committed, as the last line may come too late.
		beat := beats(t, &Heartbeat{Out: synced{f}, Moved: p.Movement().Moved, committed: true}, &Env{})
		beat()
		beat()
		beat() // the second line is written
		if text, err = os.ReadFile(f.Name()); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(text), "waiting\nwaiting\n") {
			return
		}
	}
	t.Errorf("it says %q, want only waiting", text)
}

// synced has each write be one to the disk.
type synced struct{ *os.File }

func (s synced) Write(b []byte) (int, error) {
	n, err := s.File.Write(b)
	return n, errors.Join(err, s.Sync())
}

// A line must not be glued to what a login shell has said before it.
func TestHeartbeatOwnLine(t *testing.T) {
	said := bytes.NewBufferString("Welcome to dom0b")
	o := &ownLine{w: said}
	for range 2 {
		if n, err := o.Write([]byte("waiting\n")); n != 8 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if want := "Welcome to dom0b\nwaiting\nwaiting\n"; said.String() != want {
		t.Errorf("%q, want %q", said, want)
	}
}

// TestMovement demands that a run which does nothing does not seem to: also not because
// somebody asks.
func TestMovement(t *testing.T) {
	env := &Env{Stderr: new(bytes.Buffer)}
	p := env.StartProgress("never")
	defer p.Stop()
	m := p.Movement()
	for _, move := range []func(){func() { p.Done.Add(1) }, func() { p.Sent.Add(1) }, func() { p.Changed.Add(1) },
		func() { p.Step("", 0) }, func() { p.Step("", 0) }} {
		looks := 0
		for ; looks < 100 && m.Moved(); looks++ { // a page of the program may have to be read
		}
		if looks == 100 {
			t.Error("it moves and does nothing")
		}
		move()
		if !m.Moved() {
			t.Error("it does not move and does something")
		}
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := ownStorage()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if ownStorage() == before {
		t.Skip("the file system below TMPDIR writes to no storage, or the kernel does not count")
	}
	if !m.Moved() {
		t.Error("it writes and does not move")
	}
}

// A line that can't be written ends the run only if it has not committed, and what is to
// be undone is undone. A line that blocks does nothing at all.
func TestHeartbeatBroken(t *testing.T) {
	if how := os.Getenv("XB_TEST_HEARTBEAT"); how != "" {
		brokenHeartbeat(how)
	}
	for _, c := range []struct {
		how    string
		status int
		said   string
	}{
		{"early", exit.IOError, "undone\nxb-test: nobody waits for this run any more: the heartbeat cannot be written: broken pipe\n"},
		{"committed", exit.OK, "the run goes on\n"},
		{"blocked", exit.OK, "the run goes on\n"},
	} {
		t.Run(c.how, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestHeartbeatBroken$")
			cmd.Env = append(os.Environ(), "XB_TEST_HEARTBEAT="+c.how)
			stderr := new(bytes.Buffer)
			cmd.Stderr = stderr
			err := cmd.Run()
			if status := cmd.ProcessState.ExitCode(); status != c.status || stderr.String() != c.said {
				t.Errorf("%v, it says %q; want status %d and %q", err, stderr, c.status, c.said)
			}
		})
	}
}

func brokenHeartbeat(how string) {
	in, out, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	if how == "blocked" {
		fill(out)
	} else {
		in.Close()
	}
	Main("xb-test", "", func(env *Env, _ []string) error {
		durable.OnSignal(func() { os.Stderr.WriteString("undone\n") })
		tick := make(chan time.Time)
		h := &Heartbeat{Out: out, Moved: func() bool { return true }}
		if how == "committed" {
			h.Commit()
		}
		h.start(env, tick, func() {})
		tick <- time.Time{}
		if how == "early" {
			select {} // a run that hears of nothing
		}
		h.Stop()
		os.Stderr.WriteString("the run goes on\n")
		return nil
	})
}

// fill fills a pipe up, and has the next write block.
func fill(pipe *os.File) {
	fd := int(pipe.Fd()) // blocking from now on
	if err := syscall.SetNonblock(fd, true); err != nil {
		panic(err)
	}
	for {
		if _, err := syscall.Write(fd, []byte(strings.Repeat("x", 4096))); errors.Is(err, syscall.EAGAIN) {
			break
		}
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		panic(err)
	}
}
