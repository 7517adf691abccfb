package standby

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// A standby belongs to one disk of one DomU, wherever that runs. Two DomUs that are
// led to one target by a mistake in a configuration, or by two names of one device,
// must not overwrite each other: each would end well, and one would be lost.

// checkOwner demands that the target is the standby of the disk that the delta is of.
// Nothing waives it: to overwrite changes is one thing, to overwrite another DomU's
// disk is never meant.
func (t *target) checkOwner() error {
	r := t.before
	if t.file != nil {
		if err := t.Allow.Open(t.file.OS(), cmp.Or(t.Disk, r.Disk)); err != nil {
			return err
		}
	}
	if err := t.checkOtherNames(); err != nil {
		return err
	}
	if err := t.checkClaims(); err != nil {
		return err
	}
	switch {
	case t.Disk == "" && t.Peer != "" && r.Disk != "" && r.Phase != state.Applying: // else it is known what is finished
		return exit.Fail(exit.NotBasis, "%s is the standby of %s, and %s does not say whose disk it sends (--disk): "+
			"its xen-backup is older than this one; update it on %s", t.Target, ownerName(r.Disk, r.UUID), t.Peer, t.Peer)
	case t.Disk == "":
		return nil
	case r.Disk != "" && r.Disk != t.Disk:
		return t.notOwner("is the standby of %s, not of %s")
	case r.UUID != "" && t.UUID != "" && r.UUID != t.UUID:
		return t.notOwner("is the standby of %s; %s is another DomU of that name")
	case r.Phase != state.None && (r.Disk == "" || r.UUID == "" && t.UUID != ""):
		t.user.Warn("%s: nothing tells so far whose standby it is; from now on it is that of %s", t.Target,
			ownerName(t.Disk, t.UUID))
	}
	return nil
}

// checkOtherNames looks for a state of the target under another name, to which it may
// have come by a hard link, a bind mount, a second node of a device, or a loop device.
func (t *target) checkOtherNames() error {
	if t.file == nil || t.Disk == "" {
		return nil
	}
	all, err := state.Dir(t.StateDir).Records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Disk != "" && r.Disk != t.Disk && r.Identity != t.identity && (t.file.Is(r.Identity) ||
			t.file.LiesOn(r.Identity)) {
			return exit.Fail(exit.NotBasis, "%s is the same as %s, which is the standby of %s, not of %s\nnothing was written",
				t.Target, r.Device, ownerName(r.Disk, r.UUID), ownerName(t.Disk, t.UUID))
		}
	}
	return nil
}

// checkClaims refuses a target that another domain of this host has as its disk. It need
// not run, and it may have this DomU's name.
func (t *target) checkClaims() error {
	disk := cmp.Or(t.Disk, t.before.Disk)
	if disk == "" { // nobody says whose disk is not another's
		return nil
	}
	path, err := filepath.Abs(t.Target)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(disk, "/")
	claims, err := domain.Claims(context.Background(), t.Toolstack, path)
	if err != nil {
		if t.firstContact() {
			return err
		}
		// It is the standby that it was: what it holds exists elsewhere too.
		t.user.Info("%v", err)
	}
	for _, c := range claims {
		if !c.Of(name, cmp.Or(t.UUID, t.before.UUID)) {
			return exit.Fail(exit.Busy, "%s belongs to another domain of this host: %s\n"+
				"nothing was written; give the standby of %s another place, or take the disk from that domain", t.Target, c, disk)
		}
	}
	return nil
}

func (t *target) notOwner(what string) error {
	adopt := "--adopt " + t.Disk
	if t.UUID != "" {
		adopt += " --uuid " + t.UUID
	}
	return exit.Fail(exit.NotBasis,
		"%s "+what+"\nnothing was written; if the DomU or its disk only has another name now: xb-patch %s %s",
		t.Target, ownerName(t.before.Disk, t.before.UUID), ownerName(t.Disk, t.UUID), adopt, t.Target)
}

func ownerName(disk, uuid string) string {
	if uuid == "" {
		return disk
	}
	return disk + " (UUID " + uuid + ")"
}

// Adopt makes the target the standby of o.Disk, and changes nothing else.
func Adopt(user User, o Options) error {
	o.Create = true // a file that was removed is still remembered, and may be another disk's next
	t, err := find(user, o)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.takeLock(); err != nil {
		return err
	}
	r, err := t.device.Load()
	if err == nil && r.Phase == state.None {
		err = exit.Fail(exit.NoInput,
			"%s: no sync of it is remembered here, so there is nothing to change: the first one tells whose it is", t.Target)
	}
	if err != nil {
		return err
	}
	t.user.Info("%s was the standby of %s", t.Target, cmp.Or(ownerName(r.Disk, r.UUID), "nobody that was named"))
	r.Disk, r.UUID = t.Disk, t.UUID
	return t.device.Save(r)
}
