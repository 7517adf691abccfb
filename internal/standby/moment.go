package standby

import (
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
)

// NowOf returns of when the standbys of a DomU are, or will be when an apply is finished, by what came last; of the zero
// time if there is none that can be read.
func NowOf(holdings []Holding, domu string) domain.Moment {
	m := domain.Moment{Name: domu}
	if h := newestOf(holdings, domu); h != nil {
		m.Of = h.Record.Of()
	}
	return m
}

// newestOf returns what came last of a DomU's disks.
func newestOf(holdings []Holding, domu string) (newest *Holding) {
	for i := range holdings {
		h := &holdings[i]
		if h.Record != nil && isOfDomU(h.Disk, domu) && (newest == nil || h.Record.Time.After(newest.Record.Time)) {
			newest = h
		}
	}
	return newest
}

func isOfDomU(disk, domu string) bool { return strings.HasPrefix(disk, domu+"/") }

// StartOf returns of which moment a start of a DomU is: what its standbys are now; or, with a time, what Rollback would
// make of them, or the latest point whatever they are now.
func StartOf(dir state.Dir, domu string, at time.Time, point bool) (domain.Moment, error) {
	holdings, err := Holdings(dir, func(disk string) bool { return isOfDomU(disk, domu) })
	m := NowOf(holdings, domu)
	if at.IsZero() || err != nil {
		return m, err
	}
	latest, err := snapshot.LatestPoint(dir, domu, at)
	if err != nil {
		return m, err
	}
	now := newestOf(holdings, domu)
	stays := !point && now != nil && !m.Of.After(at) && (now.Changed == nil || !*now.Changed) &&
		(latest == nil || !m.Of.Before(latest.Taken) && !now.Record.Time.Before(latest.Came)) // as alreadyOf finds
	if !stays {
		m.Of = time.Time{}
		if latest != nil {
			m.Of = latest.Taken
		}
	}
	return m, nil
}
