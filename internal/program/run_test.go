package program

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

const patience = testkit.Long

// ways are both of running a program, for what they have in common.
var ways = map[string]func(limit time.Duration, name string, args ...string) (string, error){
	"Ask": func(limit time.Duration, name string, args ...string) (string, error) {
		out, err := Ask(context.Background(), limit, name, args...)
		return string(out), err
	},
	"Run": func(limit time.Duration, name string, args ...string) (string, error) {
		var out bytes.Buffer
		err := Run(limit, &out, name, args...)
		return out.String(), err
	},
}

func TestRun(t *testing.T) {
	t.Setenv("LC_ALL", "ja_JP.UTF-8")
	t.Setenv("LANGUAGE", "ja")
	for name, c := range map[string]struct{ script, out, err string }{
		"silent":       {"", "", ""},
		"answers":      {`echo "$1"; echo noise >&2`, "word\n", ""},
		"its language": {"echo $LC_ALL:$LANGUAGE:", "C::\n", ""},
		"no words":     {"exit 3", "", "tool: exit status 3"},
		"by a signal":  {"kill -KILL $$", "", "tool: signal: killed"},
		"virsh's words": {"printf 'error: failed to connect\\nerror: no socket\\n' >&2; exit 1", "",
			"tool: failed to connect; no socket"},
		"LVM's words": {"printf '  WARNING: old\\n  File descriptor 3 leaked\\n\\n  Cannot do that.\\n' >&2; exit 5", "",
			"tool: Cannot do that"},
		"warnings alone": {"echo WARNING: old. >&2; exit 5", "", "tool: WARNING: old"},
	} {
		for way, run := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				testkit.Programs(t, map[string]string{"tool": c.script})
				out, err := run(patience, "tool", "word")
				if out != c.out || (c.err == "") != (err == nil) || err != nil && err.Error() != c.err {
					t.Errorf("%q, %v; want %q, %s", out, err, c.out, c.err)
				}
				if err != nil && exit.StatusOf(err) != exit.Unavailable {
					t.Errorf("status %d", exit.StatusOf(err))
				}
			})
		}
	}
	// What was said is an answer, even if a child, as a daemon that was started, still has the output open.
	testkit.Programs(t, map[string]string{"tool": "sleep 47 & echo $!"})
	out, err := ways["Ask"](patience, "tool")
	child, _ := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || child == 0 || syscall.Kill(child, syscall.SIGKILL) != nil {
		t.Errorf("a child with its output open: %q, %v", out, err)
	}
	var ended *exec.ExitError
	testkit.Programs(t, map[string]string{"tool": "echo words >&2; exit 8"})
	if _, err := ways["Ask"](patience, "tool"); !errors.As(err, &ended) || ended.ExitCode() != 8 {
		t.Errorf("its status does not show in %v", err)
	}
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for way, run := range ways {
		if _, err := run(patience, "xb-no-such"); exit.StatusOf(err) != exit.Unavailable ||
			!errors.Is(err, exec.ErrNotFound) {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// processes counts those with these arguments.
func processes(t *testing.T, args ...string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if text, _ := os.ReadFile(file); string(text) == strings.Join(args, "\x00")+"\x00" {
			n++
		}
	}
	return n
}

// A program that is asked is killed, and its child with it.
func TestAskKills(t *testing.T) {
	for name, c := range map[string]struct {
		script, err string
		limit       time.Duration
	}{
		"no answer":      {"trap '' INT TERM; sleep 47.11", "tool did not answer within 100ms", 100 * time.Millisecond},
		"endless output": {"sleep 47.11 & cat /dev/zero", "tool prints without end", patience},
		"endless errors": {"sleep 47.11 & cat /dev/zero >&2", "tool prints without end", patience},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Programs(t, map[string]string{"tool": c.script})
			if _, err := Ask(context.Background(), c.limit, "tool"); exit.StatusOf(err) != exit.Unavailable ||
				err.Error() != c.err {
				t.Errorf("%v", err)
			}
			// A killed process may take a moment to go.
			for deadline := time.Now().Add(patience); processes(t, "sleep", "47.11") > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("its child is left behind")
				}
			}
		})
	}
}

// What must never be killed gets signals at its time limit, which it may hold back, and
// may complain without end.
func TestRunSpares(t *testing.T) {
	testkit.Programs(t, map[string]string{"tool": `
trap 'echo asked' INT
trap 'echo "asked to end"; ended=yes' TERM
while [ -z "$ended" ]; do sleep 0.01; done
head -c 200000 /dev/zero >&2
echo done`})
	var out bytes.Buffer
	err := Run(100*time.Millisecond, &out, "tool")
	if out.String() != "asked\nasked to end\ndone\n" {
		t.Errorf("it said %q", out.String())
	}
	if exit.StatusOf(err) != exit.Unavailable || err.Error() != "tool did not end within 100ms" {
		t.Errorf("%v", err)
	}
}

// Once a signal has ended this process, nobody is asked any more. What is undone then may
// still need LVM.
func TestAfterSignal(t *testing.T) {
	if os.Getenv("XB_TEST_ENDED") == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestAfterSignal$")
		c.Env = append(os.Environ(), "XB_TEST_ENDED=yes")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	testkit.Programs(t, map[string]string{"tool": "echo answer"})
	durable.UndoAll()
	if _, err := ways["Ask"](patience, "tool"); err == nil || err.Error() != "cannot run tool: interrupted" {
		t.Errorf("Ask: %v", err)
	}
	if out, err := ways["Run"](patience, "tool"); out != "answer\n" || err != nil {
		t.Errorf("Run: %q, %v", out, err)
	}
}
