package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/base"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/testkit"
)

// tracked is a disk of which a standby is kept by what the storage says has changed.
type tracked struct {
	*host
	target string
	snap   string // the last snapshot that the standby was made equal to
	image  string // as one word
}

// newTracked makes a disk of which the first copy is done, and where nothing is said about that.
func newTracked(t *testing.T, kind string, size int64) *tracked {
	h := &tracked{host: newHost(t), target: "target"}
	h.fileSystem(kind, "fs")
	h.sparse("fs/disk", size, 1)
	h.snap = h.take()
	h.pipe("xb-sig --missing-ok target", "xb-delta --summary sent "+h.snap,
		"xb-patch --auto --peer dom0a --disk domu1/xvda target").silent(t)
	h.keep(h.snap)
	return h
}

func (h *tracked) take() string {
	h.Helper()
	return strings.TrimSpace(h.must("xb-snap create --owner none fs/disk"))
}

// keep makes a snapshot the base, by what the summary "sent" says of it. The record is in the file "base".
func (h *tracked) keep(snap string) {
	h.Helper()
	s := h.summary("sent")
	h.image = fmt.Sprintf("%s:%d:%d:%s", s.Hash, s.BlockSize, s.ImageSize, s.Digest)
	h.record("base", snap, h.image)
	if snap != h.snap {
		h.must("xb-snap remove " + h.snap)
	}
	h.snap = snap
}

func (h *tracked) record(name, snap, image string) {
	h.Helper()
	identity, err := snapshot.Identity(snap)
	if err != nil {
		h.Fatal(err)
	}
	text, err := json.Marshal(base.Record{Peer: "dom0b", Disk: "domu1/xvda", Source: h.path("fs/disk"), Origin: h.path("fs/disk"),
		Snapshot: snap, Identity: identity, Status: base.Sent, Image: image, Taken: time.Now()})
	if err != nil {
		h.Fatal(err)
	}
	h.write(name, append(text, '\n'))
}

// stages are the pipeline of a tracked run.
func (h *tracked) stages(snap, deltaOptions, patchOptions string) []string {
	return []string{"xb-snap changes --since " + h.snap + " " + snap,
		"xb-delta --since " + h.snap + " --basis base --summary sent " + deltaOptions + " " + snap,
		"xb-patch --auto --peer dom0a --disk domu1/xvda --summary applied " + patchOptions + " " + h.target}
}

// run brings the standby up to date. It must become the snapshot, and be recorded as what a full reading of it finds.
func (h *tracked) run(deltaOptions string) {
	h.Helper()
	snap := h.take()
	h.pipe(h.stages(snap, deltaOptions, "")...).silent(h)
	h.sameBytes(snap, "target")
	h.must("xb-sig --summary found " + snap + " >/dev/null")
	found, sent, applied := h.summary("found"), h.summary("sent"), h.summary("applied")
	var state struct{ Phase, Digest string }
	decode(h, h.must("xb-patch --state target"), &state)
	if found.Digest != sent.Digest || found.Digest != applied.Digest || found.Digest != state.Digest || state.Phase != "clean" {
		h.Errorf("a full reading finds %s, it was sent as %s, applied as %s and is remembered as %v", found.Digest, sent.Digest,
			applied.Digest, state)
	}
	if !sent.Tracked || found.Tracked {
		h.Error("the summary does not tell what was tracked")
	}
	h.keep(snap)
}

