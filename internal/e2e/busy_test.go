package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestLock runs a second xb-patch on a target, and an xb-sig.
func TestLock(t *testing.T) {
	h := twoImages(t)
	in, out := pipeIn(t)
	first := h.start(in, "xb-patch target")
	eventually(t, "a spool", func() bool { return exists(h.part()) })
	check := h.untouched("target")
	h.must("ln -s target link && ln target name")
	for _, command := range []string{"xb-patch target <delta", "xb-patch link <delta", "xb-patch --recover target",
		"xb-patch --abandon-apply target", "xb-patch --in-place target <delta"} {
		h.sh(command).fails(t, busy, "another xb-patch")
	}
	h.must("rm link name")
	check()
	h.must("xb-sig target >/dev/null && xb-patch --state target >/dev/null")
	out.Close()
	if status := first.wait()[0]; status != badStream {
		t.Errorf("the first xb-patch ends with %d", status)
	}
	h.must("xb-patch -q target <delta")
}

// inUse demands that every way to write to the target is refused, and that the
// user is named.
func (h *host) inUse(target, who string) {
	h.Helper()
	check := h.untouched(target)
	h.refusedAsUsed(target, who)
	check()
}

func (h *host) refusedAsUsed(target, who string) {
	h.Helper()
	h.must("cp source ../notes/source && truncate -s 1M ../notes/source")
	for _, how := range []string{"", "--in-place", "--dry-run"} {
		h.sync("../notes/source", target, how).fails(h, busy, "in use", who)
	}
}

func TestMounted(t *testing.T) {
	h := newHost(t)
	h.image("source", 8*mib, 1)
	h.must("truncate -s 8M disk && mkfs.ext4 -q disk && mkdir mnt")
	target := h.loop("disk")
	h.must("mount -o ro " + target + " mnt")
	defer h.must("umount mnt")
	h.inUse(target, "mounted on "+h.path("mnt"))
}

func TestSwap(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.must("dd if=/dev/zero of=disk bs=1M count=1 status=none && chmod 600 disk")
	target := h.loop("disk")
	if r := h.sh("mkswap -q " + target + " && swapon " + target); r.status != 0 {
		t.Skip("no swapon here: " + r.err)
	}
	defer h.must("swapoff " + target)
	h.refusedAsUsed(target, "swap on "+target)
	// what is behind the first page the kernel may have written
	if header := h.must("head -c 4096 " + target + " | tail -c 10"); header != "SWAPSPACE2" {
		t.Errorf("where a swap area has its signature stands %q now", header)
	}
}

// TestBackingFile has the target used through a loop device.
func TestBackingFile(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	dev := h.loop("target")
	h.inUse("target", "backs "+dev)
}

// TestOpenElsewhere has a process with the target open for writing.
func TestOpenElsewhere(t *testing.T) {
	for _, kind := range []string{"file", "loop device"} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.image("source", mib, 1)
			h.image("target", mib, 2)
			target := "target"
			if kind != "file" {
				target = h.loop("target")
			}
			user := exec.Command("sh", "-c", "exec sleep 100 9<>"+target)
			user.Dir = h.dir
			if err := user.Start(); err != nil {
				t.Fatal(err)
			}
			defer user.Wait()
			defer user.Process.Kill()
			who := fmt.Sprintf("process %d (sleep) has it open", user.Process.Pid)
			eventually(t, who, func() bool {
				r := h.sh(fmt.Sprintf("ls -l /proc/%d/fd", user.Process.Pid)) // it may fail while sh becomes sleep
				return strings.Contains(r.out, target)
			})
			check := h.untouched("target")
			h.sync("source", target, "").fails(t, busy, "in use", who)
			check()
		})
	}
}

// TestUsedMeanwhile has somebody begin to use the target while the delta arrives,
// one that changes it and one that does not.
func TestUsedMeanwhile(t *testing.T) {
	h := twoImages(t)
	h.must("xb-sig target | xb-delta target >same")
	for _, name := range []string{"delta", "same"} {
		check := h.untouched("target")
		delta := h.read(name)
		in, out := pipeIn(t)
		r := h.start(in, "xb-patch -q target")
		eventually(t, "a spool", func() bool { return exists(h.part()) })
		dev := h.loop("target")
		if _, err := out.Write(delta); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if status := r.wait()[0]; status != busy || !strings.Contains(r.said(0), "backs "+dev) {
			t.Errorf("%s: status %d: %s", name, status, r.said(0))
		}
		h.must("losetup --detach " + dev)
		check()
	}
}

// TestLockFileRemoved: somebody clears the state away while a delta arrives. The next run
// would find no lock, so this one must not write.
func TestLockFileRemoved(t *testing.T) {
	for _, options := range []string{"", "--in-place", "--create"} {
		t.Run(options, func(t *testing.T) {
			h := newHost(t)
			h.image("source", 3*mib, 1)
			h.must("xb-sig --missing-ok target >sig && xb-delta --level 0 source <sig >delta")
			if options != "--create" {
				h.image("target", 3*mib, 2)
				h.must("xb-sig target >sig && xb-delta --level 0 source <sig >delta && cp target before")
			}
			delta, err := os.ReadFile(h.path("delta"))
			if err != nil {
				t.Fatal(err)
			}
			patch := h.talk(nil, "xb-patch "+options+" target")
			patch.in.Write(delta[:100]) // the header, and less than a frame
			eventually(t, "the lock", func() bool { return exists(h.state + "/*.lock") })
			h.must("rm " + h.state + "/*.lock")
			patch.in.Write(delta[100:])
			patch.in.Close()
			if said := patch.end(busy); !strings.Contains(said, "removed or replaced") {
				t.Errorf("it says %q", said)
			}
			if options != "--create" {
				h.sameBytes("before", "target")
				h.wantPhase("target", "seen")
			} else if exists(h.path("target")) {
				t.Error("it has made the target")
			}
		})
	}
}
