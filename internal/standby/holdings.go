package standby

import (
	"strings"
	"time"
	"unicode/utf8"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
)

// Holding is what this host has of a disk that it got from another one.
type Holding struct {
	state.Found
	Missing     bool   // what had its name last is gone, or another device or file
	Changed     *bool  // since its last sync; nil: that cannot be told
	WholeSet    *bool  // all members have the image of this set; nil: it is of none
	DocumentSet string // that the stored document of its DomU is of
}

// Holdings returns what this host has of other hosts' disks: of those that wanted accepts, by DOMU/DISK, which is empty
// where it is not known.
func Holdings(dir state.Dir, wanted func(disk string) bool) ([]Holding, error) {
	all, err := dir.All()
	if err != nil {
		return nil, err
	}
	var holdings []Holding
	for _, found := range all {
		if !wanted(found.Disk) {
			continue
		}
		h := Holding{Found: found}
		if h.Err == nil {
			h.look(dir)
		}
		holdings = append(holdings, h)
	}
	return holdings, nil
}

// look finds out what can be said of it now.
func (h *Holding) look(dir state.Dir) {
	t := target{Options: Options{Target: h.Record.Device}}
	if !strings.ContainsRune(t.Target, utf8.RuneError) { // else its name is not known
		identity, err := blockdev.Identity(t.Target)
		h.Missing = err != nil || identity != h.Record.Identity || blockdev.Check(t.Target) != nil
		if !h.Missing {
			h.Changed = t.changedSince(h.Record)
		}
	}
	m := Memory{}
	h.Err = m.addSet(dir, h.Record)
	h.WholeSet, h.DocumentSet = m.WholeSet, m.DocumentSet
}

// Of returns of when the image is that it holds: of when its snapshot was taken, or else of its last sync; of a mix, of
// when the last whole one was. The zero time: there was none.
func (h *Holding) Of() time.Time {
	switch r := h.Record; {
	case r.Phase == state.Clean:
		return r.Of()
	case r.Last == nil:
		return time.Time{}
	case r.Last.Taken.IsZero() || r.Last.Time.Before(r.Last.Taken):
		return r.Last.Time
	default:
		return r.Last.Taken
	}
}
