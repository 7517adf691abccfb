package state

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

func TestLock(t *testing.T) {
	dir, d := newDevice(t, deviceID)
	lock, err := d.Lock(Run{})
	if err != nil {
		t.Fatal(err)
	}
	other := func() string {
		out, err := again(t, "lock", dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	_, err = d.Lock(Run{})
	testkit.WantStatus(t, "second lock", err, exit.Busy)
	if got := other(); got != fmt.Sprint(exit.Busy) {
		t.Errorf("another process: %s", got)
	}
	if free, err := dir.Device("/another", "x").Lock(Run{}); err != nil {
		t.Errorf("another device: %v", err)
	} else {
		free.Release()
	}
	lock.Release()
	if got := other(); got != "0" {
		t.Errorf("after release: %s", got)
	}
	// The other process has ended without release.
	if lock, err = d.Lock(Run{}); err != nil {
		t.Fatal(err)
	}
	lock.Release()
}

// hold is a run in another process: it takes the lock, and then does what it is told, a
// word a line.
func hold(in io.Reader) {
	var run Run
	if err := json.Unmarshal([]byte(os.Getenv("XB_TEST_RUN")), &run); err != nil {
		panic(err)
	}
	patience = 50 * time.Millisecond
	l, err := Dir(os.Getenv("XB_TEST_DIR")).Device(deviceID, "img").Lock(run)
	if err != nil {
		panic(err)
	}
	fmt.Println("held")
	for words := bufio.NewScanner(in); words.Scan(); {
		switch words.Text() {
		case "wait":
			l.Wait()
		case "resume":
			err = l.Resume()
		}
		fmt.Println(exit.StatusOf(err))
	}
	os.Exit(0)
}

// holder is a run in another process that has the lock.
type holder struct {
	*testing.T
	cmd  *exec.Cmd
	in   io.Writer
	said *bufio.Reader
}

func startHolder(t *testing.T, dir Dir, run Run) *holder {
	t.Helper()
	text, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	cmd := again(t, "hold", dir)
	cmd.Env = append(cmd.Env, "XB_TEST_RUN="+string(text))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h := &holder{t, cmd, in, bufio.NewReader(out)}
	if got := h.line(); got != "held" {
		t.Fatalf("it says %q", got)
	}
	return h
}

func (h *holder) line() string {
	h.Helper()
	line, err := h.said.ReadString('\n')
	if err != nil {
		h.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// do tells the holder what to do, and returns the status of that.
func (h *holder) do(word string) string {
	h.Helper()
	fmt.Fprintln(h.in, word)
	return h.line()
}

// edit changes what the lock's file says.
func edit(t *testing.T, d *Device, change func(map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(d.file(".lock"))
	if err != nil {
		t.Fatal(err)
	}
	var says map[string]any
	if err := json.Unmarshal(text, &says); err != nil {
		t.Fatal(err)
	}
	change(says)
	if text, err = json.Marshal(says); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.file(".lock"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// quietFor has a holder be quiet for long.
func quietFor(t *testing.T, d *Device, how time.Duration) {
	t.Helper()
	edit(t, d, func(says map[string]any) { says["last"] = says["last"].(float64) - how.Seconds() })
}

var (
	first  = Run{Peer: "dom0a", Disk: "domu1/xvda", Session: "192.0.2.1 1 192.0.2.2 22"}
	second = Run{Peer: "dom0a", Disk: "domu1/xvda", Session: "192.0.2.1 2 192.0.2.2 22"}
)

// TestLockNamesItsHolder: an administrator must find out who it is, and whether it is alive.
func TestLockNamesItsHolder(t *testing.T) {
	dir, d := newDevice(t, deviceID)
	h := startHolder(t, dir, first)
	pid := fmt.Sprintf("process %d", h.cmd.Process.Pid)
	wants := func(texts ...string) string {
		t.Helper()
		_, err := d.Lock(Run{Peer: "dom0c"})
		testkit.WantStatus(t, "the lock", err, exit.Busy)
		for _, text := range append(texts, pid, "dom0a", "domu1/xvda", "since "+time.Now().UTC().Format(time.DateOnly)) {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("no %q in: %v", text, err)
			}
		}
		return err.Error()
	}
	if text := wants(); strings.Contains(text, "last byte") {
		t.Errorf("it does not wait for its delta: %s", text)
	}
	h.do("wait")
	wants("last byte of which came 0s ago")
	quietFor(t, d, 7*time.Minute)
	wants("last byte of which came 7m0s ago", fmt.Sprintf("kill %d", h.cmd.Process.Pid))

	if err := os.WriteFile(d.file(".lock"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := d.Lock(Run{})
	testkit.WantStatus(t, "the lock", err, exit.Busy)
	if !strings.HasSuffix(err.Error(), pid) {
		t.Errorf("where its file says nothing: %v", err)
	}
}

// TestLockEndsADeadRun demands that a run whose session is dead is ended, and that nobody
// else ever is.
func TestLockEndsADeadRun(t *testing.T) {
	other := func(change func(*Run)) Run {
		run := second
		change(&run)
		return run
	}
	long := deadAfter + time.Minute
	dead := "0: 020200C0:0016 010200C0:0001 01 00000024:00000000 01:00000014 00000005\n"
	for name, c := range map[string]struct {
		first, second Run
		quiet         time.Duration
		before        func(*holder, *Device)
		ended         bool
	}{
		"dead":                 {first, second, long, nil, true},
		"quiet for 5 minutes":  {first, second, 5 * time.Minute, nil, false},
		"the session is alive": {first, second, long, func(*holder, *Device) { tables = nil }, false},
		"its clock is ahead":   {first, second, -long, nil, false},
		"another peer":         {first, other(func(r *Run) { r.Peer = "dom0c" }), long, nil, false},
		"another disk":         {first, other(func(r *Run) { r.Disk = "domu1/xvdb" }), long, nil, false},
		"no peer": {Run{Disk: first.Disk, Session: first.Session}, other(func(r *Run) { r.Peer = "" }), long,
			nil, false},
		"no disk": {Run{Peer: first.Peer, Session: first.Session}, other(func(r *Run) { r.Disk = "" }), long,
			nil, false},
		"the same session":       {first, first, long, nil, false},
		"not by ssh":             {Run{Peer: first.Peer, Disk: first.Disk}, second, long, nil, false},
		"the new one not by ssh": {first, other(func(r *Run) { r.Session = "" }), long, nil, false},
		"it works":               {first, second, long, func(h *holder, _ *Device) { h.do("resume") }, false},
		"told by another process": {first, second, long, func(h *holder, d *Device) {
			edit(h.T, d, func(says map[string]any) { says["pid"] = os.Getpid() })
		}, false},
		"told by an earlier process of that number": {first, second, long, func(h *holder, d *Device) {
			edit(h.T, d, func(says map[string]any) { says["start"] = "1" })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			setTables(t, dead)
			dir, d := newDevice(t, deviceID)
			h := startHolder(t, dir, c.first)
			h.do("wait")
			quietFor(t, d, c.quiet)
			if c.before != nil {
				c.before(h, d)
			}
			l, err := d.Lock(c.second)
			if !c.ended {
				testkit.WantStatus(t, "the lock", err, exit.Busy)
				if status := h.do("resume"); status != "0" {
					t.Errorf("afterwards the holder goes on with status %s", status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Release()
			if !strings.Contains(l.Ended, fmt.Sprint(h.cmd.Process.Pid)) || !strings.Contains(l.Ended, "dom0a") {
				t.Errorf("it says %q", l.Ended)
			}
			h.cmd.Wait()
			if status := h.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGTERM {
				t.Errorf("it ended otherwise: %v", h.cmd.ProcessState)
			}
			_, err = d.Lock(Run{})
			testkit.WantStatus(t, "the lock afterwards", err, exit.Busy)
			if !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
				t.Errorf("the lock is not said to be this process's: %v", err)
			}
		})
	}
}

// A run that does not end is not waited for without end, and keeps its lock.
func TestLockOfOneThatDoesNotEnd(t *testing.T) {
	defer func(p time.Duration) { patience = p }(patience)
	patience = 50 * time.Millisecond
	setTables(t, "0: 020200C0:0016 010200C0:0001 01 00000024:00000000 01:00000014 00000005\n")
	dir, d := newDevice(t, deviceID)
	h := startHolder(t, dir, first)
	h.do("wait")
	quietFor(t, d, time.Hour)
	testkit.Stop(t, h.cmd.Process.Pid) // before it can get the other signal
	_, err := d.Lock(second)
	testkit.WantStatus(t, "the lock", err, exit.Busy)
	h.cmd.Process.Signal(unix.SIGCONT)
	h.cmd.Wait() // it has the signal still to come
}

// TestLockReplaced: a lock whose file has lost its name keeps nobody away.
func TestLockReplaced(t *testing.T) {
	for name, replace := range map[string]func(string) error{
		"removed": os.Remove,
		"moved away with all the state": func(file string) error {
			return os.Rename(filepath.Dir(file), filepath.Dir(file)+".old")
		},
		"replaced": func(file string) error {
			return errors.Join(os.WriteFile(file+".new", nil, 0o600), os.Rename(file+".new", file))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := Dir(filepath.Join(t.TempDir(), "state")).Device(deviceID, "img")
			l, err := d.Lock(Run{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Release()
			if err := l.Check(); err != nil {
				t.Errorf("before: %v", err)
			}
			if err := replace(d.file(".lock")); err != nil {
				t.Fatal(err)
			}
			testkit.WantStatus(t, "the lock", l.Check(), exit.Busy)
		})
	}
}

// TestLockGate: what is about to be ended must not begin what may not be interrupted.
func TestLockGate(t *testing.T) {
	dir, d := newDevice(t, deviceID)
	h := startHolder(t, dir, first)
	f, err := os.OpenFile(d.file(".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := &Lock{file: f}
	if err := other.gate(unix.F_OFD_SETLK, unix.F_WRLCK); err == nil {
		t.Error("it works, and may be ended all the same")
	}
	h.do("wait")
	if err := other.gate(unix.F_OFD_SETLK, unix.F_WRLCK); err != nil {
		t.Fatalf("it waits, and the gate is shut: %v", err)
	}
	if status := h.do("resume"); status != fmt.Sprint(exit.Busy) {
		t.Errorf("it goes on with status %s", status)
	}
	f.Close()
	if status := h.do("resume"); status != "0" {
		t.Errorf("status %s although the gate is free", status)
	}
}
