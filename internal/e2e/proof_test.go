package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// readBytes returns how many bytes a process has read so far, past caches or not.
func readBytes(pid int) (n int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "rchar: "); ok {
			n, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return n
}

// during starts commands as one pipeline and stops the last one when at holds; it then does
// do, and lets it go on. Where it was over before, again makes all as it was, and it is tried
// again.
func (h *host) during(commands []string, at func(pid int) bool, do, again func()) (status int, said string) {
	h.Helper()
	for range 50 {
		r := h.start(nil, commands...)
		last := len(commands) - 1
		pid := r.stages[last].Process.Pid
		ended := make(chan []int, 1)
		go func() { ended <- r.wait() }()
		for caught := false; !caught; {
			select {
			case statuses := <-ended:
				ended <- statuses
				caught = true
			default:
				if caught = at(pid); !caught {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}
		if len(ended) == 0 {
			stand(h, pid)
		}
		if len(ended) == 0 && at(pid) {
			do()
			r.signal(last, syscall.SIGCONT)
			return (<-ended)[last], r.said(last)
		}
		r.signal(last, syscall.SIGCONT)
		<-ended
		again()
	}
	h.Fatalf("never caught in the act: %s", commands)
	return 0, ""
}

// scribble has another process write a few bytes to a file or device, and be gone.
func (h *host) scribble(target string, at int64) {
	h.Helper()
	h.must(fmt.Sprintf("printf 'twelve bytes' | dd of=%s bs=1 seek=%d conv=notrunc,fsync status=none", target, at))
}

// proofTarget is a file or loop device of 48 MiB that holds what the host's "target" is a
// copy of, and of which nothing is remembered.
func proofTarget(t *testing.T, kind string) (h *host, target string) {
	h = newHost(t)
	h.image("source", 48*mib, 1)
	h.must("cp source target && printf other | dd of=target bs=1 seek=40000000 conv=notrunc status=none && cp target disk")
	if kind == "file" {
		return h, "disk"
	}
	return h, h.loop("disk")
}

var kinds = []string{"file", "loop device"}

// between reports whether a process has read more than its own start needs, and less than all.
func between(from, to int64) func(pid int) bool {
	return func(pid int) bool { n := readBytes(pid); return n > from && n < to }
}

// TestWrittenWhileProved writes behind a reader that is proving the target: what it has read
// is in no image.
func TestWrittenWhileProved(t *testing.T) {
	for _, kind := range testkit.Some(t, 1, kinds...) {
		for _, options := range []string{"", "--in-place", "--dry-run", "unchanged"} {
			t.Run(kind+options, func(t *testing.T) {
				h, target := proofTarget(t, kind)
				source, patch := "source", "xb-patch -q "+options+" "+target
				if options == "unchanged" {
					source, patch = "target", "xb-patch -q "+target
				}
				h.must("xb-sig " + target + " >sig && xb-delta " + source + " <sig >delta && rm " + h.state + "/*.seen")
				again := func() {
					h.must("rm -rf " + h.state + " && dd if=target of=" + target + " conv=notrunc,fsync bs=1M status=none")
				}
				status, said := h.duringFile("delta", patch, between(16*mib, 40*mib), func() { h.scribble(target, 5) }, again)
				if status != busy || !strings.Contains(said, "somebody wrote to it") {
					t.Errorf("status %d: %s", status, said)
				}
				h.wantPhase(target, "none")
				h.scribble("target", 5)
				h.must("cmp target " + target)
				h.sh("xb-patch "+target+" <delta").fails(t, notBasis)
			})
		}
	}
}

// duringFile is during for one command that reads a file.
func (h *host) duringFile(file, command string, at func(pid int) bool, do, again func()) (status int, said string) {
	h.Helper()
	h.note(h.notes+"/command", "exec "+command+" <"+file+"\n")
	return h.during([]string{"sh " + h.notes + "/command"}, at, do, again)
}

// TestWrittenWhileRecovered does it to a recovery.
func TestWrittenWhileRecovered(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h, target := proofTarget(t, kind)
			h.must("dd if=/dev/urandom of=target bs=1M count=8 conv=notrunc status=none && dd if=target of=" + target +
				" bs=1M conv=notrunc,fsync status=none")
			h.must("xb-sig " + target + " | xb-delta --level 0 source >delta")
			h.killInApply(target, "delta")
			h.must("cp -a " + h.state + " ../notes/before && dd if=" + target + " of=mix bs=1M status=none")
			again := func() {
				h.must("rm -r " + h.state + " && cp -a ../notes/before " + h.state + " && dd if=mix of=" + target +
					" conv=notrunc,fsync bs=1M status=none")
			}
			status, said := h.during([]string{"xb-patch --recover " + target}, between(36*mib, 54*mib),
				func() { h.scribble(target, 20*mib) }, again)
			if status != busy || !strings.Contains(said, "somebody wrote to it") {
				t.Errorf("status %d: %s", status, said)
			}
			h.scribble("mix", 20*mib)
			h.must("cmp mix " + target)
			h.wantPhase(target, "applying")
			h.sh("xb-patch --recover "+target).fails(t, notBasis, "nothing was written")
		})
	}
}

