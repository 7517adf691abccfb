package lvm

import (
	"os"
	"syscall"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// GivenUp reports whether a volume is a snapshot whose content GiveUp took away.
func GivenUp(v *Volume) bool {
	d, err := lookAt(v.Path())
	return err == nil && d.GivenUp()
}

// Room returns the pool of the thin volume at path, nil if it is none.
func Room(path string) (*blockdev.Room, error) {
	d, err := lookAt(path)
	if err != nil || !d.Thin() {
		return nil, err
	}
	return blockdev.PoolRoom(d.Device)
}

// GiveUp takes a thin snapshot's content away and gives its room back to the pool at once, though somebody reads it,
// or, kept track of below dir, the pool's records. The volume stays, answering every read with an error, until it is
// removed: LVM, whose commands would refuse now and take their time, finds no fault with what the kernel has deleted
// already.
func GiveUp(v *Volume, dir string) error {
	// While it is open here LVM can't remove it, so its number in the pool stays its own.
	f, err := os.Open(v.Path())
	if err != nil {
		return exit.OpenFailed(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := dm.Query(info.Sys().(*syscall.Stat_t).Rdev)
	switch {
	case err != nil:
		return err
	case now == nil || now.UUID != v.dmUUID():
		return exit.Fail(exit.Busy, "%s has become another device", v.Path())
	case now.GivenUp():
		return exit.Fail(exit.NoInput, "%s was given up already", v.Path())
	case !now.Thin() || len(now.Targets) != 1:
		return exit.Fail(exit.Internal, "%s is no thin volume", v.Path())
	}
	d := &device{v.Path(), now}
	pool, err := d.poolDevice()
	if err != nil {
		return err
	}
	// Neither waits for udev, which may wait for the pool.
	const limit = 30 * time.Second
	err = program.Run(limit, nil, "dmsetup", "wipe_table", "--noflush", "--nolockfs", "--noudevsync", now.Name)
	if err != nil {
		return exit.Fail(exit.IOError, "cannot take %s away from its readers: %w", v.Path(), err)
	}
	if err := program.Run(limit, nil, "dmsetup", "message", pool.Name, "0", "delete "+d.param(1)); err != nil {
		return exit.Fail(exit.IOError, "cannot give the room of %s back: %w", v.Path(), err)
	}
	return releaseOurs(pool, dir)
}

// releaseOurs releases the metadata snapshot of a pool if it is ours: what it names keeps
// its room. Whoever is just reading it finds that out at the end.
func releaseOurs(pool *device, dir string) error {
	ours, err := os.ReadFile(lockName(pool, dir))
	if err != nil || len(ours) == 0 {
		return nil // none was ever reserved
	}
	s := &metadataSnap{pool: pool}
	now, err := s.reserved()
	if err != nil || now != string(ours) {
		return err
	}
	return s.message("release_metadata_snap")
}
