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

// farAddresses are those of the target, by the link that can be cut and by the other one.
var farAddresses = [2]string{"192.0.2.2", "198.51.100.2"}

// twoLinks gives the source and the target networks of their own, joined by two links.
func (h *host) twoLinks() {
	h.Helper()
	needRoot(h.T)
	near, nearPID := h.network()
	far, farPID := h.network()
	h.near, h.far = near, far
	for i, address := range farAddresses {
		cable := fmt.Sprintf("cable%d", i)
		h.must(fmt.Sprintf("ip link add %s netns %d type veth peer name %[1]s netns %[3]d", cable, nearPID, farPID))
		h.must(fmt.Sprintf("%s ip address add %s/30 dev %s && %[1]s ip link set %[3]s up", far, address, cable))
		h.must(fmt.Sprintf("%s ip address add %s1/30 dev %s && %[1]s ip link set %[3]s up", near,
			strings.TrimSuffix(address, "2"), cable))
	}
	// A source that gives up shall be gone in seconds.
	h.must(near + " sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries'")
}

// network returns what runs a command in a network of its own, and a process in it.
func (h *host) network() (run string, pid int) {
	h.Helper()
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
	return "nsenter --net=" + ns, holder.Process.Pid
}

// link cuts the first link, or mends it.
func (h *host) link(state string) {
	h.Helper()
	h.must(h.near + " ip link set cable0 " + state)
}

// cutRun starts a copy over ssh and cuts the link in its middle, for so long that the
// source gives up. It returns the number of the xb-patch that is left over there.
func (h *host) cutRun(ssh, options, target string) (pid string) {
	h.Helper()
	patch, pid := h.halfRun(ssh, options, target)
	h.link("down")
	patch.Process.Kill()
	patch.Wait()
	const finWait1 = " 04 " // it still has bytes to say, and a FIN
	eventually(h, "the end of the source's connection", func() bool {
		return !strings.Contains(h.must(h.near+" cat /proc/net/tcp"), finWait1)
	})
	return pid
}

// halfRun starts a copy over ssh, and goes on when half of it is there.
func (h *host) halfRun(ssh, options, target string) (patch *talking, pid string) {
	h.Helper()
	patch = h.talk(nil, ssh+" xb-patch "+options+" "+h.path(target))
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
	_, about := h.lockOf(target)
	return patch, fmt.Sprintf("%.0f", about["pid"])
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

// TestLongLinkCutHeartbeat: sshd finds out that its peer is gone only when it has something to
// send to it.
func TestLongLinkCutHeartbeat(t *testing.T) {
	h := newHost(t)
	h.twoLinks()
	h.must(h.far + " sh -c 'echo 3 >/proc/sys/net/ipv4/tcp_retries2'") // it waits seconds, and not a quarter of an hour
	ssh := h.startSSHD("")
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.must("xb-sig target >sig && xb-delta --level 0 source <sig >delta")
	pid := h.cutRun(ssh, "--peer dom0a --heartbeat", "target")
	eventually(t, "the end of the session", func() bool { return !alive(pid) })
	h.must("xb-patch target <delta")
	h.sameBytes("source", "target")
}

// TestLongLinkCutLock: what the cut left over there has the lock for as long as sshd lets it
// live. The next run says so, and ends it when it certainly is dead.
func TestLongLinkCutLock(t *testing.T) {
	h := newHost(t)
	h.twoLinks()
	ssh := h.startSSHD("")
	otherway := strings.TrimSuffix(ssh, "standby") + "otherway"
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.must("xb-sig target >sig && xb-delta --level 0 source <sig >delta")
	const run = "--heartbeat --peer dom0a --disk domu1/xvda "
	again := func(ssh, run string) result { return h.sh(ssh + " xb-patch " + run + h.path("target") + " <delta") }

	// One that gets nothing for seven minutes, as in a scan that finds nothing, is alive.
	half, pid := h.halfRun(ssh, run, "target")
	h.quietSince("target", 7*time.Minute)
	again(otherway, run).fails(t, busy, "kill "+pid)
	half.in.Close()
	half.end(badStream)

	pid = h.cutRun(ssh, run, "target")
	again(otherway, run).
		fails(t, busy, "process "+pid+", from dom0a, of domu1/xvda, since 20", "the last byte of which came")
	h.quietSince("target", 7*time.Minute)
	again(otherway, "--peer dom0c --disk domu1/xvda ").fails(t, busy, "kill "+pid)
	again(otherway, "--peer dom0a --disk domu1/xvdb ").fails(t, busy, "kill "+pid)
	again("", run).fails(t, busy, "kill "+pid)
	if !alive(pid) {
		t.Fatal("somebody has ended it")
	}
	var r result
	eventually(t, "that its session is known to be dead", func() bool {
		r = again(otherway, run)
		return r.status != busy
	})
	r.fails(t, 0, "ended process "+pid)
	eventually(t, "that sshd buries it", func() bool { return !alive(pid) })
	h.sameBytes("source", "target")
	h.wantPhase("target", "clean")
}