// TestWrittenWhileApplied writes to the target while a delta is applied to it: where that
// writes nothing, and what is there already.
func TestWrittenWhileApplied(t *testing.T) {
	for _, kind := range testkit.Some(t, 1, kinds...) {
		for _, same := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s same %v", kind, same), func(t *testing.T) {
				h, target := proofTarget(t, kind)
				h.must("dd if=/dev/urandom of=target bs=1M count=40 conv=notrunc status=none && dd if=target of=" + target +
					" bs=1M conv=notrunc,fsync status=none")
				h.must("xb-sig " + target + " | xb-delta --level 0 source >delta && cp -a " + h.state + " ../notes/before")
				if same {
					h.scribble("source", 47*mib)
					h.scribble("target", 47*mib)
					h.scribble(target, 47*mib)
					h.must("xb-sig " + target + " | xb-delta --level 0 source >delta && rm -r ../notes/before && cp -a " + h.state +
						" ../notes/before")
				}
				again := func() {
					h.must("rm -r " + h.state + " && cp -a ../notes/before " + h.state + " && dd if=target of=" + target +
						" conv=notrunc,fsync bs=1M status=none")
				}
				again()
				status, said := h.duringFile("delta", "xb-patch -v "+target, func(int) bool { return h.applying() },
					func() { h.scribble(target, 47*mib) }, again)
				if same {
					if status != 0 || !strings.Contains(said, "reading all of it") {
						t.Errorf("status %d: %s", status, said)
					}
					h.must("cmp source " + target)
					h.wantPhase(target, "clean")
					h.sync("source", target, "").silent(t)
					return
				}
				if status != busy || !strings.Contains(said, "somebody wrote to it") ||
					!strings.Contains(said, "xb-patch --recover "+target) {
					t.Errorf("status %d: %s", status, said)
				}
				h.wantPhase(target, "applying")
				h.sh("xb-patch --recover "+target).fails(t, notBasis)
			})
		}
	}
}

// TestWrittenWhileCopiedInPlace does it to a first copy, to what was read back already.
func TestWrittenWhileCopiedInPlace(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h, target := proofTarget(t, kind)
			clean := func() {
				h.must("rm -rf " + h.state + " && dd if=/dev/zero of=" + target + " conv=notrunc,fsync bs=1M count=48 status=none")
			}
			clean()
			pipeline := []string{"xb-sig " + target, "xb-delta --level 0 source", "xb-patch --in-place " + target}
			// It reads the delta, of the size of the image, and what is there before it writes.
			status, said := h.during(pipeline, between(110*mib, 140*mib), func() { h.scribble(target, 5) }, clean)
			if status != busy || !strings.Contains(said, "somebody wrote to it") || !strings.Contains(said, "run it again") {
				t.Errorf("status %d: %s", status, said)
			}
			h.wantPhase(target, "incomplete")
			h.sync("source", target, "--in-place").silent(t)
			h.must("cmp source " + target)
		})
	}
}

