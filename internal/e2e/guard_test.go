package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/inuse"
	"xen-backup/internal/testkit"
)

// floor is what xb-snap leaves free of a small file system, in MiB.
const floor = 256

// fileSystem makes one of a GiB, whose files can share blocks if it is no ext4, and mounts
// it on dir.
func (h *host) fileSystem(kind, dir string) {
	h.Helper()
	needRoot(h.T)
	mkfs := map[string]string{"xfs": "mkfs.xfs -q -m reflink=1", "btrfs": "mkfs.btrfs -q",
		"ext4": "mkfs.ext4 -q -m 0"}[kind]
	h.must(fmt.Sprintf("truncate -s 1G %[1]s.fs && %[2]s %[1]s.fs >/dev/null 2>&1 && mkdir %[1]s && "+
		"mount -o loop %[1]s.fs %[1]s", dir, mkfs))
	h.Cleanup(func() { // somebody may still look into a loop device over one of its files
		eventually(h, "an unused file system", func() bool { return h.sh("umount "+dir).status == 0 })
	})
}

// free returns how many MiB of a file system are free.
func (h *host) free(dir string) int64 {
	h.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(h.path(dir), &fs); err != nil {
		h.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize / mib
}

// leave fills a file system until so many MiB are free.
func (h *host) leave(dir string, free int64) {
	h.Helper()
	for i := 0; h.free(dir) > free; i++ { // btrfs finds out what it needs for itself only then
		h.must(fmt.Sprintf("fallocate -l %dM %s/ballast%d && sync -f %[2]s", h.free(dir)-free, dir, i))
	}
}

// snapHost is a host whose snapshots a process owns.
type snapHost struct {
	*host
	owner *exec.Cmd
	guard *running
}

func newSnapHost(t *testing.T) *snapHost {
	h := &snapHost{host: newHost(t), owner: exec.Command("sleep", "3600")}
	if err := h.owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.owner.Process.Kill()
		h.owner.Wait()
	})
	return h
}

func (h *snapHost) startGuard() {
	h.guard = h.start(nil, fmt.Sprintf("xb-snap guard --owner %d", h.owner.Process.Pid), "tee -a guarded")
}

// awaitGuard waits until the guard has looked around once more.
func (h *snapHost) awaitGuard() {
	h.Helper()
	before := h.guard.slept(0)
	eventually(h.T, "the guard looks around", func() bool { return h.guard.slept(0) > before+50 })
}

// create takes snapshots and returns their names.
func (h *snapHost) create(sources ...string) []string {
	h.Helper()
	return strings.Fields(h.must(fmt.Sprintf("xb-snap create --size 60M --owner %d %s", h.owner.Process.Pid,
		strings.Join(sources, " "))))
}

// guest rewrites its image from end to end, again and again, at 100 MB/s, as a QEMU
// would with cache=none. No write may fail.
type guest struct {
	written atomic.Int64 // MiB
	stop    chan struct{}
	err     chan error
}

func startGuest(h *host, image string) *guest {
	h.Helper()
	f, err := os.OpenFile(h.path(image), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		h.Fatal(err)
	}
	g := &guest{stop: make(chan struct{}), err: make(chan error, 1)}
	go func() {
		defer f.Close()
		g.err <- g.write(f)
	}()
	return g
}

func (g *guest) write(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	block := blockdev.Buffer(mib)
	rand.NewChaCha8([32]byte{}).Read(block)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-g.stop:
			return nil
		case <-tick.C:
		}
		if _, err := f.WriteAt(block, g.written.Load()*mib%info.Size()); err != nil {
			return err
		}
		g.written.Add(1)
	}
}

// unharmed ends the guest after so many MiB; each write must have succeeded.
func (g *guest) unharmed(t *testing.T, after int64) {
	t.Helper()
	for seen := g.written.Load(); seen < after && len(g.err) == 0; seen = g.written.Load() {
		eventually(t, "the guest goes on writing", func() bool { return g.written.Load() > seen || len(g.err) > 0 })
	}
	close(g.stop)
	if err := <-g.err; err != nil {
		t.Errorf("the guest's write failed after %d MiB: %v", g.written.Load(), err)
	}
}

const givenUp = "given up: the guest needs the room"

