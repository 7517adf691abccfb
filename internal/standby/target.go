package standby

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// patcher is one run on one target.
type patcher struct {
	user User
	Options

	identity string
	device   *state.Device
	record   *state.Record   // as it was when the lock was taken
	file     *blockdev.File  // nil: to be created
	basis    *proof          // of what the target held before the first write; nil: it need not be proved
	stranger *stranger       // what is in a target that is no standby yet
	guard    *blockdev.Guard // of the writes; nil: none was begun
	lock     *state.Lock
	progress Progress
	input    input
	writes   atomic.Int32 // where: 0, onSpool or onTarget
}

// open takes the lock on the target's state, opens the target and makes sure that
// nobody uses it. The phase is left to the caller.
func (p *patcher) open() (err error) {
	if err := p.identify(); err != nil {
		return err
	}
	if err := p.takeLock(); err != nil {
		return err
	}
	if !p.missing() {
		if err := p.openTarget(); err != nil {
			return err
		}
	}
	if p.record, err = p.device.Load(); err != nil {
		return err
	}
	p.startProgress()
	return nil
}

// identify finds the target's state. A missing target is an error unless it is to
// be created, or was and has an apply to be finished.
func (p *patcher) identify() error {
	missing := blockdev.Check(p.Target)
	if missing != nil && !(p.missing() && p.mayCreate()) {
		return missing
	}
	var err error
	if p.identity, err = blockdev.Identity(p.Target); err != nil {
		return err
	}
	p.device = state.Find(p.StateDir).Device(p.identity, p.Target)
	if missing != nil && !p.Create {
		if r, err := p.device.Load(); err == nil && r.Phase != state.Applying {
			return missing
		}
	}
	return nil
}

func (p *patcher) missing() bool { return isMissing(p.Target) }

func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// mayCreate tells whether the missing target can be one that --create made: below
// /dev a missing device is missing, and a file in its place would fill the RAM.
func (p *patcher) mayCreate() bool {
	if _, err := os.Lstat(p.Target); err == nil {
		return false // a link to nowhere, perhaps to a missing device
	}
	info, err := os.Stat(filepath.Dir(p.Target))
	return err == nil && info.IsDir() && !blockdev.BelowDev(p.Target)
}

func (p *patcher) openTarget() error {
	file, err := blockdev.OpenWrite(p.Target)
	if err == nil {
		p.file = file
		return p.checkUnused()
	}
	if exit.StatusOf(err) == exit.Busy {
		// Say who it is, if that can be found out.
		if f, openErr := blockdev.Open(p.Target); openErr == nil {
			defer f.Close()
			if who := inuse.Check(f.OS(), p.Target); who != nil {
				return who
			}
		}
	}
	return err
}

// checkUnused demands that nobody uses the target, and that a file still is what
// its name stands for: what replaced it meanwhile is another image.
func (p *patcher) checkUnused() error {
	if err := errors.Join(p.file.CheckName(p.identity), p.file.CheckSize()); err != nil {
		return err
	}
	return inuse.Check(p.file.OS(), p.Target)
}

func (p *patcher) close() {
	if p.guard != nil {
		p.guard.Close()
	}
	if p.file != nil {
		p.file.Close()
	}
	if p.lock != nil {
		p.lock.Release()
	}
}

// checkRecord refuses a target whose last apply is unfinished, and one that is another
// disk's standby.
func (p *patcher) checkRecord() error {
	if p.record.Phase == state.Applying {
		return exit.Fail(exit.Unfinished, "%s: an apply is unfinished; finish it first: xb-patch --recover %s", p.Target, text.Operand(p.Target))
	}
	return p.checkOwner()
}

// createTarget makes the missing target an empty file.
func (p *patcher) createTarget() error {
	f, err := os.OpenFile(p.Target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target: %w", err)
	}
	err = errors.Join(p.giveAway(f), f.Close(), durable.SyncDir(filepath.Dir(p.Target)))
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the target: %w", errors.Join(err, os.Remove(p.Target)))
	}
	p.file, err = blockdev.OpenWrite(p.Target)
	return err
}

// giveAway gives a new file the owner and mode that its source has: the user that the
// guests run as may have to open it. Users are known by name, as their numbers differ
// from host to host.
func (p *patcher) giveAway(f *os.File) error {
	if p.Owner != "" {
		uid, gid, err := lookupOwner(p.Owner)
		if err != nil {
			p.user.Warn("%s stays the user's that creates it: %v", p.Target, err)
		} else if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if p.Mode != 0 {
		return f.Chmod(p.Mode)
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
func (p *patcher) uncreateTarget() error {
	err := p.file.CheckName(p.identity)
	if err == nil {
		err = os.Remove(p.Target)
	}
	return errors.Join(err, p.file.Close())
}

// size returns the target's size, 0 if it doesn't exist.
func (p *patcher) size() int64 {
	if p.file == nil {
		return 0
	}
	return p.file.Size()
}

// checkSize refuses an image that does not fit on a device, or is larger than a file
// can be. size -1 is not known.
func (p *patcher) checkSize(size int64) error {
	switch {
	case size <= p.size():
		return nil
	case p.file == nil || !p.file.IsBlock():
		return blockdev.CheckFileSize(p.Target, size)
	}
	return exit.Fail(exit.BadStream, "%s is too small: it has %d bytes, the image %d", p.Target, p.file.Size(), size)
}

// setClean remembers the target as the delta's source image, and the witness of when
// it was proved. Everything before it must be on the disk.
func (p *patcher) setClean(d rdiff.Delta, witness string) error {
	return p.remember(&state.Record{Phase: state.Clean, Image: d.Source, Peer: p.peerName(), Witness: witness})
}

// peerName is the source host as far as it is known. That of an apply which is to be
// finished is known from before: who finishes it may be a third host.
func (p *patcher) peerName() string {
	if p.Peer != "" {
		return p.Peer
	}
	if p.record.Phase == state.Applying {
		return p.record.Peer
	}
	address, _, _ := strings.Cut(p.Session, " ")
	return address
}
