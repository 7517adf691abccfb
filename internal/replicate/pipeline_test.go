package replicate

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

func start(t *testing.T) *children {
	t.Helper()
	c, release, err := newChildren()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.endAll()
		release()
	})
	return c
}

func sh(script string) []string { return []string{"sh", "-c", script} }

// long is longer than any test.
const long = time.Hour

func TestPipeline(t *testing.T) {
	c := start(t)
	for _, test := range []struct {
		name         string
		pipeline     pipeline
		stages       []int
		answer, said string
	}{
		{"data", pipeline{sh("printf abc"), sh("tr a-c A-C"), sh("cat; echo; echo x")}, []int{0, 0, 0}, "ABC\nx", ""},
		{"nothing to read", pipeline{sh("cat; echo end")}, []int{0}, "end", ""},
		{"statuses", pipeline{sh("exit 66"), sh("echo no >&2; exit 80"), sh("kill -9 $$")}, []int{66, 80, 137}, "", "no"},
		{"nothing to read any more", pipeline{sh("trap '' PIPE; sleep 0.1; echo x || exit 74"), sh("exit 3")}, []int{74, 3}, "", "*"},
		{"not there", pipeline{sh("cat; exit 3"), {"xb-not-there"}, sh("cat; exit 4")}, []int{3, 127, 4}, "", "*"},
		{"the failed first", pipeline{sh("echo warns >&2"), sh("cat; exec >&-; sleep 0.2; echo cause >&2; exit 82"), sh("cat; echo sees >&2; exit 65")},
			[]int{0, 82, 65}, "", "cause\nsees\nwarns"},
		{"heartbeats are no words", pipeline{sh("echo progress; echo waiting; echo a; printf b")}, []int{0}, "a\nb", ""},
		{"a long line", pipeline{sh("printf '%09999d\n' 1; echo b")}, []int{0}, strings.Repeat("0", maxLine) + "\nb", ""},
		{"words without end", pipeline{sh("yes | head -n 100000")}, []int{0}, strings.TrimSuffix(strings.Repeat("y\n", maxLines), "\n"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := c.watch(long, nil, test.pipeline)
			if !slices.Equal(e.stages, test.stages) || e.answer.String() != test.answer || e.stalled != 0 ||
				test.said != "*" && e.said.String() != test.said {
				t.Errorf("%d, %q, %q, %v", e.stages, e.answer.list, e.said.list, e.stalled)
			}
		})
	}
	if n := left(t); n != "" {
		t.Errorf("left: %s", n)
	}
}

// left lists the children that this process still has.
func left(t *testing.T) string {
	t.Helper()
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	all := ""
	for _, name := range names {
		text, _ := os.ReadFile(name)
		all += string(text)
	}
	return all
}

// TestStall has programs that stand still, also so that they do not hear a signal, or ignore it.
func TestStall(t *testing.T) {
	c := start(t)
	for _, script := range []string{"exec sleep 1000", "kill -STOP $$", "trap '' TERM; while :; do sleep 0.1; done",
		"while echo waiting >&2; do sleep 0.01; done"} {
		e := c.watch(300*time.Millisecond, nil, pipeline{sh("exec sleep 1000"), sh(script)})
		if e.stalled == 0 || e.good() || e.stages[0] != bySignal+int(syscall.SIGTERM) {
			t.Errorf("%s: %+v", script, e.stages)
		}
	}
	if n := left(t); n != "" {
		t.Errorf("left: %s", n)
	}
}

// TestNoStall has a pipeline that goes on, as one of its programs says, for longer than one may stand still.
func TestNoStall(t *testing.T) {
	c := start(t)
	for _, out := range []string{"1", "2"} {
		e := c.watch(5*time.Second, nil, pipeline{sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.5; echo progress >&" + out + "; done"), sh("cat >/dev/null")})
		if e.stalled != 0 != (out == "1") { // to the next program it is data
			t.Errorf("%s: %+v, %v", out, e.stages, e.stalled)
		}
	}
}

// TestOutputKeptOpen has a program leave another one behind that has its output, as the connection has that of its users.
func TestOutputKeptOpen(t *testing.T) {
	c := start(t)
	e := c.watch(long, nil, pipeline{sh("sleep 1000 & echo $!")})
	if !e.good() || e.answer.String() == "" {
		t.Errorf("%+v", e)
	}
	exec.Command("kill", e.answer.String()).Run()
}

// TestFilesAreClosed counts the files of this process after pipelines of all kinds.
func TestFilesAreClosed(t *testing.T) {
	c := start(t)
	count := func() int { return len(strings.Fields(testkit.Names(t, "/proc/self/fd"))) }
	c.watch(long, nil, pipeline{sh("exit 0")}) // what the runtime opens at first
	before := count()
	for range 10 {
		in, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		c.watch(long, in, pipeline{sh("cat"), {"xb-not-there"}, sh("cat")})
		c.watch(10*time.Millisecond, nil, pipeline{sh("exec sleep 1000"), sh("exec sleep 1000")})
	}
	if after := count(); after > before {
		t.Errorf("%d files, and before %d", after, before)
	}
}

// TestInherited demands that a program has no files but its own.
func TestInherited(t *testing.T) {
	c := start(t)
	if e := c.watch(long, nil, pipeline{sh("cat"), sh("ls /proc/self/fd")}); e.answer.String() != "0\n1\n2\n3" { // 3 is ls's own
		t.Errorf("%q", e.answer.list)
	}
}

// TestParentIsKilled kills a process that has children, and one that has started such a process.
func TestParentIsKilled(t *testing.T) {
	switch os.Getenv("XB_TEST_PARENT") {
	case "grandparent":
		cmd := exec.Command(os.Args[0], "-test.run=^TestParentIsKilled$")
		cmd.Env = append(os.Environ(), "XB_TEST_PARENT=parent")
		cmd.Stdout = os.Stdout
		cmd.Run()
		return
	case "parent":
		c, _, err := newChildren()
		if err != nil {
			panic(err)
		}
		c.watch(long, nil, pipeline{sh("echo $$ >&2; exec sleep 1000"), sh("exec cat")})
		return
	}
	for _, whom := range []string{"parent", "grandparent"} {
		t.Run(whom, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestParentIsKilled$")
			cmd.Env = append(os.Environ(), "XB_TEST_PARENT="+whom)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			sleepers := func() []string { return descendants(cmd.Process.Pid, "sleep") }
			testkit.Eventually(t, "a program of its own", func() bool { return len(sleepers()) == 1 })
			pid := sleepers()[0]
			cmd.Process.Kill()
			cmd.Wait()
			testkit.Eventually(t, "the end of the program", func() bool { _, err := os.Stat("/proc/" + pid); return err != nil })
		})
	}
}

// descendants are the processes of a name below another one.
func descendants(pid int, name string) (found []string) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	f.Close()
	out, _ := exec.Command("ps", "-eo", "pid=,ppid=,comm=").Output()
	parents := map[string]bool{fmt.Sprint(pid): true}
	for range 4 {
		for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
			w := strings.Fields(s.Text())
			if len(w) == 3 && parents[w[1]] && !parents[w[0]] {
				parents[w[0]] = true
				if w[2] == name {
					found = append(found, w[0])
				}
			}
		}
	}
	return found
}