// TestLongGuestFindsRoom has a guest rewrite its image during a slow copy, on a file system
// that has not room for all of it twice.
func TestLongGuestFindsRoom(t *testing.T) {
	for _, kind := range testkit.Some(t, 1, "xfs", "btrfs") {
		t.Run(kind, func(t *testing.T) {
			h := newSnapHost(t)
			h.fileSystem(kind, "srv")
			h.image("srv/disk", 400*mib, 1)
			h.image("srv/other", 8*mib, 2)
			h.image("target", 1*mib, 3)
			h.must("sync -f srv")
			h.leave("srv", floor+100)
			before := h.digest("target")

			h.startGuard()
			snaps := h.create("srv/other", "srv/disk")
			copying := h.start(nil, "xb-sig target", "xb-delta --bwlimit 1M "+snaps[1], "xb-patch target")
			eventually(t, "the copy has begun", func() bool { return exists(h.state + "/spool/*") })
			guest := startGuest(h.host, "srv/disk")
			if got := copying.wait()[1]; got != badSnapshot || !strings.Contains(copying.said(1), givenUp) {
				t.Errorf("xb-delta: status %d: %s", got, copying.said(1))
			}
			guest.unharmed(t, guest.written.Load()+450)
			// The one that waited for its turn came first.
			if got := string(h.read("guarded")); got != snaps[0]+"\n"+snaps[1]+"\n" {
				t.Errorf("given up: %q", got)
			}
			if said := h.guard.said(0); strings.Count(said, "given up: the file system of "+h.path("srv")+" has only ") != 2 {
				t.Errorf("the guard says %q", said)
			}
			for _, snap := range snaps {
				h.sh("xb-snap check "+snap).fails(t, badSnapshot, givenUp)
				h.sh("xb-delta --check --signature /dev/null "+snap).fails(t, badSnapshot, givenUp)
				h.sh("xb-sig "+snap+" | cat >sig; xb-sig "+snap+" >/dev/null").fails(t, badSnapshot, givenUp)
			}
			h.sync(snaps[0], "target", "").fails(t, badStream)
			if list := h.must("xb-snap list"); strings.Count(list, "\tgiven up\t") != 2 {
				t.Errorf("list: %s", list)
			}
			if h.digest("target") != before {
				t.Error("the target was written to")
			}
			h.must("xb-snap remove " + strings.Join(snaps, " "))

			// There is room again, and then there is none again.
			h.must("rm srv/ballast* && sync -f srv")
			snap := h.create("srv/other")[0]
			h.mustSync(snap, "target", "-q")
			h.must("xb-snap check " + snap)
			h.leave("srv", floor-20)
			eventually(t, "the guard gives up another one",
				func() bool { return h.sh("xb-snap check "+snap).status == badSnapshot })
			h.must("xb-snap remove " + snap)
			if left := h.must("ls -A srv"); strings.Contains(left, "xb-snap") {
				t.Errorf("left: %s", left)
			}
			h.guard.signal(0, syscall.SIGTERM)
			if got := h.guard.wait()[0]; got != 128+int(syscall.SIGTERM) {
				t.Errorf("the guard ended with %d: %s", got, h.guard.said(0))
			}
		})
	}
}

// TestTwoStores has one of two file systems run full: only the snapshots there go. It
// kills the guard before that: the next one has to know everything.
func TestTwoStores(t *testing.T) {
	h := newSnapHost(t)
	h.fileSystem("xfs", "full")
	h.fileSystem("btrfs", "wide")
	h.image("full/disk", 8*mib, 1)
	h.image("wide/disk", 8*mib, 2)
	h.must("sync")
	h.startGuard()
	snaps := h.create("full/disk", "wide/disk")
	kept := strings.Fields(h.must("xb-snap create --owner none wide/disk full/disk"))
	leftover := strings.TrimSpace(h.must("sleep 3600 & xb-snap create --owner $! full/disk; kill $!"))
	h.guard.signal(0, syscall.SIGKILL)
	h.guard.wait()
	h.startGuard()
	h.leave("full", floor-10)
	// None of them helps, but nobody knows before. What nobody misses goes first.
	eventually(t, "the guard gives up what is there", func() bool {
		return h.sh("xb-snap check "+snaps[0]).status == badSnapshot && h.sh("xb-snap check "+kept[1]).status == badSnapshot
	})
	if got := string(h.read("guarded")); got != leftover+"\n"+snaps[0]+"\n"+kept[1]+"\n" {
		t.Errorf("given up: %q", got)
	}
	h.must("xb-snap check " + snaps[1] + " && xb-snap check " + kept[0])
	h.sh("xb-snap create full/disk").fails(t, cantCreate, "the file system of "+h.path("full")+" has only 24", "--size")
}

