package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// prepared asks what a target can take of an image.
func (h *host) prepared(source, target, options string) result {
	h.Helper()
	size := strings.TrimSpace(h.must("blockdev --getsize64 " + source + " 2>/dev/null || stat -Lc %s " + source))
	return h.sh(fmt.Sprintf("xb-patch --prepare --peer dom0a --disk domu1/xvda --size %s %s %s", size, options, target))
}

// auto is the pipeline of xen-backup.sh.
func (h *host) auto(source, target, options string) result {
	h.Helper()
	return h.pipe("xb-sig --missing-ok "+target, "xb-delta "+source, "xb-patch --auto --peer dom0a --disk domu1/xvda "+options+" "+target)
}

// says demands an answer of --prepare, without its last words.
func (r result) says(t *testing.T, words string) {
	t.Helper()
	got, _, _ := strings.Cut(r.out, " takes=1 guests=")
	if r.status != 0 || r.err != "" || got != words || strings.Count(r.out, "\n") != 1 {
		t.Errorf("status %d, stderr %q, stdout %q; want %q", r.status, r.err, r.out, words)
	}
}

// spooled reports whether a run has left that a spool was there: the directory is made for the first one.
func (h *host) spooled() bool { return exists(h.state + "/spool") }

func TestAuto(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 5*mib+33, 1)
	h.prepared("source", "target", "").says(t, "full reason=first-copy phase=none")
	if exists(h.path("target")) {
		t.Error("--prepare has created the target")
	}
	h.auto("source", "target", "--mode 640").silent(t)
	h.sameBytes("source", "target")
	if h.spooled() {
		t.Error("a target that was created was spooled to")
	}
	if mode := strings.TrimSpace(h.must("stat -c %a target")); mode != "640" {
		t.Errorf("its mode is %s", mode)
	}
	h.change("source", 2, 3)
	last := strings.TrimSpace(h.must(`xb-patch --state target | sed 's/.*"time":"\([^"]*\)".*/\1/'`))
	h.prepared("source", "target", "").says(t, "full reason=no-base phase=clean last="+last)
	h.auto("source", "target", "--first-copy in-place").silent(t)
	h.sameBytes("source", "target")
	if !h.spooled() {
		t.Error("a standby was written in place")
	}
}
