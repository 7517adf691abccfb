package runs

import (
	"strings"
	"time"

	"xen-backup/internal/standby"
	"xen-backup/internal/state"
)

// When says of when this host's standby of a DomU's disks is, DOMU/DISK each: of one set, or each disk of its own time.
func When(dir state.Dir, disks []string) (string, error) {
	holdings, err := standby.Holdings(dir, anyDisk)
	if err != nil {
		return "", err
	}
	one := true
	var first time.Time
	var each []string
	for i, disk := range disks {
		h := newest(holdings, disk)
		one = one && h != nil && h.Err == nil && h.Record.Phase == state.Clean && !h.Missing && h.WholeSet != nil && *h.WholeSet
		if one && i == 0 {
			first = h.Of()
		}
		one = one && h.Of().Equal(first)
		_, name, _ := strings.Cut(disk, "/")
		each = append(each, name+" "+whenOf(h))
	}
	if one && len(disks) > 0 {
		return "is of " + first.UTC().Format(timeForm), nil
	}
	return "is of no one set: " + strings.Join(each, ", "), nil
}

func anyDisk(string) bool { return true }

// whenOf says of when what is held of a disk is, or what it is instead.
func whenOf(h *standby.Holding) string {
	switch {
	case h == nil || h.Err == nil && h.Missing:
		return "missing"
	case h.Err != nil:
		return "unreadable"
	case h.Record.Phase != state.Clean:
		return string(h.Record.Phase)
	}
	return h.Of().UTC().Format(timeForm)
}

// newest returns what is held of a disk; nil if nothing is. What was its standby before it got another place is older.
// If it cannot be told which is newer, it is the one that cannot be read.
func newest(holdings []standby.Holding, disk string) (newest *standby.Holding) {
	for i := range holdings {
		h := &holdings[i]
		switch {
		case h.Disk != disk || newest != nil && newest.Err != nil:
		case newest == nil || h.Err != nil || h.Record.Time.After(newest.Record.Time):
			newest = h
		}
	}
	return newest
}