// TestNextDisk has a snapshot follow upon another one in the same file system, as the
// DomUs of a run do.
func TestNextDisk(t *testing.T) {
	h := newSnapHost(t)
	h.fileSystem("xfs", "srv")
	h.image("srv/disk", 8*mib, 1)
	h.startGuard()
	first := h.create("srv/disk")[0]
	h.awaitGuard()
	second := h.create("srv/disk")[0]
	h.must("xb-snap remove " + first)
	h.leave("srv", floor-10)
	eventually(t, "the guard gives up the second one",
		func() bool { return h.sh("xb-snap check "+second).status == badSnapshot })
	if said := h.guard.said(0); strings.Count(said, "\n") != 1 {
		t.Errorf("the guard says %q", said)
	}
}

// slept returns how often a stage has gone to sleep.
func (r *running) slept(stage int) (n int) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.stages[stage].Process.Pid))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		_, text, _ = bytes.Cut(text, []byte("\nvoluntary_ctxt_switches:"))
		var times int
		fmt.Sscan(string(text), &times)
		n += times
	}
	return n
}

// TestOwnerKilled kills the run. Its readers may go on, but nobody would watch.
func TestOwnerKilled(t *testing.T) {
	h := newSnapHost(t)
	h.fileSystem("xfs", "srv")
	h.image("srv/disk", 8*mib, 1)
	h.must("sync -f srv && : >empty && xb-sig empty >sig")
	h.startGuard()
	others := h.must("xb-snap create --owner none srv/disk")
	snap := h.create("srv/disk")[0]
	in, out := pipeIn(t)
	reader := h.start(in, "xb-delta "+snap)
	h.awaitGuard() // it does not begin where there is no owner
	h.owner.Process.Kill()
	h.owner.Wait()
	if got := h.guard.wait()[0]; got != 0 || !strings.Contains(h.guard.said(0), "its owner is gone") {
		t.Errorf("the guard ended with %d: %s", got, h.guard.said(0))
	}
	out.Write(h.read("sig"))
	out.Close()
	if got := reader.wait()[0]; got != badSnapshot {
		t.Errorf("xb-delta: status %d: %s", got, reader.said(0))
	}
	if got := h.must("ls -A srv/.*.xb-snap-*"); "\n"+got != "\n"+h.relative(others) {
		t.Errorf("left: %q", got)
	}
}

// relative shortens paths to what they are called in the host's directory.
func (h *host) relative(paths string) string { return strings.ReplaceAll(paths, h.dir+"/", "") }

// TestNoEndAfterGivingUp takes the snapshot away at every moment of a reading: whether
// the rest of it reads as nothing, as a hole, or has been read already.
func TestNoEndAfterGivingUp(t *testing.T) {
	h := newSnapHost(t)
	h.fileSystem("xfs", "srv")
	h.image("srv/disk", 4*mib, 1)
	h.must("truncate -s 64M srv/disk && sync -f srv && cp srv/disk basis && " +
		"printf x | dd of=basis bs=1 conv=notrunc status=none && xb-sig basis >sig")
	h.must("xb-sig srv/disk >sig.same")
	for _, signature := range []string{"sig", "sig.same"} {
		sig := h.read(signature)
		for _, at := range []int{0, 1, 64, len(sig) / 2, len(sig) - 60, len(sig) - 1} {
			snap := h.create("srv/disk")[0]
			in, out := pipeIn(t)
			reader := h.start(in, "xb-delta "+snap, "tee delta")
			out.Write(sig[:at])
			eventually(t, "the snapshot is open", func() bool {
				open, err := inuse.IsOpen(snap)
				return open && err == nil
			})
			eventually(t, "all of the signature is read", func() bool {
				n, err := unix.IoctlGetInt(int(out.Fd()), unix.TIOCINQ)
				return n == 0 && err == nil
			})
			f, err := os.OpenFile(snap, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := blockdev.Empty(f); err != nil {
				t.Fatal(err)
			}
			f.Close()
			out.Write(sig[at:])
			out.Close()
			if got := reader.wait()[0]; got != badSnapshot || !strings.Contains(reader.said(0), givenUp) {
				t.Errorf("%s cut at %d of %d: status %d: %s", signature, at, len(sig), got, reader.said(0))
			}
			h.sh("xb-delta --info delta").fails(t, badStream)
			h.must("xb-snap remove " + snap)
		}
	}
}
