package e2e

import (
	"strings"
	"testing"
)

// TestLongWrapperTerminal runs it on a terminal, twice: no part of a run may read that, and none may
// be left that holds the lock.
func TestLongWrapperTerminal(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	for range 2 {
		r := s.on("dom0a", "script -qec xen-backup.sh /dev/null </dev/null")
		if r.status != 0 || !strings.Contains(r.out, "### sync domu1 from dom0a to dom0b") {
			t.Errorf("status %d\n%s", r.status, r.out)
		}
		s.nothingLeft("dom0a")
	}
	s.same("/srv/a.img", "/srv/a.img")
	log := s.log("dom0a")
	s.status("dom0a", 0)
	if s.log("dom0a") != log {
		t.Error("--status is no run, and logs one")
	}
}
