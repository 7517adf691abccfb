package runs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const week = 7 * 24 * time.Hour

// TestIsDue runs every night for years: each standby is compared once a week, and about a seventh of them each night,
// whether all were copied first in one night or not.
func TestIsDue(t *testing.T) {
	const disks = 700
	begin := time.Date(2026, 11, 27, 2, 0, 0, 0, time.UTC)
	var copies []*Copy
	for i := range disks {
		copies = append(copies, &Copy{Disk: fmt.Sprintf("domu%d/xvda", i), Peer: "dom0b", Since: begin})
	}
	times := make(map[*Copy]int)
	for night := range 7 * 20 {
		now := begin.Add(time.Duration(night) * 24 * time.Hour)
		due := 0
		for _, c := range copies {
			if c.isDue(week, now) {
				due++
				times[c]++
				c.Verified = now
			}
		}
		if night == 0 && due > 0 {
			t.Errorf("%d are due that are new", due)
		}
		if night > 0 && (due < disks/7*7/10 || due > disks/7*13/10) {
			t.Errorf("night %d: %d of %d are due", night, due, disks)
		}
	}
	for _, c := range copies {
		if n := times[c]; n != 20 && n != 19 {
			t.Errorf("%s was compared %d times in 20 weeks", c.Disk, n)
		}
	}
}

func TestIsDueAgain(t *testing.T) {
	c := &Copy{Disk: "domu1/xvda", Peer: "dom0b", Since: now.Add(-week)}
	is := func(what string, want bool, at time.Time) {
		t.Helper()
		if got := c.isDue(week, at); got != want {
			t.Errorf("%s: due is %v", what, got)
		}
	}
	is("after a week", true, now)
	is("that did not succeed", true, now.Add(time.Minute))
	c.Verified = now
	is("just compared", false, now.Add(time.Minute))
	is("after the next week", true, now.Add(week))
	is("the clock was set back by a year", true, now.Add(-52*week))
	c.Missed = &Missed{Time: now, Unproved: true}
	is("something was missed", true, now.Add(time.Minute))
	c.verify(now, now) // in the same second
	is("it is right again", false, now.Add(time.Minute))
	c.Missed = &Missed{Time: now.Add(time.Minute)} // by an older version, which tells by the time alone
	is("something was missed before an update", true, now.Add(2*time.Minute))
	other := &Copy{Disk: c.Disk, Peer: "dom0c"}
	if c.span(now, week) == other.span(now, week) && c.span(now.Add(week/2), week) == other.span(now.Add(week/2), week) {
		t.Log("two peers may be due at once, but not these")
	}
	h := newHost(t)
	if IsDue(h.dir, "domu1/xvda", "dom0b", week, now) || IsDue(h.dir, "domu1/xvda", "dom0b", 0, now) {
		t.Error("what was never copied is due")
	}
	h.report("0 0 0").Record(h.dir)
	if IsDue(h.dir, "domu1/xvda", "dom0b", week, time.Now()) || !IsDue(h.dir, "domu1/xvda", "dom0b", week, time.Now().Add(week)) ||
		IsDue(h.dir, "domu1/xvda", "dom0b", 0, time.Now().Add(week)) {
		t.Error("a first copy is due at once, or never")
	}
}

