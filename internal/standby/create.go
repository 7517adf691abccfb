package standby

import (
	"cmp"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// createTarget makes the missing target an empty file.
func (t *target) createTarget() error {
	dir, place, err := t.place()
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := os.OpenFile(place, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target %s: %w", t.Target, exit.Cause(err))
	}
	made, err := f.Stat()
	if err := errors.Join(err, t.giveAway(f), f.Close(), durable.SyncDir(filepath.Dir(place))); err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target %s: %w", t.Target, errors.Join(err, os.Remove(place)))
	}
	err = t.openWrite()
	if err == nil && !t.file.Is(place) { // its directory has another name now
		err = exit.Fail(exit.Busy, "%s was replaced while it was created", t.Target)
		t.file.Close()
		t.file = nil
	}
	if now, lost := os.Lstat(place); err != nil && lost == nil && os.SameFile(made, now) {
		err = errors.Join(err, os.Remove(place))
	}
	return err
}

// place opens the directory of a missing target, and returns the path by which a file in it is that.
func (t *target) place() (dir *os.File, path string, err error) {
	return t.Allow.Place(t.Target, cmp.Or(t.Disk, t.before.Disk))
}

// giveAway gives a new file the owner and mode that its source has: the user that the
// guests run as may have to open it. Users are known by name, as their numbers differ
// from host to host.
func (t *target) giveAway(f *os.File) error {
	if t.Owner != "" {
		uid, gid, err := lookupOwner(t.Owner)
		if err != nil {
			t.user.Warn("%s stays the user's that creates it: %v", t.Target, err)
		} else if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if t.Mode != 0 {
		return f.Chmod(t.Mode)
	}
	return nil
}

// lookupOwner returns the numbers of USER[:GROUP]; without a group, that of the user.
func lookupOwner(owner string) (uid, gid int, err error) {
	name, group, hasGroup := strings.Cut(owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	if hasGroup {
		g, err := user.LookupGroup(group)
		if err != nil {
			return 0, 0, err
		}
		u.Gid = g.Gid
	}
	uid, err = strconv.Atoi(u.Uid)
	if err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}

// uncreateTarget removes what createTarget has made and nobody has written to.
func (t *target) uncreateTarget() error {
	err := t.file.CheckName(t.identity)
	if err == nil {
		err = t.remove()
	}
	return errors.Join(err, t.file.Close())
}

func (t *target) remove() error {
	dir, place, err := t.place()
	if err != nil {
		return err
	}
	defer dir.Close()
	if !t.file.Is(place) {
		return exit.Fail(exit.Busy, "%s was replaced by another file meanwhile", t.Target)
	}
	return os.Remove(place)
}
