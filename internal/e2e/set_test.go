package e2e

import (
	"fmt"
	"testing"

	"xen-backup/internal/testkit"
)

const (
	oldSet = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	newSet = "bbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// hold has a target hold its part of a set.
func (h *host) hold(set, source, target, options string) result {
	h.Helper()
	return h.pipe("xb-sig --missing-ok "+target, "xb-delta "+source,
		fmt.Sprintf("xb-patch -q --hold %s --taken 2026-11-26T23:47:28Z --peer dom0a --disk domu1/%s %s %[2]s",
			set, target, options))
}

// twoDisks are standbys "root" and "data" of old images, and the new images of both are held.
func twoDisks(t *testing.T) *host {
	h := newHost(t)
	for i, disk := range []string{"root", "data"} {
		h.image(disk, mib, uint64(10+i))
		h.must("cp " + disk + " old-" + disk)
		h.hold(oldSet, disk, disk, "").silent(t)
	}
	h.commit(oldSet).silent(t)
	for i, disk := range []string{"root", "data"} {
		h.image("new-"+disk, mib, uint64(20+i))
		h.hold(newSet, "new-"+disk, disk, "").silent(t)
	}
	return h
}

func (h *host) commit(set string) result {
	h.Helper()
	return h.sh("xb-patch -q --commit " + set + " --peer dom0a root data")
}

// wantPair demands that both disks are the old images or the new ones, and that the check
// before a failover says so.
func (h *host) wantPair(kind, set string) {
	h.Helper()
	for _, disk := range []string{"root", "data"} {
		h.sameBytes(kind+disk, disk)
		var state struct {
			Phase, Set string
			WholeSet   bool `json:"whole_set"`
		}
		decode(h, h.must("xb-patch --state "+disk), &state)
		if state.Phase != "clean" || state.Set != set || !state.WholeSet {
			h.Errorf("the state of %s is %+v, want the whole set %s", disk, state, set)
		}
	}
}

// TestHeldAndMissing has a standby for which a delta is held vanish: what was remembered of it is no standby.
func TestHeldAndMissing(t *testing.T) {
	h := twoDisks(t)
	h.must("mv data away")
	h.sh("xb-patch --state data").fails(t, noInput)
	h.commit(newSet).fails(t, noInput, "data")
	h.must("mv away data")
	h.wantPair("old-", oldSet)
	h.commit(newSet).silent(t)
	h.wantPair("new-", newSet)
}

// TestDamagedNote damages the note of what is held. It is worth nothing then, and in nobody's way: the old images are
// what they were, and the next run holds a new one.
func TestDamagedNote(t *testing.T) {
	for _, damage := range testkit.Some(t, 1, "truncate -s 100", `sed -i 's/"version": 1/"version": 2/'`, "truncate -s 0",
		`sed -i 's/"hash": "/&x/'`) {
		t.Run(damage, func(t *testing.T) {
			h := twoDisks(t)
			h.must(damage + " " + h.state + "/*data.held")
			h.wantPair("old-", oldSet)
			h.commit(newSet).fails(t, badConfig, "data.held")
			h.wantPair("old-", oldSet)
			for _, disk := range []string{"root", "data"} {
				h.hold(newSet, "new-"+disk, disk, "").silent(t)
			}
			h.commit(newSet).silent(t)
			h.wantPair("new-", newSet)
		})
	}
}

// TestForeignFiles has files among the changes of sets that are none, and a change that is damaged: only that one is in
// the way, and says what to do.
func TestForeignFiles(t *testing.T) {
	h := twoDisks(t)
	h.must("mkdir -p " + h.state + "/sets/a.json && echo '{' >" + h.state + "/sets/b.json")
	h.wantPair("old-", oldSet)
	damaged := h.state + "/sets/cccccccccccccccccccccccccc.json"
	h.must("echo '{' >" + damaged)
	for _, command := range []string{"xb-patch --state data", "xb-patch --recover data", "xb-sig data >/dev/null",
		"xb-patch data <new-data"} {
		h.sh(command).fails(t, badConfig, damaged, "move it away")
	}
	h.commit(newSet).fails(t, badConfig, damaged, "move it away")
	h.must("rm " + damaged)
	h.wantPair("old-", oldSet)
	h.commit(newSet).silent(t)
	h.wantPair("new-", newSet)
}
