package domain

import (
	"fmt"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// A Set is all disks of a domain that were copied to a host in one run. The document that
// was stored after it names it, so that whoever is about to start the domain can tell
// whether document and disks belong together.
type Set struct {
	Name  string // 26 letters of base32; empty: the document is of no set
	Taken string // when the disks were frozen: RFC 3339 in UTC
}

var setNote = text.Pattern(`(?m)(?:<!--|^#) xen-backup: set ([a-z2-7]{26}), taken ([0-9TZ:-]{20})(?: -->)?$`)

// check refuses what is neither empty nor a set.
func (s Set) check() error {
	if s == (Set{}) {
		return nil
	}
	const form = "2006-01-02T15:04:05Z"
	err := state.CheckSet(s.Name)
	if _, bad := time.Parse(form, s.Taken); err == nil && (bad != nil || len(s.Taken) != len(form)) {
		err = fmt.Errorf("taken %q is no time as 2026-11-26T23:47:28Z", s.Taken)
	}
	if err != nil {
		return exit.Fail(exit.Usage, "%w", err)
	}
	return nil
}

func (s Set) String() string { return fmt.Sprintf("set %s, taken %s", s.Name, s.Taken) }

// SetOf returns the set that a stored document names.
func SetOf(document []byte) Set {
	if m := setNote().FindSubmatch(document); m != nil {
		return Set{string(m[1]), string(m[2])}
	}
	return Set{}
}
