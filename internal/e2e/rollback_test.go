package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

func TestRollback(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		target := dir + "/target"
		back := func(to string) result { return h.sh("xb-snap rollback --at " + to + " " + target) }
		for n := 1; n <= 3; n++ {
			h.copies(n, target, "--keep 9").silent(t)
		}
		back("2026-11-26T00:59:59Z").fails(t, 69, "no point of "+target)
		h.sameBytes("image3", target)
		back("2026-11-26T01:30:00Z").silent(t)
		h.sameBytes("image1", target)
		var state struct {
			Phase, Taken string
			Changed      bool `json:"changed_since"`
		}
		decode(h, h.must("xb-patch --state "+target), &state)
		if state.Phase != "clean" || state.Changed || state.Taken != hour(1) {
			t.Errorf("the state is %+v", state)
		}
		// What it was is a point, too, and the way forward is as good. To what it is now there is no way to go.
		h.wantPoints(target, hour(1), hour(2), hour(3))
		back(hour(3)).silent(t)
		h.sameBytes("image3", target)
		h.must("xb-snap remove " + h.points(target)[2].path)
		for range 2 {
			back(hour(9)).silent(t)
			h.sameBytes("image3", target)
		}
		h.wantPoints(target, hour(1), hour(2))
		back(hour(2)).silent(t)
		back(hour(2)).silent(t)
		h.sameBytes("image2", target)
		h.wantPoints(target, hour(1), hour(2), hour(3))

		if got := h.must("xb-patch --list"); !strings.Contains(got, "3 points, "+hour(1)+" to "+hour(3)) {
			t.Errorf("--list does not tell of the points:\n%s", got)
		}
		if got := h.must("xb-patch --list --json"); !strings.Contains(got, `"points":{"count":3,"oldest":"`+hour(1)+`","latest":"`+hour(3)+`"}`) {
			t.Errorf("--list --json does not tell of the points:\n%s", got)
		}
		if got := h.must("xb-snap list --points --at 2026-11-26T02:10:00Z " + target); !strings.Contains(got, "\t"+hour(2)+"\t") ||
			strings.Count(got, "\n") != 1 {
			t.Errorf("list --points --at shows %s", got)
		}

		// What is in a point must be what was proved when it was made.
		record := strings.TrimSpace(h.must("grep -lF " + h.points(target)[0].path + " " + h.state + "/snapshots/*"))
		h.must(`cp ` + record + ` record; sed -i -E 's/("image":"[^":]*:[0-9]*:[0-9]*:)[0-9a-f]{8}/\100000000/' ` + record)
		back(hour(1)).fails(t, 82, "is not what was kept", "nothing was written")
		h.sameBytes("image2", target)
		h.must("mv record " + record)

		// The next run is no divergence.
		h.copies(4, target, "--keep 9").silent(t)
		h.sameBytes("image4", target)
		h.wantPoints(target, hour(1), hour(2), hour(3))

		// Between images whose digests cannot be compared there is a way, too.
		h.must("xb-sig --hash sha256 " + target + " | xb-delta source | xb-patch --auto --peer dom0a --disk domu1/xvda " +
			"--force-diverged --keep 9 --taken " + hour(5) + " " + target)
		back(hour(2)).silent(t)
		h.sameBytes("image2", target)

		// Changes that exist nowhere else are not lost.
		h.change(target, 2, 77)
		h.must("cp " + target + " changed")
		h.must("echo \"<domain type='kvm'><name>domu1</name></domain>\" >document")
		h.sh("xb-patch --promote --dry-run --document document --at "+hour(1)+" domu1/xvda=$PWD/"+target).fails(t, 80, "has diverged")
		back(hour(1)).fails(t, 80, "has diverged", "--discard-changes")
		back(hour(9)).fails(t, 80, "has diverged", "--discard-changes")
		h.sameBytes("changed", target)
		h.must("xb-patch --discard-changes --peer dom0a --disk domu1/xvda " + target)
		back(hour(1)).fails(t, 0, "has diverged and may be overwritten")
		h.sameBytes("image1", target)

		// Nor is it done under anybody's hands.
		user, err := os.OpenFile(h.path(target), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer user.Close()
		back(hour(2)).fails(t, busy, "in use")
		h.sameBytes("image1", target)
	})
}

