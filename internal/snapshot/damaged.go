package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/exit"
)

// damaged is a record of the snapshot of a file that can't be used. Of which file is known only by the name that it shares
// with the snapshot: it keeps nobody from what is of other files.
type damaged struct {
	path  string // of the record
	cause error
}

func (d *damaged) run() string {
	run, _, _ := strings.Cut(filepath.Base(d.path), "-")
	return run
}

func (d *damaged) String() string {
	return fmt.Sprintf("%s cannot be used: %v; put it right, or remove it, and the snapshot that it is of, beside its image: "+
		".NAME.xb-snap-%s", d.path, d.cause, d.run())
}

// warnOfDamaged says what can't be used.
func (i *inventory) warnOfDamaged(warn func(format string, args ...any)) {
	for _, d := range i.damaged {
		warn("the record of a snapshot %v", d)
	}
}

// damagedOf returns an error if a record that can't be used is of a file, or of the snapshot at path. A snapshot that has
// another record is none of its.
func (i *inventory) damagedOf(path string) error {
	for _, d := range i.damaged {
		snap := path
		if !isFileName(path) || !strings.HasSuffix(path, ".xb-snap-"+d.run()) {
			snap = snapshotPath(path, d.run())
		}
		if _, err := os.Lstat(snap); err != nil || slices.ContainsFunc(i.all, func(s *Snapshot) bool { return s.Path == snap }) {
			continue
		}
		return exit.Fail(exit.Config, "the record of %s, %v", snap, d)
	}
	return nil
}
