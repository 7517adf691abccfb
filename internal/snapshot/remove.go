package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// Prune removes the snapshots whose owner is dead, and tells the path of each.
func Prune(dir state.Dir, words Words, tell Tell) error {
	found, err := taken(dir)
	found.warnOfDamaged(words.Warn)
	errs := []error{err}
	for _, s := range found.all {
		if s.Dead && !s.foreign {
			errs = append(errs, removeAndTell(s, tell))
		}
	}
	if err == nil {
		errs = append(errs, found.pruneDocuments(dir))
	}
	return errors.Join(errs...)
}

// Remove removes the snapshots at paths, if they are ones that xb-snap took.
func Remove(paths []string, dir state.Dir) error {
	_, err := remove(paths, dir, func(*Snapshot) bool { return false })
	return err
}

// RemoveUnlessKept removes those of them that have not become bases or points in time, and the bases that these have replaced.
func RemoveUnlessKept(paths []string, dir state.Dir) error {
	var origins []string
	all, err := remove(paths, dir, func(s *Snapshot) bool {
		origins = append(origins, s.Origin)
		return s.Owner.isBase() || s.Owner.isPoint()
	})
	return errors.Join(err, removeReplaced(all, origins, dir))
}

// remove removes those that are not to stay, and returns all that can have been among them.
func remove(paths []string, dir state.Dir, stays func(*Snapshot) bool) ([]*Snapshot, error) {
	found, listErr := takenAmong(paths, dir)
	var errs []error
	var points []*Snapshot
	for _, path := range paths {
		s, err := found.find(path, listErr)
		if err == nil && !stays(s) {
			err = s.remove()
			if s.Point != nil {
				points = append(points, s)
			}
		}
		errs = append(errs, err)
	}
	return found.all, errors.Join(append(errs, dropDocuments(points, dir))...)
}

// find returns the snapshot at path, if it is one that xb-snap took. What kept others from being found is its error, too,
// where it may be among these.
func (i *inventory) find(path string, listErr error) (*Snapshot, error) {
	s, err := i.at(path)
	if err != nil && exit.StatusOf(err) != exit.NotMade {
		err = errors.Join(listErr, err)
	}
	return s, err
}

func (i *inventory) at(path string) (*Snapshot, error) {
	name, err := nameOf(path, i.volumes)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(i.all, func(s *Snapshot) bool { return s.Path == name })
	if at >= 0 {
		return i.all[at], nil
	}
	if err := i.damagedOf(name); err != nil && isFileName(name) {
		return nil, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(name, "/dev/") {
		return nil, exit.Fail(exit.NoInput, "%s: no such snapshot", path)
	}
	return nil, exit.Fail(exit.NotMade, "%s was not made by xb-snap, which therefore does not remove it", path)
}

// nameOf returns the name that list would show of the device or file at path,
// which may be inactive or gone.
func nameOf(path string, volumes *lvm.Volumes) (string, error) {
	info, err := os.Stat(path)
	if blockdev.BelowDev(path) || err == nil && !info.Mode().IsRegular() {
		if volumes == nil {
			return "", exit.Fail(exit.NoInput, "%s: LVM is not installed or does not answer", path)
		}
		v, err := volumes.Find(path)
		if err != nil {
			return "", err
		}
		return v.Path(), nil
	}
	dir, err := realPath(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}
