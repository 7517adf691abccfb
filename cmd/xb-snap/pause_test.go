package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/testkit"
)

// toolstack stands in for virsh, with one domain: what a request does is a shell script of its
// name. In its directory are the domain's state, the number of file systems that its agent has
// frozen, and a log of what was asked for.
const toolstack = `cd "$TOOLSTACK" || exit
verb='' domain=''
for word; do
	case $word in --domain=*) domain=${word#*=} ;; -*) ;; *) verb=${verb:-$word} ;; esac
done
[ "$domain" = "$(cat domain)" ] || { echo "error: failed to get domain '$domain'" >&2; exit 1; }
case $verb in domstate) cat state; exit ;; esac
echo "$verb" >>log
if [ -e "$verb" ]; then exec sh "./$verb" "$@"; fi
case $verb in
suspend) echo paused >state ;;
resume) echo running >state ;;
domtime) echo 'Time: 1' ;;
domfsfreeze) echo 2 >frozen; echo 'Froze 2 filesystem(s)' ;;
domfsthaw) echo "Thawed $(cat frozen) filesystem(s)"; echo 0 >frozen ;;
*) exit 1 ;;
esac`

// guest is a domain with two disks on a file system of their own, and what is done to it.
type guest struct {
	host
	tool, disks, a, b string
	name              string
	before            string // files
}

// newGuest returns one for which the toolstack has some other scripts, with some settings.
func newGuest(t *testing.T, scripts map[string]string, settings ...string) guest {
	t.Parallel()
	g := guest{host: newHost(t), tool: t.TempDir(), disks: testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")}
	g.a, g.b, g.name = filepath.Join(g.disks, "a"), filepath.Join(g.disks, "b"), "web-"+strings.ToLower(rand.Text())
	testkit.Write(t, g.a, "a")
	testkit.Write(t, g.b, "b")
	for file, text := range map[string]string{"domain": g.name, "state": "running\n", "frozen": "0\n", "log": ""} {
		testkit.Write(t, filepath.Join(g.tool, file), text)
	}
	for verb, script := range scripts {
		testkit.Write(t, filepath.Join(g.tool, verb), script)
	}
	bin := t.TempDir()
	for name, script := range map[string]string{"virsh": cmp.Or(scripts["virsh"], toolstack),
		"xl": cmp.Or(scripts["xl"], "echo no xl here >&2; exit 1")} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TOOLSTACK=" + g.tool, "DISKS=" + g.disks, "NAME=" + g.name,
		"XB_PAUSE_LIMIT=60", "XB_PAUSE_WAIT=60", "XB_PAUSE_WATCH=4"}, settings...)
	g.before = g.files(g.disks)
	t.Cleanup(func() {
		testkit.Eventually(t, "its watchdog has ended", func() bool { return len(g.watchdogs()) == 0 })
		if t.Failed() {
			t.Logf("%s, %s frozen, and it was told to %q", g.read("state"), g.read("frozen"), g.did())
		}
	})
	return g
}

func (g guest) read(name string) string {
	g.Helper()
	return strings.TrimSpace(testkit.Read(g.T, filepath.Join(g.tool, name)))
}

// did is what was asked for, in a line.
func (g guest) did() string { g.Helper(); return strings.ReplaceAll(g.read("log"), "\n", " ") }

