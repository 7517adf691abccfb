package standby

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// createTarget makes the missing target an empty file.
func (t *target) createTarget() error {
	f, err := os.OpenFile(t.Target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target: %w", err)
	}
	err = errors.Join(t.giveAway(f), f.Close(), durable.SyncDir(filepath.Dir(t.Target)))
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target: %w", errors.Join(err, os.Remove(t.Target)))
	}
	if t.file, err = blockdev.OpenWrite(t.Target); err == nil {
		t.prepareFile()
	}
	return err
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
		err = os.Remove(t.Target)
	}
	return errors.Join(err, t.file.Close())
}