// TestUnmended: what was found to differ is told until all of it was compared, and so long another peer's standby is not
// trusted either, unless it was compared with that snapshot or a later one.
func TestUnmended(t *testing.T) {
	h := newHost(t)
	begin := time.Now().Truncate(time.Second)
	copied := func(peer string, hour int, tracked bool) *Report {
		r := h.report("0 0 0")
		r.Peer, r.Sent.Tracked, r.Taken = peer, tracked, begin.Add(time.Duration(hour-10)*time.Hour)
		return r
	}
	record := func(r *Report, want int) (words string) {
		t.Helper()
		lines, status := r.Record(h.dir)
		if status != want {
			t.Errorf("status %d, want %d: %v", status, want, lines)
		}
		return fmt.Sprint(lines)
	}
	for _, r := range []*Report{copied("dom0b", 1, false), copied("dom0c", 1, false), copied("dom0d", 1, false), copied("dom0b", 2, true)} {
		record(r, 0)
	}
	doubts := func(want ...string) {
		t.Helper()
		var peers []string
		for _, peer := range []string{"dom0b", "dom0c", "dom0d"} {
			if Doubt(h.dir, "domu1/xvda", peer) != "" {
				peers = append(peers, peer)
			}
		}
		if !slices.Equal(peers, want) {
			t.Errorf("doubts: %q, want %q", peers, want)
		}
	}
	status := func(want Severity, words ...string) {
		t.Helper()
		list, err := Look(h.dir, nil, time.Now())
		all, err2 := ReadExpected(strings.NewReader("domu1\tdom0a\tdom0b dom0c\tyes\txvda\n"))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		v := Judge(all, list, maxAge)
		if v.Status() != want {
			t.Errorf("the status is %v", v.Status())
		}
		for _, word := range words {
			if !strings.Contains(v.Text(), word) {
				t.Errorf("no %q in\n%s", word, v.Text())
			}
		}
	}
	doubts()
	record(copied("dom0d", 3, false), 0)
	found := copied("dom0b", 3, false)
	found.Missed = "blocks 9 changed 1"
	if err := found.RecordMissed(h.dir); err != nil {
		t.Fatal(err)
	}
	doubts("dom0b", "dom0c")
	status(Failing, "xvda on dom0b: it was compared in full", "xvda on dom0c: it may lack what")
	if !IsDue(h.dir, "domu1/xvda", "dom0b", 1000*week, time.Now()) {
		t.Error("it is not compared again")
	}
	failed := h.report("0 0 73", "xb-patch: no room")
	failed.Missed = found.Missed
	record(failed, 73)
	doubts("dom0b", "dom0c")
	if c := h.remembered("domu1/xvda", "dom0b"); c.Failures != 1 {
		t.Errorf("%d runs failed", c.Failures)
	}
	record(copied("dom0b", 4, true), 0) // by a base of which nobody knew
	doubts("dom0b", "dom0c")
	status(Failing, "it is not mended yet")
	record(copied("dom0c", 4, true), 0)
	doubts("dom0b", "dom0c")
	if words := record(copied("dom0b", 5, false), 0); !strings.Contains(words, "#### dom0b:/dev/vg/a: what runs had missed is mended") {
		t.Errorf("logged is %s", words)
	}
	doubts("dom0c")
	status(Old, "xvda on dom0b: what had changed was missed")
	record(copied("dom0c", 5, false), 0)
	doubts()

	// Who is told by the other side that the standby is not what it was has found no fault of runs.
	if err := found.RecordMissed(h.dir); err != nil {
		t.Fatal(err)
	}
	failed = h.report("0 0 80", "xb-patch: it has diverged")
	failed.Missed = found.Missed
	record(failed, 80)
	doubts()
}

// TestMissed: what had been missed is told for a week, whatever becomes of later runs.
func TestMissed(t *testing.T) {
	h := newHost(t)
	r := h.report("0 0 0")
	r.Missed, r.Verified = "blocks 2 changed 1 bytes 4096 at 0", true
	if _, status := r.Record(h.dir); status != 0 {
		t.Fatal(status)
	}
	h.report("0 0 0").Record(h.dir)
	c := h.remembered("domu1/xvda", "dom0b")
	if c.Missed == nil || c.Missed.Words != r.Missed || c.Verified.Before(c.Missed.Time) || c.Since.IsZero() || c.Failures != 0 {
		t.Fatalf("remembered is %+v", c)
	}
	const expected = "domu1\tdom0a\tdom0b\tyes\txvda\n"
	for age, want := range map[time.Duration]Severity{time.Minute: Old, week: Good} {
		list, err := Look(h.dir, nil, c.Missed.Time.Add(age))
		all, err2 := ReadExpected(strings.NewReader(expected))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		v := Judge(all, list, 2*week)
		if told := strings.Count(v.Text(), r.Missed); v.Status() != want || told != int(want)*3 {
			t.Errorf("after %v: %s", age, v.Text())
		}
		if json, err := list.JSON(); err != nil || !strings.Contains(json, `"missed":{"time":`) {
			t.Errorf("%s, %v", json, err)
		}
	}
}
