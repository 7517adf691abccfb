package runs

import (
	"fmt"
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
	c.Missed = &Missed{Time: now}
	is("something was missed", true, now.Add(time.Minute))
	c.Verified = now.Add(2 * time.Minute)
	is("it is right again", false, now.Add(3*time.Minute))
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