// readsAll reports whether an unchanged delta makes xb-patch read all of the target.
func (h *host) readsAll(source, target string) bool {
	h.Helper()
	h.must("xb-sig " + target + " >sig; rm -f " + h.state + "/*.seen; xb-delta " + source + " <sig >same")
	r := h.sh("xb-patch -v " + target + " <same")
	r.fails(h, 0)
	return strings.Contains(r.err, "reading all of it")
}

// TestLongProvedOnce demands that what was proved is trusted the next time: that own writes are
// told from those of others, whatever they were, and that a full read is not the rule.
func TestLongProvedOnce(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.sparse("source", 5*mib+33, 1)
			h.image("disk", 6*mib, 2)
			target := "disk"
			if kind != "file" {
				target = h.loop("disk")
			}
			h.sync("source", target, "-q").silent(t)
			for i := range 3 {
				if h.readsAll("source", target) {
					t.Errorf("%d: all of it was read, although nobody has written", i)
				}
				h.change("source", 20, uint64(i))
				r := h.sync("source", target, "-v")
				r.fails(t, 0)
				if strings.Contains(r.err, "reading all of it") {
					t.Errorf("%d: %s", i, r.err)
				}
			}
			h.must("xb-sig " + target + " | xb-delta target >/dev/null 2>&1; rm -r " + h.state)
			if kind == "file" {
				h.must("truncate -s 4M disk")
			}
			h.sync("source", target, "--in-place").fails(t, 0)
			if h.readsAll("source", target) {
				t.Error("all of it was read after a first copy in place")
			}
			h.scribble(target, 70000)
			h.must("xb-sig " + target + " >sig; rm -f " + h.state + "/*.seen; xb-delta source <sig >delta")
			h.sh("xb-patch "+target+" <delta").fails(t, notBasis)
		})
	}
}

// TestNoWitness: where the kernel counts nothing, clean is recorded all the same, and the
// next run proves it anew.
func TestNoWitness(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib, 1)
	h.image("disk", 2*mib, 2)
	target := h.loop("disk")
	iostats := "/sys/block/" + filepath.Base(target) + "/queue/iostats"
	if r := h.sh("echo 0 >" + iostats); r.status != 0 {
		t.Skip(r.err)
	}
	defer h.must("echo 1 >" + iostats)
	h.sync("source", target, "-q").silent(t)
	h.wantPhase(target, "clean")
	for _, counts := range []string{"0", "1"} {
		h.must("echo " + counts + " >" + iostats)
		if !h.readsAll("source", target) {
			t.Errorf("iostats=%s: it was trusted without a witness", counts)
		}
	}
	if h.readsAll("source", target) {
		t.Error("the proof of the run before is not trusted")
	}
	h.change("source", 1, 3)
	h.sync("source", target, "--in-place").fails(t, notBasis)
	h.sync("source", target, "").silent(t)
}

// TestWrittenWhileSigned writes behind xb-sig: what it says it saw must not save xb-patch
// from looking itself.
func TestWrittenWhileSigned(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h, target := proofTarget(t, kind)
			again := func() { h.must("rm " + h.state + "/*.seen") }
			h.note(h.notes+"/command", "exec xb-sig "+target+" >sig\n")
			status, said := h.during([]string{"sh " + h.notes + "/command"}, between(16*mib, 40*mib),
				func() { h.scribble(target, 5) }, again)
			if status != 0 {
				t.Errorf("status %d: %s", status, said)
			}
			h.wantPhase(target, "none")
			h.must("xb-delta source <sig >delta")
			h.sh("xb-patch "+target+" <delta").fails(t, notBasis)
		})
	}
}