// TestLongTracked sends what was changed, in each of the ways in which a guest or an administrator may change it.
func TestLongTracked(t *testing.T) {
	for _, kind := range testkit.Some(t, 1, "xfs", "btrfs") {
		t.Run(kind, func(t *testing.T) {
			h := newTracked(t, kind, 5*mib+33)
			f, err := os.OpenFile(h.path("fs/disk"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			random := rand.New(rand.NewPCG(1, 3))
			for i, options := range []string{"", "--level 0", "--background", "--read-limit 1G --bwlimit 1G", "--heartbeat --extents -"} {
				h.change("fs/disk", 5, uint64(i))
				h.run(options)
			}
			h.run("") // nothing has changed
			if s := h.summary("sent"); s.BytesRead != 0 || s.BlocksChanged != 0 {
				t.Errorf("nothing has changed: %+v", s)
			}
			for _, size := range []int64{7*mib + 1, 7 * mib, 3*mib + 4095, 3*mib + 4096, 4097, 4096, 4095, 1, mib, mib + 4096, 40 * mib} {
				if err := f.Truncate(size); err != nil {
					t.Fatal(err)
				}
				if random.IntN(2) == 0 {
					if _, err := f.WriteAt(randomBytes(1, uint64(size)), random.Int64N(size)); err != nil {
						t.Fatal(err)
					}
				}
				h.run("")
			}
			for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, 0} {
				h.change("fs/disk", 50, uint64(mode))
				if err := unix.Fallocate(int(f.Fd()), mode, 5000, 30*mib); err != nil && err != syscall.ENOTSUP {
					t.Fatal(err)
				}
				h.run("")
			}
		})
	}
}

// TestLongTrackedRefused demands that nothing is sent which the target would take, whatever is wrong.
func TestLongTrackedRefused(t *testing.T) {
	h := newTracked(t, "xfs", 3*mib)
	h.change("fs/disk", 5, 1)
	older := h.take() // not what the target has
	h.change("fs/disk", 5, 2)
	snap := h.take()
	h.must("xb-snap changes --since " + h.snap + " " + snap + " >list")
	was, state := h.digest("target"), h.must("xb-patch --state target")
	refused := func(what string, status int, text, command string) {
		t.Helper()
		r := h.pipe(command, "xb-patch --auto --peer dom0a --disk domu1/xvda target")
		if r.statuses[0] != status || !strings.Contains(r.err, text) || r.status != badStream {
			t.Errorf("%s: statuses %d, want %d and %d: %s", what, r.statuses, status, badStream, r.err)
		}
		if h.digest("target") != was || h.must("xb-patch --state target") != state {
			t.Errorf("%s: the target was changed", what)
		}
	}
	command := func(since, record, list string) string {
		return fmt.Sprintf("xb-delta --since %s --basis %s --extents %s %s", since, record, list, snap)
	}

	// The list, cut after every line, and in the last one.
	lines := strings.SplitAfter(strings.TrimSuffix(string(h.read("list")), "\n"), "\n")
	for n := range lines {
		h.write("cut", []byte(strings.Join(lines[:n], "")))
		refused(fmt.Sprintf("%d lines", n), badStream, "", command(h.snap, "base", "cut"))
	}
	h.must("head -c -1 list >cut")
	refused("without its last byte", badStream, "cut", command(h.snap, "base", "cut"))
	for text, word := range map[string]string{
		"4096 4096\n0 4096\nend 2 8192\n":  "before the end",
		"0 4096\n4095 4096\nend 2 8192\n":  "before the end",
		"3145728 1\nend 1 1\n":             "beyond both images",
		"0 4096\nend 1 4097\n":             "end line",
		"0 4096\nend 2 4096\n":             "end line",
		"0 4096\nend 1 4096\nend 1 4096\n": "more",
		"Welcome to dom0a\nend 1 4096\n":   "Welcome",
	} {
		h.write("bad", []byte(text))
		refused(text, badStream, word, command(h.snap, "base", "bad"))
	}
	refused("no such list", noInput, "nowhere", command(h.snap, "base", "nowhere"))

	// The base.
	refused("another snapshot", notBasis, "not the snapshot", command(older, "base", "list"))
	h.record("other", older, h.image)
	refused("another record", notBasis, "not the snapshot", command(h.snap, "other", "list"))
	h.must(`sed 's/:3145728:/:3145727:/' base >other`)
	refused("another size", notBasis, "not the snapshot", command(h.snap, "other", "list"))
	h.must("cp --reflink=always " + older + " fs/copy && chmod 400 fs/copy && mv " + h.snap + " fs/kept && mv fs/copy " + h.snap)
	refused("a stale base with the right name", notBasis, "not the snapshot", command(h.snap, "base", "list"))
	h.must("mv fs/kept " + h.snap)
	without := func(field string) string {
		return regexp.MustCompile(`"`+field+`":"[^"]*"`).ReplaceAllString(string(h.read("base")), `"`+field+`":""`)
	}
	for what, text := range map[string]string{"empty": "", "no JSON": "sent", "two records": `{"snapshot":"a"}{"snapshot":"b"}`,
		"no identity": without("identity"), "no image": without("image"), "another status": without("status")} {
		h.write("other", []byte(text))
		refused(what, badStream, "not the record of one base", command(h.snap, "other", "list"))
	}
	refused("no record", noInput, "nowhere", command(h.snap, "nowhere", "list"))
	refused("no base", noInput, "nowhere", command("nowhere", "base", "list"))
	refused("the same twice", 64, "same snapshot", fmt.Sprintf("xb-delta --since %s --basis base --extents list %[1]s", h.snap))

	// Renamed and back it has another time, and is known to be another one; so it comes last.
	h.record("base", h.snap, h.image)
	h.must(command(h.snap, "base", "list") + " >delta && chmod 600 " + h.snap + " && printf x | dd of=" + h.snap +
		" conv=notrunc,fsync status=none && chmod 400 " + h.snap)
	refused("written to", notBasis, "not what it was", command(h.snap, "base", "list"))
	h.must("chmod 600 " + h.snap)
	refused("can be written to", badSnapshot, "can be written to", command(h.snap, "base", "list"))
	h.must("chmod 400 " + h.snap + " && truncate -s 0 " + h.snap)
	refused("given up", badSnapshot, "given up", command(h.snap, "base", "list"))

	// What had been sent before is as good as it was, but not for a target that was written to.
	h.must("cp target kept && printf x | dd of=target bs=1 seek=100 conv=notrunc status=none")
	h.sh("xb-patch --auto --peer dom0a --disk domu1/xvda target <delta").fails(t, notBasis)
	h.must("cp kept target")
	h.sh("xb-patch --auto --peer dom0a --disk domu1/xvda target <delta").silent(t)
	h.sameBytes(snap, "target")
}

// TestKeepAnother has the image of one snapshot be kept as that of another one: what has changed between the two would
// never be sent.
func TestKeepAnother(t *testing.T) {
	h := newTracked(t, "xfs", 3*mib)
	take := func() string {
		return strings.TrimSpace(h.must("xb-snap create --owner " + fmt.Sprint(os.Getpid()) + " fs/disk"))
	}
	older := take()
	h.pipe("xb-sig target", "xb-delta --summary sent "+older, "xb-patch --auto --peer dom0a --disk domu1/xvda target").silent(t)
	h.change("fs/disk", 5, 1)
	newer := take()
	keep := "xb-snap keep --for dom0b --disk domu1/xvda --summary sent --taken 2026-11-26T23:47:28Z "
	h.sh(keep+newer).fails(t, badStream, "what was sent was read from "+older+": it is not of "+newer)
	h.must("! xb-snap base --peer dom0b fs/disk | grep .")
	h.sh(keep + older).silent(t)
	if r := h.must("xb-snap base --peer dom0b fs/disk"); !strings.Contains(r, older) {
		t.Errorf("the base is %s", r)
	}
}

// TestLongTrackedSpoiled changes one of the two snapshots while it is read, or after that: no delta of them is complete.
func TestLongTrackedSpoiled(t *testing.T) {
	for what, spoil := range map[string]string{
		"written to": "chmod 600 %[1]s && printf x | dd of=%[1]s conv=notrunc status=none && chmod 400 %[1]s",
		"given up":   "truncate -s 0 %s",
		"removed":    "rm -f %s",
		"replaced":   "cp %[1]s fs/other && chmod 400 fs/other && mv -f fs/other %[1]s",
	} {
		for i, which := range []string{"the base", "the new one"} {
			t.Run(what+", "+which, func(t *testing.T) {
				h := newTracked(t, "xfs", 3*mib)
				h.change("fs/disk", 5, 1)
				snap := h.take()
				h.must("xb-snap changes --since " + h.snap + " " + snap + " >list")
				in, out := pipeIn(t)
				r := h.start(in, h.stages(snap, "", "")[1], "xb-patch --auto --peer dom0a --disk domu1/xvda target")
				list := h.read("list")
				last := strings.LastIndex(string(list), "end ")
				if _, err := out.Write(list[:last]); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the list is read, and the base known for what it is", func() bool {
					left, err := unix.IoctlGetInt(int(out.Fd()), unix.TIOCINQ)
					return err == nil && left == 0
				})
				h.must(fmt.Sprintf(spoil, []string{h.snap, snap}[i]))
				out.Write(list[last:])
				out.Close()
				if statuses := r.wait(); statuses[0] != badSnapshot || statuses[1] != badStream {
					if !(i == 1 && (what == "removed" || what == "replaced") && statuses[0] == 0 && statuses[1] == 0) {
						t.Errorf("statuses %d: %s%s", statuses, r.said(0), r.said(1))
					}
				}
			})
		}
	}
}