// watchdogs returns the processes that keep the domain still, or wait for it.
func (g guest) watchdogs() (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if strings.HasPrefix(string(text), "xb-snap\x00watchdog\x00") && strings.Contains(string(text), "\x00"+g.name+"\x00") {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// goesOn demands that the domain runs, its file systems are thawed, and was asked for so.
func (g guest) goesOn(did string) {
	g.Helper()
	if state, frozen := g.read("state"), g.read("frozen"); state != "running" || frozen != "0" || g.did() != did {
		g.Errorf("%s, %s frozen, and it was told to %q, want %q", state, frozen, g.did(), did)
	}
}

// noSnapshot demands that none was left, and no record.
func (g guest) noSnapshot() {
	g.Helper()
	if after := g.files(g.disks); after != g.before {
		g.Errorf("left: %s", after)
	}
}

func TestPause(t *testing.T) {
	g := newGuest(t, nil)
	r := g.run("create", "--words", "--pause", g.name, "-c", "x:///y", g.a, g.b)
	if r.status != 0 || strings.Count(r.stdout, "\n") != 2 || strings.Count(r.stderr, "\n") != strings.Count(r.stderr, "info ") {
		t.Errorf("%+v", r)
	}
	g.goesOn("suspend resume")
	g.ok("create", "--pause", g.name, g.a) // of one disk there is but one instant
	g.goesOn("suspend resume")
	testkit.Write(t, filepath.Join(g.tool, "state"), "paused\n") // by somebody else, whose it is to resume
	g.ok("create", "--pause", g.name, g.a, g.b)
	if g.read("state") != "paused" || g.did() != "suspend resume" {
		t.Errorf("%s after %s", g.read("state"), g.did())
	}
	g.fails(69, "cannot tell whether nobody runs: virsh: failed to get domain", "create", "--pause", "nobody", g.a, g.b)
	for _, args := range [][]string{{"--pause", "7"}, {"--pause", "-x"}, {"--pause", ""}, {"--toolstack", "xm"},
		{"--pause", "a", "--freeze", "a"}} {
		g.fails(64, "try 'xb-snap --help'", append(append([]string{"create"}, args...), g.a, g.b)...)
	}
	g.fails(64, "watchdog is for xb-snap itself", "watchdog")
}

// TestPauseXL: the domain is one of xl's.
func TestPauseXL(t *testing.T) {
	g := newGuest(t, map[string]string{"virsh": "echo \"error: failed to get domain\" >&2; exit 1", "xl": `cd "$TOOLSTACK"
case $1 in
list)
	echo 'Name                                        ID   Mem VCPUs	State	Time(s)'
	case $(cat state) in running) flags=-b---- ;; *) flags=--p--- ;; esac
	echo "$NAME 7 256 1 $flags 15.4"
	;;
pause) echo "$*" >>log; echo paused >state ;;
unpause) echo "$*" >>log; echo running >state ;;
esac`})
	g.ok("create", "--pause", g.name, g.a, g.b)
	g.goesOn("pause " + g.name + " unpause " + g.name)
	g.ok("create", "--pause", g.name, "--toolstack", "xl", g.a, g.b)
	g.fails(69, "only reached by virsh", "create", "--freeze", g.name, "--toolstack", "xl", g.a)
}

// The snapshots hang from the moment when the domain is still until it is let go.
const (
	hangDisks = "fsfreeze -f $DISKS\n"
	freeDisks = "fsfreeze -u $DISKS\n"
)

// TestPauseLimit: a domain that would be paused for too long runs again before.
func TestPauseLimit(t *testing.T) {
	g := newGuest(t, map[string]string{
		"suspend": hangDisks + "echo paused >state", "resume": "echo running >state\n" + freeDisks}, "XB_PAUSE_LIMIT=1")
	r := g.run("create", "--pause", g.name, g.a, g.b)
	want := "xb-snap: " + g.name + " ran again before all snapshots were taken: its disks are not of one instant\n"
	if r.status != 0 || strings.Count(r.stdout, "\n") != 2 || r.stderr != want {
		t.Errorf("%+v", r)
	}
	g.goesOn("suspend resume")
}

// stopAsker stops xb-snap before it can know of the answer: when all its threads stand, not when the signal is sent.
const stopAsker = `until [ -s pid ]; do sleep 0.1; done
kill -STOP $(cat pid)
while grep -q '^State:.[^T]' /proc/$(cat pid)/task/*/status; do sleep 0.01; done
`

// TestKilled: whoever keeps a domain still and is killed, with all of its process group, does
// not keep it so.
func TestKilled(t *testing.T) {
	for way, c := range map[string]struct{ verb, script, did string }{
		"--pause":        {"suspend", "echo paused >state", "suspend resume"},
		"--freeze":       {"domfsfreeze", "echo 2 >frozen", "domtime domfsfreeze domfsthaw"},
		"--freeze-or-go": {"domfsfreeze", "echo 2 >frozen", "domtime domfsfreeze domfsthaw"},
	} {
		t.Run(way, func(t *testing.T) {
			g := newGuest(t, map[string]string{c.verb: stopAsker + c.script})
			cmd := g.command("create", way, g.name, g.a, g.b)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := sync.OnceFunc(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
			t.Cleanup(kill)
			testkit.Write(t, filepath.Join(g.tool, "pid.new"), strconv.Itoa(cmd.Process.Pid))
			if err := os.Rename(filepath.Join(g.tool, "pid.new"), filepath.Join(g.tool, "pid")); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "an answer of the watchdog that nobody reads", func() bool {
				return testkit.Stands(cmd.Process.Pid) && waiting(t, cmd.Process.Pid) > 0
			})
			if g.read("state") == "running" && g.read("frozen") == "0" {
				t.Error("it is not still")
			}
			kill()
			testkit.Eventually(t, "it goes on", func() bool { return g.did() == c.did })
			testkit.Eventually(t, "its watchdog has ended", func() bool { return len(g.watchdogs()) == 0 })
			g.goesOn(c.did)
		})
	}
}

// waiting returns how many bytes stand in pipes that a process reads, and that are not ours.
func waiting(t *testing.T, pid int) (n int) {
	t.Helper()
	ours := make(map[string]bool)
	own, _ := filepath.Glob("/proc/self/fd/*")
	for _, file := range own {
		name, _ := os.Readlink(file)
		ours[name] = true
	}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, file := range files {
		if name, _ := os.Readlink(file); !strings.HasPrefix(name, "pipe:") || ours[name] {
			continue
		}
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		here, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		n += here
	}
	return n
}

// TestWatchdogKilled: without it, xb-snap lets the domain go itself.
func TestWatchdogKilled(t *testing.T) {
	for way, c := range map[string]struct {
		verb, script, did string
		status            int
	}{
		"--pause":  {"suspend", "echo paused >state", "suspend resume", 0},
		"--freeze": {"domfsfreeze", "echo 2 >frozen", "domtime domfsfreeze domfsthaw", 69},
	} {
		t.Run(way, func(t *testing.T) {
			g := newGuest(t, map[string]string{c.verb: hangDisks + c.script})
			cmd := g.command("create", way, g.name, g.a, g.b)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "it is still", func() bool { return g.read("state") != "running" || g.read("frozen") != "0" })
			waitBlocked(t, cmd.Process.Pid)
			for _, pid := range g.watchdogs() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			testkit.Command(t, "", "fsfreeze", "-u", g.disks)
			cmd.Wait()
			if status := cmd.ProcessState.ExitCode(); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			g.goesOn(c.did)
			if c.status != 0 {
				g.noSnapshot()
			}
		})
	}
}

// waitBlocked waits until a thread of a process waits for a file system that is frozen.
func waitBlocked(t *testing.T, pid int) {
	t.Helper()
	testkit.Eventually(t, "a snapshot hangs", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, file := range threads {
			text, _ := os.ReadFile(file)
			if strings.Contains(string(text), ") D ") {
				return true
			}
		}
		return false
	})
}

