package state

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseKeep(t *testing.T) {
	for in, want := range map[string]string{
		"24h:hourly 7d:daily 4w:weekly": "86400s:hourly+604800s:daily+2419200s:weekly",
		"86400s:hourly+604800s:daily":   "86400s:hourly+604800s:daily",
		"2h:10m":                        "7200s:600s",
		"7":                             "7", "0": "0", "no": "0",
	} {
		k, err := ParseKeep(in)
		if err != nil || k.String() != want {
			t.Fatalf("%q is %v, %v; want %q", in, k, err, want)
		}
		if again, err := ParseKeep(k.String()); err != nil || again.String() != want {
			t.Errorf("%q is not read as it was written: %v, %v", want, again, err)
		}
	}
	for _, in := range []string{"", " ", "-1", "1001", "yes", "24h", "24h:", ":hourly", "hourly:24h", "24h:hourly,7d:daily", "1h:daily",
		"1h:1s", "24h:hourly 7", "100w:1m", "3 4"} {
		if k, err := ParseKeep(in); err == nil {
			t.Errorf("%q is taken for %s", in, k)
		}
	}
}

func TestKeepInHostConf(t *testing.T) {
	for line, want := range map[string]string{`KEEP="24h:hourly 7d:daily"`: "86400s:hourly+604800s:daily", "KEEP=3 # of them": "3"} {
		confOf(t, line+"\n")
		if p, err := Find(""); err != nil || p.Keep == nil || p.Keep.String() != want {
			t.Errorf("%s: %+v, %v", line, p, err)
		}
	}
}

// TestKeeps has an image come every ten minutes for six weeks, and keeps as it would be: each run asks for what is there
// and the new one, and what does not stay goes.
func TestKeeps(t *testing.T) {
	now := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC) // a Monday
	kept := func(rule *Keep, often time.Duration, runs int) []time.Time {
		var there []time.Time
		at := now
		for range runs {
			at = at.Add(often)
			all := append(there, at)
			there = nil
			for i, stays := range rule.Keeps(all, at) {
				if stays {
					there = append(there, all[i])
				}
			}
		}
		return there
	}
	rule := func(s string) *Keep {
		k, err := ParseKeep(s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	show := func(times []time.Time) string {
		var words []string
		for _, at := range times {
			words = append(words, at.Format("0102T1504"))
		}
		return strings.Join(words, " ")
	}
	six := 6 * 7 * 24 * 6
	for _, c := range []struct {
		rule  *Keep
		often time.Duration
		runs  int
		want  string
	}{
		{rule("3"), time.Minute, 100, "1102T0138 1102T0139 1102T0140"},
		{rule("3").AtMostHourly(), time.Minute, 200, "1102T0100 1102T0200 1102T0300"},
		{rule("no"), time.Minute, 10, ""},
		{rule("3h:hourly"), 10 * time.Minute, 6 * 24, "1102T2100 1102T2200 1102T2300 1103T0000"},
		{rule("2d:daily 3w:weekly"), 10 * time.Minute, six, "1123T0000 1130T0000 1207T0000 1212T0000 1213T0000 1214T0000"},
		{rule("1h:20m"), 10 * time.Minute, 12, "1102T0100 1102T0120 1102T0140 1102T0200"},
	} {
		if got := show(kept(c.rule, c.often, c.runs)); got != c.want {
			t.Errorf("%s, every %s: %s\nwant %s", c.rule, c.often, got, c.want)
		}
	}
	// Whoever sends as much as he can replaces nothing that is there.
	k := rule("24h:hourly 7d:daily 4w:weekly")
	before := []time.Time{now.Add(-90 * time.Minute), now.Add(-26 * time.Hour), now.Add(-15 * 24 * time.Hour)}
	flood := append([]time.Time(nil), before...)
	for i := range 600 {
		flood = append(flood, now.Add(time.Duration(i)*time.Second))
	}
	if stays := k.Keeps(flood, now.Add(10*time.Minute)); fmt.Sprint(stays[:4]) != "[true true true true]" || stays[5] {
		t.Errorf("a flood leaves %v", stays[:6])
	}
}

// TestKeepsAfterWrongClock: what came while this host's clock was ahead does not keep all that comes later from being kept.
func TestKeepsAfterWrongClock(t *testing.T) {
	now := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	ahead := now.AddDate(10, 0, 0)
	// A clock that is put back by some minutes is past that soon.
	times := []time.Time{ahead, ahead.Add(time.Hour), now.Add(-time.Hour), now, now.Add(time.Minute)}
	for rule, want := range map[string]string{"2": "[false false false true true]", "4": "[false true true true true]",
		"4h:hourly": "[true true true true false]"} {
		k, err := ParseKeep(rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(k.Keeps(times, now)); got != want {
			t.Errorf("%s keeps %s, want %s", rule, got, want)
		}
	}
}