// TestTrackedMissed leaves an extent out of the list. That is found by no sum of the delta, and not by the target either,
// which then is remembered as what it is not; it is found where the standby is compared in full.
func TestTrackedMissed(t *testing.T) {
	h := newTracked(t, "xfs", 3*mib)
	h.must("printf x | dd of=fs/disk bs=1 seek=1000000 conv=notrunc status=none; printf x | dd of=fs/disk bs=1 seek=2000000 conv=notrunc,fsync status=none")
	snap := h.take()
	h.must("xb-snap changes --since " + h.snap + " " + snap + " >list; sed -n 1p list >missing; printf 'end 1 4096\n' >>missing")
	stages := h.stages(snap, "--extents missing", "")
	h.pipe(stages[1], stages[2]).silent(t)
	if h.sh("cmp -s "+snap+" target").status == 0 {
		t.Fatal("nothing was missed")
	}
	h.wantPhase("target", "clean")
	r := h.pipe("xb-sig target", "xb-delta --check "+snap)
	if r.status != 1 || !strings.HasPrefix(r.out, "blocks 768 changed 1 bytes 4096") {
		t.Errorf("the full comparison: status %d, %s%s", r.status, r.out, r.err)
	}
}

// TestMemoryTracked sends what has changed in 16 TiB by a list of a million extents, and in 256 MiB of random data.
func TestMemoryTracked(t *testing.T) {
	h := &tracked{host: newHost(t)}
	h.fileSystem("xfs", "fs")
	env := h.env
	for _, c := range testkit.Some(t, 1, []struct {
		size, extents         int64
		cores, block, options string
	}{{16 << 40, 1_000_000, "2", "4K", ""}, {256 * mib, 4096, "16", "4K", "--level 19"}, {256 * mib, 4096, "16", "1M", "--background"}}...) {
		every := c.size / c.extents &^ 4095
		h.must(fmt.Sprintf("rm -rf fs/* fs/.disk* %s; truncate -s %d fs/disk fs/target", h.state, c.size))
		f, err := os.OpenFile(h.path("fs/disk"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		scatter := func(from, to int64, seed uint64) {
			for i := from; i < to; i++ {
				if _, err := f.WriteAt(randomBytes(64*kib, seed+uint64(i)), c.extents/1000*i*every); err != nil {
					t.Fatal(err)
				}
			}
		}
		scatter(0, 600, 1)
		h.snap = h.take()
		h.env = append(env[:len(env):len(env)], "GOMAXPROCS="+c.cores)
		h.pipe("xb-sig -b "+c.block+" fs/target", "xb-delta --summary sent "+h.snap, "xb-patch -q fs/target").silent(t)
		h.keep(h.snap)
		scatter(400, 1000, 2)
		snap := h.take()
		list := []byte{}
		for i := range c.extents {
			list = fmt.Appendf(list, "%d %d\n", every*i, 64*kib)
		}
		h.write("list", fmt.Appendf(list, "end %d %d\n", c.extents, c.extents*64*kib))
		h.measured("xb-delta --since "+h.snap+" --basis base --extents list --summary sent "+c.options+" "+snap, "xb-patch fs/target").silent(t)
		h.must("xb-sig -b " + c.block + " --summary found " + snap + " >/dev/null; xb-sig -b " + c.block + " --summary there fs/target >/dev/null")
		if found, sent := h.summary("found"), h.summary("sent"); found.Digest != sent.Digest || found.Digest != h.summary("there").Digest {
			t.Errorf("sent %v, found %v", sent, found)
		}
	}
}