// TestLate has a toolstack that carries a request out when nobody waits for it any more, and
// one whose client never returns. Nothing of it keeps what the caller has left open.
func TestLate(t *testing.T) {
	for name, client := range map[string]string{
		"returns": "wait", "fails": "sleep 1; echo 'error: no' >&2; exit 1", "hangs": "exec sleep 1000"} {
		for way, late := range map[string]string{
			"--pause":  "until [ -e over ]; do sleep 0.1; done; echo late >>log; echo paused >state",
			"--freeze": "until [ -e over ]; do sleep 0.1; done; echo late >>log; echo 2 >frozen",
		} {
			t.Run(name+way, func(t *testing.T) {
				request := "setsid sh -c '" + late + "' >/dev/null 2>&1 &\n" + client + "\n"
				g := newGuest(t, map[string]string{"suspend": request, "domfsfreeze": request}, "XB_PAUSE_WAIT=2", "XB_PAUSE_LIMIT=1", "XB_PAUSE_WATCH=3")
				lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
				if err != nil {
					t.Fatal(err)
				}
				defer lock.Close()
				cmd := g.command("create", way, g.name, g.a, g.b)
				cmd.ExtraFiles = []*os.File{lock, lock} // which it inherits open, as from a shell
				var words bytes.Buffer                  // read to its end, so nobody else may have it
				cmd.Stderr = &words
				if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
					t.Fatal(err)
				}
				cmd.Run()
				if status := cmd.ProcessState.ExitCode(); status != 69 || !strings.Contains(words.String(), "does not let itself be") {
					t.Errorf("status %d, %s", status, &words)
				}
				g.noSnapshot()
				lock.Close()
				other, err := os.Open(lock.Name())
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
				// What other tests start has it too, until its exec. Who waits for the request would have it
				// until its end, and what comes late would stay.
				testkit.Eventually(t, "nobody has the lock", func() bool {
					return syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
				})
				testkit.Write(t, filepath.Join(g.tool, "over"), "")
				undone := map[string]string{"--pause": "late resume", "--freeze": "late domfsthaw"}[way]
				testkit.Eventually(t, "it was let go", func() bool {
					return strings.Contains(g.did(), undone) && g.read("state") == "running" && g.read("frozen") == "0"
				})
				if client == "exec sleep 1000" && way == "--freeze" { // it would wait as long as that does
					killClients(t, g)
				}
			})
		}
	}
}

