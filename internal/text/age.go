package text

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// FormatAge renders a time span for people, in one unit: "40 s", "3 min", "26 h", "12 d". It is rounded down.
func FormatAge(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 3*day:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/day)
}

// ParseEvery reads a time span after which something is done again, 0 for never: "0", "no" or "never".
func ParseEvery(s string) (time.Duration, error) {
	if s == "0" || s == "no" || s == "never" {
		return 0, nil
	}
	return ParseAge(s)
}

// ParseAge reads a time span: numbers with the units s, m (or min), h, d and w, as "26h", "90m" or "1d12h".
func ParseAge(s string) (time.Duration, error) {
	bad := fmt.Errorf("bad time span %q: want numbers with s, m, h, d or w, as 26h", s)
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "min": time.Minute, "h": time.Hour, "d": day,
		"w": 7 * day}
	total := time.Duration(0)
	for rest := s; ; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		letters := len(rest) - digits - len(strings.TrimLeft(rest[digits:], "smihndw"))
		n, err := strconv.ParseUint(rest[:digits], 10, 32)
		unit := units[rest[digits:digits+letters]]
		if err != nil || unit == 0 || n > uint64(100*365*day/unit) {
			return 0, bad
		}
		total += time.Duration(n) * unit
		if rest = rest[digits+letters:]; rest == "" {
			break
		}
	}
	if total <= 0 || total > 100*365*day {
		return 0, bad
	}
	return total, nil
}
