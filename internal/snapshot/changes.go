package snapshot

import (
	"errors"
	"os"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// Changes returns the extents in which the newer of two snapshots of one disk may differ from the older, from the
// storage's own records. They can be more than what differs, but never less; all that was added at the end is among
// them. The error's status is BadSnapshot if one of the two is not what it was, now or after the records were read.
func Changes(older, newer string, dir state.Dir) (*extent.Set, error) {
	oldIsFile, err := isFile(older)
	if err != nil {
		return nil, err
	}
	newIsFile, err := isFile(newer)
	switch {
	case err != nil:
		return nil, err
	case oldIsFile != newIsFile:
		return nil, exit.Fail(exit.Usage, "%s and %s are not snapshots of one disk: only one of them is a file", older, newer)
	case newIsFile:
		return fileChanges(older, newer, dir)
	}
	return lvm.Changes(older, newer, string(dir))
}

// isFile reports whether the snapshot at path is one of a file.
func isFile(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, exit.Fail(exit.NoInput, "%s: no such snapshot, or it is not active", path)
	}
	return info.Mode().IsRegular(), nil
}

// fileChanges compares the extents of two reflink copies.
func fileChanges(older, newer string, dir state.Dir) (*extent.Set, error) {
	a, err := openFrozen(older, dir)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := openFrozen(newer, dir)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if err := checkPair(a, b); err != nil {
		return nil, err
	}
	return compareFrozen(a, b)
}

func compareFrozen(a, b *frozenFile) (*extent.Set, error) {
	e := extent.NewSet(b.SectorSize(), b.Size())
	err := blockdev.CompareExtents(a.File, b.File, min(a.Size(), b.Size()), e.Add)
	// Asked before err is looked at: they may have been given up meanwhile.
	for _, f := range []*frozenFile{a, b} {
		if err := f.still(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	e.Add(a.Size(), b.Size()-a.Size())
	return e, nil
}

// checkPair demands that two files are snapshots of one, the older one first.
func checkPair(a, b *frozenFile) error {
	switch {
	case a.Snapshot == b.Snapshot:
		return exit.Fail(exit.Usage, "%s and %s are the same snapshot", a.Path(), b.Path())
	case a.Identity.FileSystem != b.Identity.FileSystem:
		return exit.Fail(exit.Usage, "%s and %s are on different file systems", a.Path(), b.Path())
	case a.Source != b.Source:
		return exit.Fail(exit.Usage, "%s and %s are snapshots of different files, even if these had one name (%s)",
			a.Path(), b.Path(), b.Origin)
	case a.Identity.Changed >= b.Identity.Changed:
		return exit.Fail(exit.Usage, "%s was not taken before %s, and --since names the older one", a.Path(), b.Path())
	}
	return nil
}

// frozenFile is an open file to which nobody wrote since xb-snap took it as a snapshot.
type frozenFile struct {
	*blockdev.File
	*fileSnapshot
}

func openFrozen(path string, dir state.Dir) (*frozenFile, error) {
	s, err := findFile(path, dir)
	if err != nil {
		return nil, err
	}
	return s.openFrozen()
}

func (s *fileSnapshot) openFrozen() (*frozenFile, error) {
	if s.Identity == nil {
		return nil, exit.Fail(exit.Usage, "%s cannot be compared: by its record nobody can tell that it still is what it was "+
			"(it is neither on XFS nor on btrfs, or an older xb-snap took it): take another one", s.Snapshot)
	}
	file, err := blockdev.Open(s.Snapshot)
	if err != nil {
		return nil, err
	}
	f := &frozenFile{file, s}
	if err := f.still(); err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

// findFile returns the snapshot of a file that is at path.
func findFile(path string, dir state.Dir) (*fileSnapshot, error) {
	real, err := realPath(path)
	if err != nil {
		return nil, err
	}
	files, bad, err := fileSnapshots(dir)
	for _, s := range files {
		if s.Snapshot == real {
			return s, nil
		}
	}
	if err := (&inventory{damaged: bad}).damagedOf(real); err != nil && isFileName(real) {
		return nil, err
	}
	return nil, errors.Join(err, exit.Fail(exit.Usage, "%s is not a snapshot that xb-snap took", path))
}

// still demands that the file is the one that was made, and that nobody wrote to it.
func (f *frozenFile) still() error {
	now, err := blockdev.IdentityOf(f.OS())
	switch {
	case err != nil && !errors.Is(err, errors.ErrUnsupported):
		return err
	case !now.SameFile(*f.Identity):
		return exit.Fail(exit.NotMade, "%s is not the file that xb-snap made: another one has its name", f.Path())
	case now.Size == 0:
		return blockdev.GivenUp(f.Path())
	case now != *f.Identity:
		return exit.Fail(exit.BadSnapshot, "%s is no snapshot any more: it was written to, renamed or removed "+
			"since it was taken", f.Path())
	}
	return nil
}
