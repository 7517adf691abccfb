// Package e2e runs the commands as their users do: in pipelines of sh, on files
// and loop devices, over a real sshd. It needs the tools of a Debian system; what
// needs root is skipped without it.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/exit"
)

// bin is where the commands are.
var bin string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "xb-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	for _, args := range [][]string{
		{"build", "-o", bin, "../../cmd/...", "./testdata/rusage"},
		{"test", "-c", "-o", bin + "/doomed", "../standby"}, // see killInApply
	} {
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// host is one machine for one test: a directory to work in and a state directory.
type host struct {
	*testing.T
	dir   string // the scripts' working directory
	state string
	notes string // what the harness itself writes
	env   []string
	near  string // what runs a command in the network of the source, "" for the machine's
	far   string // in that of the target: see twoLinks
}

// newHost returns a host on which nothing was ever done. Its tests may run beside
// others.
func newHost(t *testing.T) *host {
	t.Parallel()
	top := t.TempDir()
	h := &host{T: t, dir: top + "/work", state: top + "/state", notes: top + "/notes"}
	for _, dir := range []string{h.dir, h.notes} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + h.notes,
		"TMPDIR=" + h.notes, "XB_STATE_DIR=" + h.state,
		"LIBVIRT_DEFAULT_URI=test://" + h.notes + "/node.xml"} // of its own, with no domain
	h.note(h.notes+"/node.xml", "<node/>")
	return h
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// path makes a name in the host's directory absolute.
func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// result is how a script ended.
type result struct {
	status   int   // of the script
	statuses []int // of each stage of a pipeline
	out, err string
}

// sh runs a script.
func (h *host) sh(script string) result {
	h.Helper()
	ctx, cancel := untilHang()
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	var out, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = h.dir, h.env, &out, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	if ctx.Err() != nil {
		h.Fatalf("%s: hangs; so far:\n%s%s", script, out.String(), stderr.String())
	}
	if err != nil && cmd.ProcessState == nil {
		h.Fatalf("%s: %v", script, err)
	}
	return result{status: cmd.ProcessState.ExitCode(), out: out.String(), err: stderr.String()}
}

// must runs a script that has to succeed and returns what it printed.
func (h *host) must(script string) string {
	h.Helper()
	r := h.sh(script)
	if r.status != 0 {
		h.Fatalf("%s: status %d\n%s", script, r.status, r.err)
	}
	return r.out
}

// pipe runs stages as one pipeline and notes the status of each.
func (h *host) pipe(stages ...string) result {
	h.Helper()
	notes, err := os.MkdirTemp(h.notes, "pipe")
	if err != nil {
		h.Fatal(err)
	}
	noted := make([]string, len(stages))
	for i, stage := range stages {
		noted[i] = fmt.Sprintf("{ %s; echo $? >%s/%d; }", stage, notes, i)
	}
	r := h.sh(strings.Join(noted, " | "))
	for i := range stages {
		text, err := os.ReadFile(fmt.Sprintf("%s/%d", notes, i))
		if err != nil {
			h.Fatal(err)
		}
		status, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		r.statuses = append(r.statuses, status)
	}
	r.status = r.statuses[len(stages)-1]
	return r
}

// sync is the usual pipeline; patchOptions go to xb-patch.
func (h *host) sync(source, target, patchOptions string) result {
	h.Helper()
	return h.pipe("xb-sig "+target, "xb-delta "+source, "xb-patch "+patchOptions+" "+target)
}

// mustSync demands that the target becomes the source.
func (h *host) mustSync(source, target, patchOptions string) {
	h.Helper()
	r := h.sync(source, target, patchOptions)
	for _, status := range r.statuses {
		if status != 0 {
			h.Fatalf("%s to %s: statuses %d\n%s", source, target, r.statuses, r.err)
		}
	}
	h.sameBytes(source, target)
}

// fails demands a status and that each of the texts is on stderr.
func (r result) fails(t testing.TB, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d\n%s", r.status, status, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("no %q on stderr:\n%s", text, r.err)
		}
	}
}

// silent demands success without a word.
func (r result) silent(t testing.TB) {
	t.Helper()
	if r.status != 0 || r.err != "" {
		t.Errorf("status %d, stderr %q; want 0 and nothing", r.status, r.err)
	}
	for _, status := range r.statuses {
		if status != 0 {
			t.Errorf("statuses %d, want only 0", r.statuses)
		}
	}
}

// phase returns what the state says of a target.
func (h *host) phase(target string) string {
	h.Helper()
	var record struct{ Phase string }
	decode(h, h.must("xb-patch --state "+target), &record)
	return record.Phase
}

func (h *host) wantPhase(target, phase string) {
	h.Helper()
	if got := h.phase(target); got != phase {
		h.Errorf("phase %q, want %q", got, phase)
	}
}

const (
	badStream   = exit.BadStream
	noInput     = exit.NoInput
	cantCreate  = exit.CantCreate
	ioError     = exit.IOError
	unavailable = exit.Unavailable
	busy        = exit.Busy
	notOurs     = exit.NotOurs
	badConfig   = exit.Config
	notBasis    = exit.NotBasis
	unfinished  = exit.Unfinished
	badSnapshot = exit.BadSnapshot
)
