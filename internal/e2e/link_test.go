package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cutNet has the host's sshd and ssh talk over a network of their own, a link that can be
// cut. What the machines there wait for minutes they wait for seconds.
func (h *host) cutNet() (link func(state string)) {
	h.Helper()
	needRoot(h.T)
	holder := exec.Command("unshare", "--net", "sleep", "infinity")
	if err := holder.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	ns := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		h.Fatal(err)
	}
	eventually(h, "a network of its own", func() bool {
		now, err := os.Readlink(ns)
		return err == nil && now != own
	})
	h.net = "nsenter --net=" + ns
	h.must(h.net + " sh -c 'echo 3 >/proc/sys/net/ipv4/tcp_retries2; echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries'")
	link = func(state string) { h.must(h.net + " ip link set lo " + state) }
	link("up")
	return link
}

// cutRun starts a copy over ssh and cuts the link in its middle, for so long that the
// source gives up. It returns the number of the xb-patch that is left over there.
func (h *host) cutRun(link func(string), ssh, options, target string) (pid string) {
	h.Helper()
	patch := h.talk(nil, ssh+" xb-patch "+options+" "+h.path(target))
	delta, err := os.ReadFile(h.path("delta"))
	if err != nil {
		h.Fatal(err)
	}
	if _, err := patch.in.Write(delta[:mib]); err != nil {
		h.Fatal(err)
	}
	spool := fmt.Sprintf("%s/spool/*%s.delta.part", h.state, target)
	eventually(h, "half of the delta", func() bool {
		names, _ := filepath.Glob(spool)
		if len(names) != 1 {
			return false
		}
		info, err := os.Stat(names[0])
		return err == nil && info.Size() == mib
	})
	link("down")
	patch.Process.Kill()
	patch.Wait()
	const finWait1 = " 04 " // it still has bytes to say, and a FIN
	eventually(h, "the end of the source's connection", func() bool {
		return !strings.Contains(h.must(h.net+" cat /proc/net/tcp"), finWait1)
	})
	_, about := h.lockOf(target)
	return fmt.Sprintf("%.0f", about["pid"])
}

// lockOf returns a target's lock file and what it says.
func (h *host) lockOf(target string) (name string, about map[string]any) {
	h.Helper()
	names, _ := filepath.Glob(h.state + "/*" + target + ".lock")
	if len(names) != 1 {
		h.Fatalf("locks: %q", names)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		h.Fatal(err)
	}
	decode(h, string(text), &about)
	return names[0], about
}

// quietSince has the run that has the lock seem to wait for that long.
func (h *host) quietSince(target string, long time.Duration) {
	h.Helper()
	name, about := h.lockOf(target)
	about["last"] = about["last"].(float64) - long.Seconds()
	text, err := json.Marshal(about)
	if err != nil {
		h.Fatal(err)
	}
	h.note(name, string(text)) // the same file: another one of that name would be another lock
}

func alive(pid string) bool { return exists("/proc/" + pid + "/stat") }

// TestLinkCutHeartbeat: sshd finds out that its peer is gone only when it has something to
// send to it.
func TestLinkCutHeartbeat(t *testing.T) {
	h := newHost(t)
	link := h.cutNet()
	ssh := h.startSSHD("")
	h.image("source", 3*mib, 1)
	h.image("spoken", 3*mib, 2)
	h.must("cp spoken silent && xb-sig spoken >sig && xb-delta --level 0 source <sig >delta")
	silent := h.cutRun(link, ssh, "--peer dom0a", "silent")
	link("up")
	spoken := h.cutRun(link, ssh, "--peer dom0a --heartbeat", "spoken")
	eventually(t, "the end of the session", func() bool { return !alive(spoken) })
	if !alive(silent) {
		t.Error("without a word the session ended too: then the heartbeat is not needed")
	}
	h.must("xb-patch spoken <delta")
	h.sameBytes("source", "spoken")
	h.must("kill " + silent)
}

// TestLinkCutLock: what the cut left over there has the lock for as long as sshd lets it
// live. The next run says so, and ends it when it certainly is dead.
func TestLinkCutLock(t *testing.T) {
	h := newHost(t)
	link := h.cutNet()
	ssh := h.startSSHD("")
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.must("xb-sig target >sig && xb-delta --level 0 source <sig >delta")
	const run = "--peer dom0a --disk domu1/xvda "
	pid := h.cutRun(link, ssh, run, "target")
	link("up")
	again := func(ssh, run string) result { return h.sh(ssh + " xb-patch " + run + h.path("target") + " <delta") }
	again(ssh, run).fails(t, busy, "process "+pid+", from dom0a, of domu1/xvda, since 20", "the last byte of which came")

	h.quietSince("target", 7*time.Minute)
	again(ssh, "--peer dom0c --disk domu1/xvda ").fails(t, busy, "kill "+pid)
	again(ssh, "--peer dom0a --disk domu1/xvdb ").fails(t, busy, "kill "+pid)
	again("", run).fails(t, busy, "kill "+pid)
	if !alive(pid) {
		t.Fatal("somebody has ended it")
	}
	again(ssh, run).fails(t, 0, "ended process "+pid)
	eventually(t, "that sshd buries it", func() bool { return !alive(pid) })
	h.sameBytes("source", "target")
	h.wantPhase("target", "clean")
}
