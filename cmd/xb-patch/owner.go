package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// A standby belongs to one disk of one DomU, wherever that runs. Two DomUs that are
// led to one target by a mistake in a configuration, or by two names of one device,
// must not overwrite each other: each would end well, and one would be lost.

// parseDisk takes DOMU/DISK apart, just to see that it is one.
func parseDisk(p *string) func(string) error {
	return func(s string) error {
		domu, disk, _ := strings.Cut(s, "/")
		odd := func(r rune) bool { return !unicode.IsGraphic(r) }
		if domu == "" || disk == "" || strings.Contains(disk, "/") || !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
			return fmt.Errorf("%q is not DOMU/DISK, as in domu1/xvda", s)
		}
		*p = s
		return nil
	}
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func parseUUID(p *string) func(string) error {
	return func(s string) error {
		if *p = strings.ToLower(s); !uuidForm.MatchString(*p) {
			return fmt.Errorf("%q is no UUID", s)
		}
		return nil
	}
}

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
	case p.disk == "" && p.peer != "" && r.Disk != "":
		return exit.Fail(exit.NotBasis, "%s is the standby of %s, and %s does not say whose disk it sends (--disk): "+
			"its xen-backup is older than this one; update it on %s", p.target, ownerName(r.Disk, r.UUID), p.peer, p.peer)
	case p.disk == "":
		return nil
	case r.Disk != "" && r.Disk != p.disk:
		return p.notOwner("is the standby of %s, not of %s")
	case r.UUID != "" && p.uuid != "" && r.UUID != p.uuid:
		return p.notOwner("is the standby of %s; %s is another DomU of that name")
	case r.Phase != state.None && (r.Disk == "" || r.UUID == "" && p.uuid != ""):
		p.env.Warn("%s: nothing tells so far whose standby it is; from now on it is that of %s", p.target, ownerName(p.disk, p.uuid))
	}
	return nil
}

// checkOtherNames looks for a state of the target under another name, to which it may
// have come by a hard link, a bind mount, a second node of a device, or a loop device.
func (p *patcher) checkOtherNames() error {
	if p.file == nil || p.disk == "" {
		return nil
	}
	all, err := state.Find(p.stateDir).Records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Disk != "" && r.Disk != p.disk && r.Identity != p.identity && (p.file.Is(r.Identity) || p.file.LiesOn(r.Identity)) {
			return exit.Fail(exit.NotBasis, "%s is the same as %s, which is the standby of %s, not of %s\nnothing was written",
				p.target, r.Device, ownerName(r.Disk, r.UUID), ownerName(p.disk, p.uuid))
		}
	}
	return nil
}

func (p *patcher) notOwner(what string) error {
	adopt := "--adopt " + p.disk
	if p.uuid != "" {
		adopt += " --uuid " + p.uuid
	}
	return exit.Fail(exit.NotBasis, "%s "+what+"\nnothing was written; if the DomU or its disk only has another name now: xb-patch %s %s",
		p.target, ownerName(p.record.Disk, p.record.UUID), ownerName(p.disk, p.uuid), adopt, p.target)
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
	r.Disk, r.UUID = cmp.Or(p.disk, p.record.Disk), cmp.Or(p.uuid, p.record.UUID)
	return p.device.Save(r)
}

// adoptTarget is --adopt: it changes whose standby the target is, and nothing else.
func (p *patcher) adoptTarget(disk string) error {
	p.create = true // a file that was removed is still remembered, and may be another disk's next
	if err := p.identify(); err != nil {
		return err
	}
	if err := p.takeLock(); err != nil {
		return err
	}
	defer p.close()
	r, err := p.device.Load()
	if err == nil && r.Phase == state.None {
		err = exit.Fail(exit.NoInput, "%s: no sync of it is remembered here, so there is nothing to change: the first one tells whose it is", p.target)
	}
	if err != nil {
		return err
	}
	p.env.Info("%s was the standby of %s", p.target, cmp.Or(ownerName(r.Disk, r.UUID), "nobody that was named"))
	r.Disk, r.UUID = disk, p.uuid
	return p.device.Save(r)
}
