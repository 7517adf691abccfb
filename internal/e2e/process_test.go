package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// running is a pipeline whose stages can be sent signals.
type running struct {
	*host
	stages []*exec.Cmd
	errs   []string // files that hold each stage's stderr
}

// start starts commands as one pipeline: what each writes, the next one reads. The
// first reads stdin, which may be nil. Nobody reads what the last one writes.
func (h *host) start(stdin *os.File, commands ...string) *running {
	h.Helper()
	r := &running{host: h}
	for i, command := range commands {
		words := strings.Fields(command)
		cmd := exec.Command(filepath.Join(bin, words[0]), words[1:]...)
		if !strings.HasPrefix(words[0], "xb-") {
			cmd = exec.Command(words[0], words[1:]...)
		}
		stderr, err := os.CreateTemp(h.notes, "stderr")
		if err != nil {
			h.Fatal(err)
		}
		cmd.Dir, cmd.Env, cmd.Stderr = h.dir, h.env, stderr
		if stdin != nil {
			cmd.Stdin = stdin
		}
		var out *os.File
		stdin = nil
		if i < len(commands)-1 {
			if stdin, out, err = os.Pipe(); err != nil {
				h.Fatal(err)
			}
			cmd.Stdout = out
		}
		if err := cmd.Start(); err != nil {
			h.Fatal(err)
		}
		for _, f := range []any{stderr, out, cmd.Stdin} { // the child has its own
			if f, ok := f.(*os.File); ok && f != nil {
				f.Close()
			}
		}
		r.stages, r.errs = append(r.stages, cmd), append(r.errs, stderr.Name())
	}
	return r
}

func (r *running) signal(stage int, s syscall.Signal) { r.stages[stage].Process.Signal(s) }

// wait waits for all stages; a stage that a signal ended has status 128 + signal,
// as in sh.
func (r *running) wait() (statuses []int) {
	r.Helper()
	ctx, cancel := untilHang()
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		for _, cmd := range r.stages {
			cmd.Process.Kill()
		}
	})
	for _, cmd := range r.stages {
		cmd.Wait()
		status := cmd.ProcessState.ExitCode()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
			status = 128 + int(ws.Signal())
		}
		statuses = append(statuses, status)
	}
	if !stop() {
		r.Fatalf("hangs: %s", r.stages)
	}
	return statuses
}

// said returns what a stage has written to stderr so far.
func (r *running) said(stage int) string {
	text, err := os.ReadFile(r.errs[stage])
	if err != nil {
		r.Fatal(err)
	}
	return string(text)
}

// open opens a file of the host for a stage to read.
func (h *host) open(name string) *os.File {
	h.Helper()
	f, err := os.Open(h.path(name))
	if err != nil {
		h.Fatal(err)
	}
	return f
}

// pipeIn returns a pipe for a stage to read from.
func pipeIn(t testing.TB) (in, out *os.File) {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return in, out
}

// exists reports whether anything has a name that matches.
func exists(pattern string) bool {
	names, _ := filepath.Glob(pattern)
	return len(names) > 0
}

// applying reports whether the state of one of the host's targets says so.
func (h *host) applying() bool {
	names, _ := filepath.Glob(h.state + "/*.json")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if strings.Contains(string(text), `"applying"`) {
			return true
		}
	}
	return false
}

// killInApply kills an xb-patch of the delta in the middle of its apply.
func (h *host) killInApply(target, delta string) {
	h.Helper()
	h.interruptApply(target, delta, syscall.SIGKILL)
}

// interruptApply sends a signal to an xb-patch of the delta in its apply, trying
// until that is what the state says afterwards. The target then is a mix of the
// two images, or as good as one.
func (h *host) interruptApply(target, delta string, s syscall.Signal) (said string) {
	h.Helper()
	h.must(fmt.Sprintf("cp %s ../notes/old && rm -rf ../notes/state && { test ! -e %s || cp -a %[2]s ../notes/state; }",
		target, h.state))
	for range 50 {
		r := h.start(h.open(delta), "xb-patch "+target)
		done := make(chan []int)
		go func() { done <- r.wait() }()
		var statuses []int
		for statuses == nil && !h.applying() {
			select {
			case statuses = <-done:
			case <-time.After(time.Millisecond):
			}
		}
		r.signal(0, s)
		if statuses == nil {
			statuses = <-done
		}
		if h.applying() {
			return r.said(0)
		}
		if statuses[0] != 0 && statuses[0] != 128+int(s) {
			h.Fatalf("status %d: %s", statuses[0], r.said(0))
		}
		h.must(fmt.Sprintf("cp ../notes/old %s && rm -rf %s && { test ! -e ../notes/state || cp -a ../notes/state %[2]s; }",
			target, h.state))
	}
	h.Fatal("no signal came in the middle of the apply")
	return ""
}
