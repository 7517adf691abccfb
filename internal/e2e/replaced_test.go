package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReplaced takes the target's name away while the delta arrives.
func TestReplaced(t *testing.T) {
	for _, options := range []string{"", "--in-place"} {
		for _, test := range []struct {
			what, do string
			status   int
		}{
			{"replaced", "cp target new && mv new target", busy},
			{"removed", "mv target away", noInput},
		} {
			t.Run(test.what+options, func(t *testing.T) {
				h := twoImages(t)
				in, out := pipeIn(t)
				r := h.start(in, "xb-patch "+options+" target")
				fds := fmt.Sprintf("ls -l /proc/%d/fd", r.stages[0].Process.Pid)
				eventually(t, "an open target", func() bool { return strings.Contains(h.sh(fds).out, h.path("target")+"\n") })
				h.must("cp target before && " + test.do)
				out.Write(h.read("delta"))
				out.Close()
				if status := r.wait()[0]; status != test.status {
					t.Errorf("status %d: %s", status, r.said(0))
				}
				h.must("for f in target away; do test ! -e $f || cmp $f before; done; mv -f before target")
				h.wantPhase("target", "seen")
				h.must("xb-patch -q target <delta")
			})
		}
	}
}

// TestReplacedInApply demands that the new file is not called clean, nor is it to
// be recovered; that it is held against what a sync left there if there was one.
func TestReplacedInApply(t *testing.T) {
	t.Run("first", func(t *testing.T) {
		h := twoImages(t)
		h.replaceInApply("cp old other", "")
		h.sameBytes("old", "target")
		h.wantPhase("target", "incomplete")
		h.must("xb-patch -q target <delta")
		h.sameBytes("source", "target")
	})
	t.Run("later", func(t *testing.T) {
		h := twoImages(t)
		h.replaceInApply("cp old other && printf other | dd of=other conv=notrunc status=none",
			" && xb-sig target | xb-delta old | xb-patch -q target")
		h.wantPhase("target", "clean")
		h.must("xb-sig target >sig && xb-delta --signature sig source >delta")
		check := h.untouched("target")
		for _, option := range []string{"", "--in-place"} {
			h.sh("xb-patch "+option+" target <delta").fails(t, notBasis)
		}
		check()
	})
}

// replaceInApply applies the delta and puts "other" in the target's place meanwhile;
// prepare makes what is remembered of the target before.
func (h *host) replaceInApply(makeOther, prepare string) {
	h.Helper()
	h.must("cp target old")
	for range 50 {
		h.must("rm -rf " + h.state + " && cp old target && " + makeOther + prepare)
		r := h.start(h.open("delta"), "xb-patch target")
		done := make(chan []int)
		go func() { done <- r.wait() }()
		var statuses []int
		for statuses == nil && !h.applying() {
			select {
			case statuses = <-done:
			case <-time.After(time.Millisecond):
			}
		}
		if statuses == nil {
			stand(h, r.stages[0].Process.Pid)
		}
		replaced := h.applying() && os.Rename(h.path("other"), h.path("target")) == nil
		r.signal(0, syscall.SIGCONT)
		if statuses == nil {
			statuses = <-done
		}
		if replaced && statuses[0] == busy {
			return
		}
		if statuses[0] != 0 {
			h.Fatalf("status %d: %s", statuses[0], r.said(0))
		}
	}
	h.Skip("too fast to be caught")
}
