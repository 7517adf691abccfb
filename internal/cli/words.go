package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// TimeForm is how times are written for programs; there is one form only.
const TimeForm = "2006-01-02T15:04:05Z"

// Time returns a setter for Func that reads a time.
func Time(p *time.Time) func(string) error {
	return func(s string) (err error) {
		// Parse takes fractions of a second, too, which would be missing where the time is shown.
		if *p, err = time.Parse(TimeForm, s); err != nil || p.IsZero() || p.Format(TimeForm) != s {
			return fmt.Errorf("%q is no time as 2026-11-26T23:47:28Z", s)
		}
		return nil
	}
}

// Disk returns a setter for Func that takes DOMU/DISK apart, just to see that it is one.
func Disk(p *string) func(string) error {
	return func(s string) error {
		domu, disk, _ := strings.Cut(s, "/")
		odd := func(r rune) bool { return !unicode.IsGraphic(r) }
		if domu == "" || disk == "" || strings.Contains(disk, "/") || !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
			return fmt.Errorf("%q is not DOMU/DISK, as in domu1/xvda", s)
		}
		*p = s
		return nil
	}
}
