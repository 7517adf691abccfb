package snapshot

import (
	"os"
	"path/filepath"
	"slices"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
)

// Strays returns what has the name of a snapshot of one of these files, and no record: what was remembered here is lost.
// A run's own go with the next one (removeLost). Whether xb-snap made the others nobody can tell any more, so they are
// listed nowhere and removed by nobody.
func Strays(standbys []string, dir state.Dir) (strays []string, err error) {
	for _, path := range standbys {
		if !blockdev.BelowDev(path) {
			strays = append(strays, lookalikes(path)...)
		}
	}
	if len(strays) == 0 {
		return nil, nil
	}
	// After the files: a record is there before its file, and goes after it.
	found, err := takenFiles(dir)
	return slices.DeleteFunc(strays, func(path string) bool {
		_, gone := os.Lstat(path)
		return gone != nil || found.damagedOf(path) != nil || slices.ContainsFunc(found.all, func(s *Snapshot) bool { return s.Path == path })
	}), err
}

// lookalikes returns what is beside a file and named as a snapshot of it.
func lookalikes(path string) (all []string) {
	path, err := nameOf(path, nil)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, entry := range entries {
		name := entry.Name()
		if found := filepath.Join(filepath.Dir(path), name); isFileName(found) && found == snapshotPath(path, runOf(name)) {
			all = append(all, found)
		}
	}
	return all
}
