package testkit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A test gives up when nothing happens any more, not because it takes long: on a busy
// machine everything does.
const (
	idle = 4 * time.Minute // with no process below this one that uses the CPU, begins or ends
	most = Long            // what goes round and round hangs too
)

// Long is what nothing takes that goes on at all, on however busy a machine.
const Long = 10 * time.Minute

// UntilHang returns a context that ends when nothing happens any more.
func UntilHang() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	go func() {
		// The first look is late: most of what is waited for ends before it, and a look is at every process.
		for seen, since := "", time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
			}
			if now := used(below(os.Getpid())); now != seen {
				seen, since = now, time.Now()
			} else if time.Since(since) > idle {
				cancel()
			}
		}
	}()
	return ctx, cancel
}

// Eventually waits for a condition. If that never comes, the test ends, and tells what its processes do.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := UntilHang()
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s\n%s", what, doing())
		case <-time.After(time.Millisecond):
		}
	}
}

// Stop stops a process, and returns when all of it stands: a thread that has yet to get the processor may do much
// after the signal was sent.
func Stop(t testing.TB, pid int) {
	t.Helper()
	syscall.Kill(pid, syscall.SIGSTOP)
	Eventually(t, "a process that stands", func() bool { return Stands(pid) })
}

// Stands reports whether all threads of a process have stopped, or ended.
func Stands(pid int) bool {
	for _, thread := range threads(pid) {
		if !strings.Contains("TZX", thread.state) {
			return false
		}
	}
	return true
}

// task is what proc_pid_stat(5) says of a process or a thread.
type task struct {
	pid, parent int
	name, state string
	cpu         string
}

// read returns false of one that has ended meanwhile.
func (p *task) read(dir string) bool {
	text, _ := os.ReadFile(dir + "/stat")
	name, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third one on
	if len(fields) < 13 {
		return false
	}
	_, p.name, _ = strings.Cut(name, "(")
	p.pid, _ = strconv.Atoi(filepath.Base(dir))
	p.parent, _ = strconv.Atoi(fields[1])
	p.state, p.cpu = fields[0], strings.Join(fields[11:13], " ")
	return true
}

func tasks(pattern string) (all []task) {
	dirs, _ := filepath.Glob(pattern)
	for _, dir := range dirs {
		var p task
		if p.read(dir) {
			all = append(all, p)
		}
	}
	return all
}

func threads(pid int) []task { return tasks(fmt.Sprintf("/proc/%d/task/[0-9]*", pid)) }

// below lists the processes below one.
func below(top int) (all []task) {
	processes := tasks("/proc/[0-9]*")
	parents := make(map[int]int)
	for _, p := range processes {
		parents[p.pid] = p.parent
	}
	for _, p := range processes {
		above := p.parent
		for above != 0 && above != top {
			above = parents[above]
		}
		if above == top {
			all = append(all, p)
		}
	}
	return all
}

// used tells what processes have used of the CPU.
func used(processes []task) string {
	var s strings.Builder
	for _, p := range processes {
		fmt.Fprintln(&s, p.pid, p.cpu)
	}
	return s.String()
}

// doing tells what the processes below this one wait for.
func doing() string {
	var s strings.Builder
	for _, p := range below(os.Getpid()) {
		words, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		fmt.Fprintf(&s, "%d below %d: %.300s\n", p.pid, p.parent, strings.ReplaceAll(string(words), "\x00", " "))
		for _, thread := range threads(p.pid) {
			dir := fmt.Sprintf("/proc/%d/task/%d/", p.pid, thread.pid)
			wchan, _ := os.ReadFile(dir + "wchan")
			stack, _ := os.ReadFile(dir + "stack") // root's
			fmt.Fprintf(&s, "  %d %s %s %s\n", thread.pid, thread.name, thread.state, wchan)
			if thread.state == "D" {
				s.Write(stack)
			}
		}
	}
	return s.String()
}