// killClients ends the programs that the domain's watchdogs wait for.
func killClients(t *testing.T, g guest) {
	t.Helper()
	for _, pid := range g.watchdogs() {
		out, _ := exec.Command("pgrep", "-P", strconv.Itoa(pid), "-x", "sleep").Output()
		for _, child := range strings.Fields(string(out)) {
			child, _ := strconv.Atoi(child)
			syscall.Kill(child, syscall.SIGKILL)
		}
	}
}

func TestFreeze(t *testing.T) {
	g := newGuest(t, nil)
	g.ok("create", "--freeze", g.name, g.a)
	g.goesOn("domtime domfsfreeze domfsthaw")
	g.ok("create", "--freeze-or-go", g.name, g.a, g.b)
	g.goesOn("domtime domfsfreeze domfsthaw domtime domfsfreeze domfsthaw")
	g.ok("create", "--dry-run", "--freeze", g.name, g.a)
	g.goesOn("domtime domfsfreeze domfsthaw domtime domfsfreeze domfsthaw domtime")
}

// TestFreezeFails: what was not frozen until the last snapshot was taken is no success.
func TestFreezeFails(t *testing.T) {
	for name, c := range map[string]struct {
		scripts    map[string]string
		limit, did string
		words      string
		wait       string
	}{
		"no agent": {map[string]string{"domtime": "echo 'error: QEMU guest agent is not connected' >&2; exit 1"}, "60", "domtime",
			"no agent answers in the guest: virsh: QEMU guest agent is not connected", "60"},
		"refused": {map[string]string{"domfsfreeze": "echo 'error: no' >&2; exit 1"}, "60", "domtime domfsfreeze domfsthaw",
			"does not let itself be frozen: virsh: no", "2"},
		"thaws by itself": {map[string]string{"domfsfreeze": "echo 0 >frozen"}, "60", "domtime domfsfreeze domfsthaw",
			"were thawed before all snapshots were taken", "60"},
		"takes too long": {map[string]string{"domfsfreeze": "echo 2 >frozen; sleep 3"}, "1", "domtime domfsfreeze domfsthaw",
			"does not let itself be frozen: it takes more than 1s", "60"},
		"snapshots take too long": {map[string]string{"domfsfreeze": "echo 2 >frozen\n" + hangDisks,
			"domfsthaw": freeDisks + "echo 'Thawed 2 filesystem(s)'; echo 0 >frozen"}, "5", "domtime domfsfreeze domfsthaw",
			"were thawed before all snapshots were taken", "60"},
		"thaw fails": {map[string]string{
			"domfsthaw": "[ -e once ] || { echo >once; exit 1; }\necho 0 >frozen; echo 'Thawed 0 filesystem(s)'"}, "60",
			"domtime domfsfreeze domfsthaw domfsthaw", "were thawed before all snapshots were taken", "60"},
		"stays frozen": {map[string]string{"domfsthaw": "[ -e over ] || { echo 'error: stuck' >&2; exit 1; }\necho 0 >frozen"},
			"60", "", "are still frozen; this is tried again every second, for 4s: virsh: stuck", "2"},
	} {
		for _, way := range testkit.Some(t, 1, "--freeze-or-go", "--freeze") {
			t.Run(name+way, func(t *testing.T) {
				g := newGuest(t, c.scripts, "XB_PAUSE_LIMIT="+c.limit, "XB_PAUSE_WAIT="+c.wait)
				r := g.run("create", "--words", way, g.name, g.a)
				level, status := "err", 69
				if way == "--freeze-or-go" {
					level, status = "warning", 0
				}
				said := strings.Split(strings.TrimSpace(r.stderr), "\n")
				said = filter(said, func(line string) bool { return !strings.HasPrefix(line, "info ") })
				if r.status != status || len(said) != 1 || !strings.HasPrefix(said[0], level+" xb-snap: ") ||
					!strings.Contains(said[0], c.words) || (r.stdout == "") != (status == 69) {
					t.Errorf("%+v, want %d, %s", r, status, c.words)
				}
				if status == 69 {
					g.noSnapshot()
				}
				testkit.Write(t, filepath.Join(g.tool, "over"), "")
				testkit.Eventually(t, "its watchdog has ended", func() bool { return len(g.watchdogs()) == 0 })
				if c.did != "" && !strings.HasPrefix(g.did(), c.did) || g.read("frozen") != "0" {
					t.Errorf("%s frozen after %q, want %q", g.read("frozen"), g.did(), c.did)
				}
			})
		}
	}
}

func filter(lines []string, keep func(string) bool) (kept []string) {
	for _, line := range lines {
		if keep(line) {
			kept = append(kept, line)
		}
	}
	return kept
}
