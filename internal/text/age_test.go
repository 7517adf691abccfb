package text

import (
	"testing"
	"time"
)

func TestFormatAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 119 * time.Second: "119 s", 2 * time.Minute: "2 min", 119*time.Minute + 59*time.Second: "119 min",
		2 * time.Hour: "2 h", 26*time.Hour + 59*time.Minute: "26 h", 71 * time.Hour: "71 h", 72 * time.Hour: "3 d",
		400 * day: "400 d",
	} {
		if got := FormatAge(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"26h": 26 * time.Hour, "90m": 90 * time.Minute, "5min": 5 * time.Minute, "30s": 30 * time.Second, "2d": 2 * day,
		"1w": 7 * day, "1d12h": 36 * time.Hour,
	} {
		if got, err := ParseAge(s); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0h", "26", "h", "-1h", "+1h", "1.5h", "26 h", "1y", "99999999w", "4294967296s", "36500d36500d", "1hh", "1h2"} {
		if got, err := ParseAge(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func TestParseEvery(t *testing.T) {
	for s, want := range map[string]time.Duration{"0": 0, "no": 0, "never": 0, "7d": 7 * day, "12h": 12 * time.Hour} {
		if got, err := ParseEvery(s); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yes", "7", "0s", "-1"} {
		if got, err := ParseEvery(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}
