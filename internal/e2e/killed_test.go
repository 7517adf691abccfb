package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// slowly is a pipeline that takes about two seconds before anything is applied.
func (h *host) slowly(patchOptions string) *running {
	h.Helper()
	return h.start(nil, "xb-sig target", "xb-delta --level 0 --bwlimit 512K source", "xb-patch "+patchOptions+" target")
}

// TestKilledStage kills each stage at random moments before the apply. What a kill at each
// step of xb-patch leaves is tested in standby.
func TestKilledStage(t *testing.T) {
	for stage, name := range []string{"xb-sig", "xb-delta", "xb-patch"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			random := rand.New(rand.NewPCG(uint64(stage), 3))
			h.image("source", mib, 1)
			h.image("target", mib, 2)
			check := h.untouched("target")
			for range 4 {
				r := h.slowly("")
				time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
				r.signal(stage, syscall.SIGKILL)
				statuses := r.wait()
				if stage == 0 && statuses[0] == 0 {
					break // it had done its part, and xb-patch did its own
				}
				if statuses[stage] != 128+9 || statuses[2] != badStream && stage != 2 {
					t.Errorf("statuses %d: %s", statuses, r.said(2))
				}
				os.Remove(h.part()) // a killed xb-patch can't; the next one does
				check()
			}
			h.mustSync("source", "target", "-q")
		})
	}
}

// part returns the name of the target's spool while it fills.
func (h *host) part() string {
	h.Helper()
	return h.state + "/spool/" + escaped(h.path("target")) + ".delta.part"
}

// TestTerminated demands that whoever ends xb-patch before the apply leaves nothing
// behind, and that the status tells the signal.
func TestTerminated(t *testing.T) {
	h := newHost(t)
	heard := make(chan os.Signal, 1) // else what runs under nohup starts children that ignore it, too
	signal.Notify(heard, syscall.SIGINT, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(heard) })
	h.image("source", 8*mib, 1) // sent in 16 s
	h.image("target", 8*mib, 2)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		for _, spool := range []string{"", "--spool ../notes"} {
			check := h.untouched("target")
			r := h.slowly(spool)
			eventually(t, "a spool", func() bool { return exists(h.part()) || exists(h.notes+"/*.part") })
			r.signal(2, s)
			if status := r.wait()[2]; status != 128+int(s) {
				t.Errorf("%v: status %d", s, status)
			}
			check()
			if exists(h.notes + "/*.part") {
				t.Errorf("%v: a spool is left", s)
			}
		}
	}
}

// TestTerminatedDelta demands the same of xb-delta and its new signature.
func TestTerminatedDelta(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	h.must("xb-sig target >sig")
	check := h.untouched("target")
	r := h.start(h.open("sig"), "xb-delta --level 0 --bwlimit 1M --new-signature new source", "cat")
	eventually(t, "a new signature", func() bool { return exists(h.path(".new.*")) })
	r.signal(0, syscall.SIGTERM)
	if status := r.wait()[0]; status != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d", status)
	}
	check()
}

// TestCutPipe ends a stage by head in the middle of the pipeline.
func TestCutPipe(t *testing.T) {
	h := newHost(t)
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	for _, n := range []int{0, 7, 31, 32, 3000, 6000} {
		check := h.untouched("target")
		cut := fmt.Sprintf("head -c %d", n)
		r := h.pipe("xb-sig target", cut, "xb-delta source", "xb-patch target")
		r.fails(t, badStream)
		if r.statuses[2] != badStream {
			t.Errorf("signature cut at %d: xb-delta ends with %d", n, r.statuses[2])
		}
		h.pipe("xb-sig target", "xb-delta source", fmt.Sprintf("head -c %d", 500*n), "xb-patch target").fails(t, badStream)
		check()
	}
}
