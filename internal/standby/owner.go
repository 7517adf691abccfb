package standby

import (
	"cmp"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// A standby belongs to one disk of one DomU, wherever that runs. Two DomUs that are
// led to one target by a mistake in a configuration, or by two names of one device,
// must not overwrite each other: each would end well, and one would be lost.

// checkOwner demands that the target is the standby of the disk that the delta is of.
// Nothing waives it: to overwrite changes is one thing, to overwrite another DomU's
// disk is never meant.
func (p *patcher) checkOwner() error {
	r := p.record
	if err := p.checkOtherNames(); err != nil {
		return err
	}
	if err := p.checkClaims(); err != nil {
		return err
	}
	switch {
	case p.Disk == "" && p.Peer != "" && r.Disk != "":
		return exit.Fail(exit.NotBasis, "%s is the standby of %s, and %s does not say whose disk it sends (--disk): "+
			"its xen-backup is older than this one; update it on %s", p.Target, ownerName(r.Disk, r.UUID), p.Peer, p.Peer)
	case p.Disk == "":
		return nil
	case r.Disk != "" && r.Disk != p.Disk:
		return p.notOwner("is the standby of %s, not of %s")
	case r.UUID != "" && p.UUID != "" && r.UUID != p.UUID:
		return p.notOwner("is the standby of %s; %s is another DomU of that name")
	case r.Phase != state.None && (r.Disk == "" || r.UUID == "" && p.UUID != ""):
		p.user.Warn("%s: nothing tells so far whose standby it is; from now on it is that of %s", p.Target, ownerName(p.Disk, p.UUID))
	}
	return nil
}

// checkOtherNames looks for a state of the target under another name, to which it may
// have come by a hard link, a bind mount, a second node of a device, or a loop device.
func (p *patcher) checkOtherNames() error {
	if p.file == nil || p.Disk == "" {
		return nil
	}
	all, err := state.Find(p.StateDir).Records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Disk != "" && r.Disk != p.Disk && r.Identity != p.identity && (p.file.Is(r.Identity) || p.file.LiesOn(r.Identity)) {
			return exit.Fail(exit.NotBasis, "%s is the same as %s, which is the standby of %s, not of %s\nnothing was written",
				p.Target, r.Device, ownerName(r.Disk, r.UUID), ownerName(p.Disk, p.UUID))
		}
	}
	return nil
}

func (p *patcher) notOwner(what string) error {
	adopt := "--adopt " + p.Disk
	if p.UUID != "" {
		adopt += " --uuid " + p.UUID
	}
	return exit.Fail(exit.NotBasis, "%s "+what+"\nnothing was written; if the DomU or its disk only has another name now: xb-patch %s %s",
		p.Target, ownerName(p.record.Disk, p.record.UUID), ownerName(p.Disk, p.UUID), adopt, p.Target)
}

func ownerName(disk, uuid string) string {
	if uuid == "" {
		return disk
	}
	return disk + " (UUID " + uuid + ")"
}

// remember saves what the target is now. Whose standby it is stays with it, whatever
// becomes of its content.
func (p *patcher) remember(r *state.Record) error {
	r.Disk, r.UUID = cmp.Or(p.Disk, p.record.Disk), cmp.Or(p.UUID, p.record.UUID)
	return p.device.Save(r)
}

// adopt changes whose standby the target is, and nothing else.
func (p *patcher) adopt() error {
	p.Create = true // a file that was removed is still remembered, and may be another disk's next
	if err := p.identify(); err != nil {
		return err
	}
	if err := p.takeLock(); err != nil {
		return err
	}
	r, err := p.device.Load()
	if err == nil && r.Phase == state.None {
		err = exit.Fail(exit.NoInput, "%s: no sync of it is remembered here, so there is nothing to change: the first one tells whose it is", p.Target)
	}
	if err != nil {
		return err
	}
	p.user.Info("%s was the standby of %s", p.Target, cmp.Or(ownerName(r.Disk, r.UUID), "nobody that was named"))
	r.Disk, r.UUID = p.Disk, p.UUID
	return p.device.Save(r)
}