// TestLongRollbackOfSets has all disks of a set go back together, and nothing else.
func TestLongRollbackOfSets(t *testing.T) {
	h := newHost(t)
	h.fileSystem("xfs", "xfs")
	disks := []string{"root", "data"}
	set := func(n int) string { return strings.Repeat(string(rune('a'+n)), 26) }
	holds := func(n int) {
		t.Helper()
		for _, disk := range disks {
			h.image(disk, 2*mib, uint64(n))
			h.must(fmt.Sprintf("cp %s %[1]s%d", disk, n))
			h.pipe("xb-sig --missing-ok xfs/"+disk, "xb-delta "+disk, fmt.Sprintf("xb-patch --auto --peer dom0a --disk domu1/%s --hold %s "+
				"--taken %s --keep 9 xfs/%[1]s", disk, set(n), hour(n))).silent(t)
		}
	}
	commits := func(n int) result {
		return h.sh("xb-patch --commit " + set(n) + " --peer dom0a xfs/root xfs/data")
	}
	want := func(n int) {
		t.Helper()
		for _, disk := range disks {
			h.sameBytes(fmt.Sprintf("%s%d", disk, n), "xfs/"+disk)
			var state struct {
				Phase, Set string
				WholeSet   bool `json:"whole_set"`
			}
			decode(h, h.must("xb-patch --state xfs/"+disk), &state)
			if state.Phase != "clean" || state.Set != set(n) || !state.WholeSet {
				t.Fatalf("the state of %s is %+v, want the whole set %s", disk, state, set(n))
			}
		}
	}
	for n := 1; n <= 3; n++ {
		holds(n)
		commits(n).silent(t)
	}
	h.must("echo \"<domain type='kvm'><name>domu1</name></domain>\" >document")
	would := "xb-patch --promote --dry-run --document document --at " + hour(1) + " domu1/root=$PWD/xfs/root "
	h.sh(would).fails(t, 64, "name all standbys of its set")
	if r := h.sh(would + "domu1/data=$PWD/xfs/data"); r.status != 0 || strings.Count(r.out, "\tdom0a\t"+hour(1)+"\t") != 2 ||
		!strings.Contains(r.err, "the document is not of the same time as the disks") {
		t.Errorf("what it would be: %+v", r)
	}
	h.sh("xb-snap rollback --at "+hour(1)+" xfs/root").fails(t, 64, "name all standbys of its set")
	want(3)
	h.sh("xb-snap rollback --at " + hour(1) + " xfs/root xfs/data").silent(t)
	want(1)
	h.sh("xb-snap rollback --at " + hour(1) + " xfs/root xfs/data").silent(t)
	want(1)
	holds(4)
	commits(4).silent(t)
	h.sh("xb-snap rollback --at " + hour(9) + " xfs/root xfs/data").silent(t)
	want(4)
	h.wantPoints("xfs/root", hour(1), hour(2), hour(3))
	holds(5)
	// The host of a run may have died before its commit, and must not keep the way back from who needs it.
	r := h.sh("xb-snap rollback --at " + hour(2) + " xfs/root xfs/data")
	if r.status != 0 || strings.Count(r.err, "a delta of "+hour(5)+" was held for it") != len(disks) {
		t.Fatalf("status %d, stderr %q; want 0 and that what was held is given up", r.status, r.err)
	}
	want(2)
	commits(5).fails(t, 75, "another run has come between")
	want(2)
	holds(5)
	commits(5).silent(t)
	want(5)

	// Killed at whatever moment it can be taken up again, and no disk is left behind.
	finished, unfinished := 0, 0
	step := 0.36 / float64(min(4, testkit.Rounds(t, 1)))
	for n := 0; finished < 2 && n < 24; n++ {
		to := 1 + n%2*2
		r := h.sh(fmt.Sprintf("timeout -s KILL %.2f xb-snap rollback --at %s xfs/root xfs/data", 0.01+step*float64(n), hour(to)))
		if r.status == 0 {
			finished++
		}
		if strings.Contains(h.phase("xfs/root")+h.phase("xfs/data"), "applying") {
			unfinished++
			h.sh("xb-snap rollback --at "+hour(to)+" xfs/root xfs/data").fails(t, 83, "--recover")
			h.must("xb-patch --recover xfs/data")
			want(to)
		}
		h.sh("xb-snap rollback --at " + hour(to) + " xfs/root xfs/data").silent(t)
		want(to)
	}
	t.Logf("killed in the middle: %d", unfinished)
	for _, disk := range disks {
		h.wantPoints("xfs/"+disk, hour(1), hour(2), hour(3), hour(4), hour(5))
	}
	holds(6)
	note := strings.TrimSpace(h.must("ls " + h.state + "/*data.held"))
	h.must("cp " + note + " note")
	commits(6).silent(t)
	want(6)
	h.must("cp note " + note) // as if killed before it was removed
	h.sh("xb-snap rollback --at " + hour(3) + " xfs/root xfs/data").silent(t)
	want(3)

	// A delta that mends the image of a set must not be lost: its commit would take the set for done.
	holds(6)
	h.must("cp " + note + " note")
	var held map[string]any
	decode(h, string(h.read("note")), &held)
	commits(6).silent(t)
	held["before"] = held["source"]
	mending, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	h.write("note", mending)
	h.must("cp note " + note)
	h.sh("xb-snap rollback --at "+hour(3)+" xfs/root xfs/data").fails(t, 75, "a delta is held for it that mends what it is")
	h.must("rm " + note)
}
