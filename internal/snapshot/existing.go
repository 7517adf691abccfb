package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Snapshot is one that xb-snap took. Its fields are what list shows.
type Snapshot struct {
	Snapshot string    `json:"snapshot"`
	Origin   string    `json:"origin"`
	Kind     string    `json:"kind"`                   // thick, thin or file
	Size     int64     `json:"size"`                   // bytes: of a thick one what it may take, else of its image
	Used     *float64  `json:"used_percent,omitempty"` // of Size, of a thick one
	Valid    bool      `json:"valid"`
	Owner    Owner     `json:"owner"`
	Dead     bool      `json:"owner_dead"`
	Created  time.Time `json:"created"`

	remove  func() error
	giveUp  func() error // nil: it shares no room with guests
	givenUp bool
}

// taken returns all snapshots that xb-snap took. Even with an error, those that
// it returns are there.
func taken(dir state.Dir) ([]*Snapshot, *lvm.Volumes, error) {
	var all []*Snapshot
	files, fileErr := fileSnapshots(dir)
	for _, s := range files {
		all = append(all, s.existing())
	}
	volumes, err := lvm.List()
	if errors.Is(err, exec.ErrNotFound) { // a host without LVM
		return all, nil, fileErr
	} else if err != nil {
		return all, nil, errors.Join(fileErr, err)
	}
	for _, v := range volumes.Tagged(tag) {
		if isOurs(v) {
			all = append(all, existingVolume(v, dir))
		}
	}
	return all, volumes, fileErr
}

// isOurs tells whether xb-snap took it. Somebody may use a tag or a name like ours
// for a volume of his own, so all that it gives a snapshot must be there.
func isOurs(v *lvm.Volume) bool {
	hasOwner := slices.ContainsFunc(v.Tags, func(t string) bool { return strings.HasPrefix(t, ownerTag) })
	return hasOwner && volumeName.MatchString(v.Name) && (v.Thin() || v.ThickSnapshot())
}

func existingVolume(v *lvm.Volume, dir state.Dir) *Snapshot {
	e := &Snapshot{
		Snapshot: v.Path(), Origin: "/dev/" + v.VG + "/" + v.Origin, Kind: "thick",
		Size: v.Size, Valid: !v.Invalid(), Created: v.Created,
		remove: func() error { return lvm.Remove(v, tag) },
	}
	if v.Thin() {
		e.Kind, e.givenUp = "thin", lvm.GivenUp(v)
		e.giveUp = func() error { return lvm.GiveUp(v, string(dir)) }
		e.Valid = !e.givenUp
	} else {
		e.Used = &v.DataUsed
	}
	for _, t := range v.Tags {
		if word, ok := strings.CutPrefix(t, ownerTag); ok {
			e.Owner = Owner(word)
		}
	}
	e.Dead = e.Owner.dead()
	return e
}

func (s *fileSnapshot) existing() *Snapshot {
	e := &Snapshot{
		Snapshot: s.Snapshot, Origin: s.Origin, Kind: "file",
		Owner: s.Owner, Dead: s.Owner.dead(), Created: s.Created, remove: s.remove, giveUp: s.giveUp,
	}
	if info, err := os.Stat(s.Snapshot); err == nil {
		e.Size, e.givenUp = info.Size(), info.Size() == 0
		e.Valid = !e.givenUp
	}
	return e
}

// String is the line that list prints of it.
func (e *Snapshot) String() string {
	use := "-"
	switch {
	case e.givenUp:
		use = "given up"
	case !e.Valid:
		use = "invalid"
	case e.Used != nil:
		use = fmt.Sprintf("%.1f %%", *e.Used)
	}
	return strings.Join([]string{e.Snapshot, e.Origin, e.Kind, text.FormatSize(e.Size), use, e.Owner.String()}, "\t")
}

// List returns all snapshots that xb-snap took. Even with an error, those that it
// returns are there.
func List(dir state.Dir) ([]*Snapshot, error) {
	all, _, err := taken(dir)
	return all, err
}

// Prune removes the snapshots whose owner is dead, and tells the path of each.
func Prune(dir state.Dir, tell Tell) error {
	all, _, err := taken(dir)
	errs := []error{err}
	for _, e := range all {
		if !e.Dead {
			continue
		}
		err := e.remove()
		if err == nil {
			err = tell(e.Snapshot)
		} else if exit.StatusOf(err) == exit.NoInput { // only its record was left
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Remove removes the snapshots at paths, if they are ones that xb-snap took.
func Remove(paths []string, dir state.Dir) error {
	all, volumes, listErr := taken(dir)
	var errs []error
	for _, path := range paths {
		e, err := find(path, all, volumes)
		if err == nil {
			err = e.remove()
		} else if exit.StatusOf(err) != exit.Refused {
			err = errors.Join(listErr, err) // it may be among those that could not be read
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Check describes how full the snapshot at path is. The error's status is BadSnapshot if
// its content is not to be had.
func Check(path string, dir state.Dir) (string, error) {
	use, err := checkFile(path, dir)
	if err == nil && use == "" {
		use, err = lvm.Check(path)
	}
	return use, err
}

// Changes returns the extents in which two snapshots of a logical volume may differ: see
// lvm.Changes.
func Changes(older, newer string, dir state.Dir) (*extent.Set, error) {
	return lvm.Changes(older, newer, string(dir))
}

// find returns the snapshot at path, if it is one that xb-snap took.
func find(path string, all []*Snapshot, volumes *lvm.Volumes) (*Snapshot, error) {
	name, err := nameOf(path, volumes)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(e *Snapshot) bool { return e.Snapshot == name })
	if i >= 0 {
		return all[i], nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(name, "/dev/") {
		return nil, exit.Fail(exit.NoInput, "%s: no such snapshot", path)
	}
	return nil, exit.Fail(exit.Refused, "%s was not made by xb-snap, which therefore does not remove it", path)
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
