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
// be recovered.
func TestReplacedInApply(t *testing.T) {
	h := twoImages(t)
	h.must("cp target old")
	for range 50 {
		h.must("rm -rf " + h.state + " && cp old target && cp old other")
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
		r.signal(0, syscall.SIGSTOP)
		replaced := h.applying() && os.Rename(h.path("other"), h.path("target")) == nil
		r.signal(0, syscall.SIGCONT)
		if statuses == nil {
			statuses = <-done
		}
		if replaced && statuses[0] == busy {
			h.sameBytes("old", "target")
			h.wantPhase("target", "incomplete")
			h.must("xb-patch -q target <delta")
			h.sameBytes("source", "target")
			return
		}
		if statuses[0] != 0 {
			t.Fatalf("status %d: %s", statuses[0], r.said(0))
		}
	}
	t.Skip("too fast to be caught")
}
