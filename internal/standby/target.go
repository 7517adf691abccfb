package standby

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/lvm"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// target is a device or file that can become another image: what is known of it and, once
// it is open, its lock. Each is closed by itself.
type target struct {
	user User
	Options

	identity    string
	device      *state.Device
	before      *state.Record  // what was remembered when the lock was taken
	file        *blockdev.File // nil: it does not exist
	lock        *state.Lock    // nil: nothing will be written
	consented   bool           // it may lose its changes, as its administrator said
	volume      *lvm.NewVolume // that a missing target is to be; nil: none
	missingLock *state.Lock    // of its path, from when it was missing
}

// open finds the target, takes the lock on its state, opens it and makes sure that nobody
// uses it. The phase is left to the caller.
func open(user User, o Options) (*target, error) {
	t, err := find(user, o)
	if err != nil {
		return nil, err
	}
	if err := t.open(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *target) open() (err error) {
	if err = t.takeLock(); err == nil && !t.missing() {
		err = t.openFile()
	}
	if err == nil {
		t.before, err = t.device.Load()
	}
	return err
}

// look opens the target for reading only, and needs no lock.
func (t *target) look() (err error) {
	if !t.missing() {
		if t.file, err = blockdev.Open(t.Target); err != nil {
			return err
		}
		t.prepareFile()
		if err := t.checkOpened(); err != nil {
			return err
		}
		if err := t.file.CheckWritable(); err != nil {
			return err
		}
		if err := t.checkUnused(); err != nil {
			return err
		}
	}
	t.before, err = t.device.Load()
	return err
}

// find finds the target's state. A missing target is an error unless it is to
// be created, or was and has an apply to be finished.
func find(user User, o Options) (*target, error) {
	t := &target{user: user, Options: o}
	if err := t.Allow.Path(t.Target, t.Disk); err != nil {
		return nil, err
	}
	missing := blockdev.Check(t.Target)
	if missing != nil && t.CreateVG != "" {
		if planned, err := t.planVolume(); planned || err != nil {
			return t, err
		}
	}
	if missing != nil && !(t.missing() && t.mayCreate()) {
		return nil, missing
	}
	var err error
	if t.identity, err = blockdev.Identity(t.Target); err != nil {
		return nil, err
	}
	t.device = state.Dir(t.StateDir).Device(t.identity, t.Target)
	if missing != nil && !t.Create {
		if r, err := t.device.Load(); err == nil && r.Phase != state.Applying {
			return nil, missing
		}
	}
	return t, nil
}

// takeLock takes the target's lock and tells what this run is, so that another one can
// say whom it finds.
func (t *target) takeLock() (err error) {
	if t.lock, err = t.device.Lock(state.Run{Peer: t.Peer, Disk: t.Disk, Session: t.Session}); err != nil {
		return err
	}
	if t.lock.Ended != "" {
		t.user.Warn("%s: ended %s", t.Target, t.lock.Ended)
	}
	return nil
}

func (t *target) missing() bool { return isMissing(t.Target) }

func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// mayCreate reports whether the missing target can be one that --create made: below
// /dev a missing device is missing, and a file in its place would fill the RAM.
func (t *target) mayCreate() bool {
	if _, err := os.Lstat(t.Target); err == nil {
		return false // a link to nowhere, perhaps to a missing device
	}
	info, err := os.Stat(filepath.Dir(t.Target))
	return err == nil && info.IsDir() && !blockdev.BelowDev(t.Target)
}

func (t *target) openFile() error {
	err := t.openWrite()
	if err == nil {
		return t.checkUnused()
	}
	if exit.StatusOf(err) == exit.Busy {
		// Say who it is, if that can be found out.
		if f, openErr := blockdev.Open(t.Target); openErr == nil {
			defer f.Close()
			if who := inuse.Check(f.OS(), t.Target); who != nil {
				return who
			}
		}
	}
	return err
}

// prepareFile comes after the file was opened, and before it is read.
func (t *target) prepareFile() {
	t.file.SetPace(t.Pace)
	t.file.CountReads(t.Read)
}

// openWrite opens the target to be written to, if it is what was found.
func (t *target) openWrite() (err error) {
	if t.file, err = blockdev.OpenWrite(t.Target); err != nil {
		return err
	}
	t.prepareFile()
	if err := t.checkOpened(); err != nil {
		t.file.Close()
		t.file = nil
		return err
	}
	return nil
}

// checkOpened demands that what was opened is what was found, whatever its name leads to by now, and that the peer may
// touch it.
func (t *target) checkOpened() error {
	if err := t.Allow.Open(t.file.OS(), t.Disk); err != nil || t.volume != nil {
		return err
	}
	return cmp.Or(t.file.CheckIdentity(t.identity), snapshot.CheckTarget(t.file))
}

// checkUnused demands that nobody uses the target, and that a file still is what
// its name stands for: what replaced it meanwhile is another image.
func (t *target) checkUnused() error {
	if err := errors.Join(t.file.CheckName(t.identity), t.file.CheckSize()); err != nil {
		return err
	}
	return inuse.Check(t.file.OS(), t.Target)
}

func (t *target) close() {
	if t.file != nil {
		t.file.Close()
	}
	for _, lock := range []*state.Lock{t.lock, t.missingLock} {
		if lock != nil {
			lock.Release()
		}
	}
}

// checkRecord refuses a target whose last apply is unfinished, and one that is another
// disk's standby.
func (t *target) checkRecord() error {
	if t.before.Phase == state.Applying {
		return exit.Fail(exit.Unfinished, "%s: an apply is unfinished; finish it first: xb-patch --recover %s", t.Target,
			text.Operand(t.Target))
	}
	return t.checkOwner()
}

// admit refuses what checkRecord does, and forgets a delta that is still held: its set was
// never committed, and this one takes its place.
func (t *target) admit() error {
	if err := t.checkRecord(); err != nil {
		return err
	}
	h, err := t.device.Held()
	if state.IsUnusable(err) {
		return t.device.Unhold()
	}
	if h == nil || err != nil {
		return err
	}
	if t.Set != "" && h.Set == t.Set && h.Disk != t.Disk {
		return exit.Fail(exit.NotBasis, "%s: it is held for %s, and cannot be the standby of %s too\n"+
			"nothing was written; give one of them another place", t.Target, ownerName(h.Disk, h.UUID), ownerName(t.Disk, t.UUID))
	}
	if h.Spool != "" {
		removeDurably(h.Spool)
	}
	return t.device.Unhold()
}

// size returns the target's size, 0 if it doesn't exist.
func (t *target) size() int64 {
	if t.file == nil {
		return 0
	}
	return t.file.Size()
}

// checkSize refuses an image that does not fit on a device, or is larger than a file
// can be. size -1 is not known.
func (t *target) checkSize(size int64) error {
	switch {
	case size <= t.size():
		return nil
	case t.volume != nil && t.file == nil:
		return nil // it is made as large
	case t.file == nil || !t.file.IsBlock():
		return blockdev.CheckFileSize(t.Target, size)
	}
	return exit.Fail(exit.BadStream, "%s is too small: it has %d bytes, the image %d", t.Target, t.file.Size(), size)
}

// peerName is the source host as far as it is known. That of an apply which is to be
// finished is known from before: who finishes it may be a third host.
func (t *target) peerName() string {
	if t.Peer != "" {
		return t.Peer
	}
	if t.before.Phase == state.Applying {
		return t.before.Peer
	}
	address, _, _ := strings.Cut(t.Session, " ")
	return address
}

// remember saves what the target is now. Whose standby it is stays with it, whatever
// becomes of its content.
func (t *target) remember(r *state.Record) error {
	r.Disk, r.UUID = cmp.Or(t.Disk, t.before.Disk), cmp.Or(t.UUID, t.before.UUID)
	r.After(t.before)
	return t.device.Save(r)
}

// phase returns what is remembered now; what can't be read may be an apply.
func (t *target) phase() state.Phase {
	r, err := t.device.Load()
	if err != nil {
		return state.Applying
	}
	return r.Phase
}

// forget remembers the target as a mix that no spool leads out of.
func (t *target) forget(spool string) error {
	if err := t.remember(t.mix()); err != nil {
		return err
	}
	removeDurably(spool)
	return nil
}

func (t *target) mix() *state.Record {
	return &state.Record{Phase: state.Incomplete, Peer: t.before.Peer}
}

// removeDurably removes a file whose name must not come back after a crash.
func removeDurably(path string) {
	if os.Remove(path) == nil {
		durable.SyncDir(filepath.Dir(path))
	}
}
