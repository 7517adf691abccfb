package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
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

// killInApply leaves an apply of the delta that was killed while it wrote: by the tests of
// standby, which can end a run at any of its steps. The target then is a mix of the two
// images, or as good as one.
func (h *host) killInApply(target, delta string) {
	h.Helper()
	run, err := json.Marshal(map[string]any{"Run": "An apply", "Delta": delta, "After": "half written",
		"Options": map[string]string{"Target": target, "Toolstack": "auto", "StateDir": h.state}})
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.Command(bin + "/doomed")
	cmd.Dir, cmd.Env = h.dir, append(slices.Clone(h.env), "XB_STANDBY_DOOMED="+string(run))
	out, err := cmd.CombinedOutput()
	if err == nil || !h.applying() {
		h.Fatalf("an apply was to be killed: %v\n%s", err, out)
	}
}
