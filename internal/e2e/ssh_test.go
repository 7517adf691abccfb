package e2e

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSSH is what the project is for.
func TestSSH(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	for i, options := range []string{"", "-b 1M", "--hash sha256"} {
		source, target := fmt.Sprintf("source%d", i), fmt.Sprintf("target%d", i)
		h.sparse(source, 6*mib+123, uint64(i))
		h.sparse(target, 5*mib+4095, uint64(i+10)) // grows
		first := h.overSSH(ssh, source, target, options)
		first.fails(t, 0, "first contact")
		if strings.Count(first.err, "\n") != 1 || fmt.Sprint(first.statuses) != "[0 0 0]" {
			t.Errorf("statuses %d, want [0 0 0] and one warning:\n%s", first.statuses, first.err)
		}
		h.sameBytes(source, target)
		h.change(source, 6, 5)
		h.overSSH(ssh, source, target, options).silent(t)
		h.sameBytes(source, target)
		h.must("truncate -s 3000001 " + source) // shrinks
		h.overSSH(ssh, source, target, options).silent(t)
		h.sameBytes(source, target)
	}
}

func TestLongSSHLoopDevices(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	h.sparse("source", 6*mib, 1)
	h.image("disk", 6*mib, 2)
	source, target := h.loop("source"), h.loop("disk")
	h.overSSH(ssh, source, target, "").fails(t, 0, "first contact")
	h.sameBytes(source, target)
	h.change("source", 6, 5)
	h.must("blockdev --flushbufs " + source)
	h.overSSH(ssh, source, target, "").silent(t)
	h.sameBytes(source, target)
}

// TestSSHPeer demands that the state remembers where the delta came from.
func TestSSHPeer(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	h.image("source", mib, 1)
	h.must("cp source target")
	h.overSSH(ssh, "source", "target", "").fails(t, 0)
	var record struct{ Phase, Peer string }
	decode(t, h.must("xb-patch --state target"), &record)
	if record.Phase != "clean" || record.Peer != "127.0.0.1" {
		t.Errorf("state %+v, want clean from 127.0.0.1", record)
	}
}

// TestSSHStatuses demands that a status on the other host arrives here.
func TestSSHStatuses(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	h.image("source", mib, 1)
	h.must("cp source target && xb-sig target >sig && xb-delta source <sig >delta")
	h.sh(ssh+" xb-sig --no-such-option").fails(t, 64, "no-such-option")
	h.sh(ssh+" xb-sig "+h.path("missing")).fails(t, noInput)
	h.sh(ssh+" xb-patch "+h.path("target")+" </dev/null").fails(t, badStream, "empty")
	h.sh(ssh+" xb-patch "+h.path("target")+" <sig").fails(t, notOurs, "signature")
	h.change("target", 1, 1)
	h.sh(ssh+" xb-patch "+h.path("target")+" <delta").fails(t, notBasis)
}

// TestDotfiles demands that the start-up files of the machine that runs the tests
// have no say in what they find.
func TestDotfiles(t *testing.T) {
	h := newHost(t)
	needRoot(t)
	// The thread's own mounts: it ends with the test, since it is never unlocked.
	// Whatever it starts has them, too.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	h.must(`mount --make-rprivate / && mount -t tmpfs home ~root && mkdir ~root/.ssh && cd ~root &&
		echo "echo a word >&2; : >` + h.path("read") +
		`; sleep 10" >.bashrc && cp .bashrc .bash_profile && cp .bashrc .ssh/rc &&
		echo 'RemoteCommand false' >.ssh/config`)
	ssh := h.startSSHD("")
	h.image("source", mib, 1)
	h.must("cp source target && xb-sig target >sig && cp sig ../notes/sig")
	h.sh(ssh + " xb-sig " + h.path("target") + " >sig").silent(t)
	h.sameBytes("sig", "../notes/sig")
	if exists(h.path("read")) {
		t.Error("a start-up file of root was read")
	}
}

// TestChattyShell has the login shell at the other end print something, which
// comes before the signature.
func TestChattyShell(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	check := h.untouched("target")
	chatty := h.startSSHD(`ForceCommand printf 'Welcome to dom0b!\nToday is cake day.\n'; eval "$SSH_ORIGINAL_COMMAND"`)
	quiet := h.startSSHD("")
	r := h.pipe(chatty+" xb-sig "+h.path("target"), "xb-delta source", quiet+" xb-patch "+h.path("target"))
	r.fails(t, badStream, "xb-delta: ", "login shell", "Welcome to dom0b!")
	if r.statuses[1] != notOurs {
		t.Errorf("xb-delta ends with %d, want %d", r.statuses[1], notOurs)
	}
	if strings.Contains(r.err, "cake") {
		t.Errorf("more than the first line is shown:\n%s", r.err)
	}
	// The noise of xb-patch's own end is not in its input, and does no harm.
	h.must("xb-sig target >../notes/sig && xb-delta source <../notes/sig >../notes/delta")
	check()
	h.sh("{ echo Welcome; cat ../notes/delta; } | "+quiet+" xb-patch "+h.path("target")).fails(t, notOurs, "Welcome")
	check()
}

// TestSSHCut ends the connections in the middle of the transfer.
func TestSSHCut(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	h.image("source", 2*mib, 1)
	h.image("target", 2*mib, 2)
	check := h.untouched("target")
	r := h.pipe(ssh+" xb-sig "+h.path("target"), "xb-delta --bwlimit 4M source", "head -c 1000000",
		ssh+" xb-patch "+h.path("target"))
	r.fails(t, badStream, "cut")
	check()
	h.overSSH(ssh, "source", "target", "").fails(t, 0)
	h.sameBytes("source", "target")
}
