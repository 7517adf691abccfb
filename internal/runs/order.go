package runs

import (
	"slices"
	"strings"
	"time"

	"xen-backup/internal/state"
)

// Order returns the DomUs, the one with the oldest copy first, and before it those of which a disk was never copied.
// A DomU's copy is as old as that of its oldest disk, and that one's is the newest on any peer: a Dom0 that is away
// for long makes no DomU wait. What cannot be understood is no copy.
func Order(dir state.Dir, domus []string) ([]string, error) {
	copies, damaged, err := everything(dir, domus)
	if err != nil {
		return nil, err
	}
	newest := make(map[string]time.Time) // by disk
	for _, d := range damaged {
		newest[d.Disk] = time.Time{}
	}
	for _, c := range copies {
		if c.Name() == "" {
			continue
		}
		of := time.Time{}
		if c.Success != nil {
			of = c.Success.Of()
		}
		if of.After(newest[c.Disk]) || newest[c.Disk].IsZero() {
			newest[c.Disk] = of
		}
	}
	oldest := make(map[string]time.Time) // by DomU
	for disk, of := range newest {
		domu, _, _ := strings.Cut(disk, "/")
		if known, ok := oldest[domu]; !ok || of.Before(known) {
			oldest[domu] = of
		}
	}
	ordered := slices.Clone(domus)
	slices.SortStableFunc(ordered, func(a, b string) int { return oldest[a].Compare(oldest[b]) })
	return ordered, nil
}

// LastCopied returns the copy that this host has made last to a standby, whichever disk that was of; nil if there is none.
func LastCopied(dir state.Dir, peer, target string) (last *Copy) {
	copies, _, _ := everything(dir, nil) // what cannot be read tells nothing
	for _, c := range copies {
		there := c.Success != nil && c.Peer == peer && c.Target == target
		if there && (last == nil || c.Success.Time.After(last.Success.Time)) {
			last = c
		}
	}
	return last
}
