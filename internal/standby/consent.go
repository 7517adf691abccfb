package standby

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// What has diverged may be overwritten by consent: of whoever sends (Options.Force), or of whoever has the target, given
// there beforehand. The latter names what is lost: by its digest, and from whom and of which disk the image may be that
// takes its place.

// Discard gives consent to lose the changes on a target that has diverged, by the user of that name, and returns it.
func Discard(user User, o Options, by string) (*state.Consent, error) {
	o.Create = true // a file that is missing is not for long, or has left something
	t, err := find(user, o)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.open(); err != nil {
		return nil, err
	}
	t.Disk = cmp.Or(t.Disk, t.before.Disk)
	if err := t.checkRecord(); err != nil {
		return nil, err
	}
	known, err := t.remembered()
	if err == nil {
		err = t.checkDiscard(known)
	}
	if err == nil && t.Peer == "" {
		t.Peer, err = t.lastPeer(known)
	}
	if err != nil {
		return nil, err
	}
	found, err := t.read(known)
	if err != nil {
		return nil, err
	}
	if t.difference(known, found, stream.Image{}) == "" {
		return nil, exit.Fail(exit.No, "%s has not diverged: it is the image that %s had of it; there is nothing to discard",
			t.Target, hostName(t.Peer))
	}
	name, _, _ := strings.Cut(t.Disk, "/")
	if words := domain.MigratedAway(context.Background(), name); words != "" {
		user.Warn("%s: if its disks did not go with it, %s is the only good image", words, t.Target)
	}
	c := &state.Consent{Peer: t.Peer, Disk: t.Disk, Image: found, By: by}
	return c, t.device.SaveConsent(c, t.before)
}

// checkDiscard refuses what has nothing to be discarded, and what is not told.
func (t *target) checkDiscard(known []*state.Record) error {
	switch {
	case len(known) == 0 && t.before.Phase == state.Incomplete:
		return exit.Fail(exit.No, "%s holds an incomplete first copy: the next one overwrites it in any case", t.Target)
	case len(known) == 0 && t.file == nil:
		return exit.Fail(exit.NoInput, "%s: no such device or file, and no sync of it is remembered here", t.Target)
	case len(known) == 0:
		return exit.Fail(exit.NoInput, "%s: no sync of it is remembered here, so nothing tells what would be discarded", t.Target)
	case t.file == nil:
		return exit.Fail(exit.NotBasis, "%s is missing, although a sync left an image in it (is its file system not mounted?)\n"+
			"if it is gone for good, only whoever sends can have it made again: --force-diverged", t.Target)
	case t.Disk == "":
		return exit.Fail(exit.Usage, "%s: nothing tells so far whose standby it is: say it with --disk DOMU/DISK", t.Target)
	}
	return nil
}

// lastPeer returns the host that had the last image of the target too.
func (t *target) lastPeer(known []*state.Record) (string, error) {
	later := func(r *state.Record) bool { return r.Time.After(t.before.Time) }
	if t.before.Phase == state.Clean && !slices.ContainsFunc(known, later) {
		return t.before.Peer, nil
	}
	var peers []string
	for _, r := range known {
		if r != t.before {
			peers = append(peers, r.Peer)
		}
	}
	slices.Sort(peers)
	if peers = slices.Compact(peers); len(peers) > 1 {
		return "", exit.Fail(exit.Usage, "%s was sent to %s: say with --peer from which of them the next image may come", t.Target,
			strings.Join(peers, " and "))
	}
	return peers[0], nil
}

// read returns what the target holds, as xb-sig would sign it.
func (t *target) read(known []*state.Record) (stream.Image, error) {
	size := t.size()
	if t.file.IsBlock() {
		size = min(size, lastImage(known).Size)
	}
	c := begin(t, nil)
	c.delta = noDelta(t.newest(known).Image)
	proof := c.beginProof(size)
	for _, r := range []*state.Record{t.device.LoadSeen(), t.before} {
		if (r.Phase == state.Seen || r.Phase == state.Clean) && r.Image.Size == size && r.Image.Comparable(c.delta.Source) &&
			blockdev.Untouched(r.Witness, proof.witness) {
			return r.Image, nil
		}
	}
	found, err := c.digest(size, "reading")
	if err == nil {
		err = c.check(proof)
	}
	return found, err
}

// lastImage returns the image of the last sync, whichever way it went.
func lastImage(known []*state.Record) stream.Image {
	return slices.MaxFunc(known, func(a, b *state.Record) int { return a.Time.Compare(b.Time) }).Image
}

// consentTo returns the consent to lose an image that the target holds; or nil and, where there is one for something
// else, why it does not fit.
func (t *target) consentTo(basis stream.Image) (c *state.Consent, unfit string) {
	c, err := t.device.Consent()
	if err != nil {
		return nil, "\n" + err.Error()
	}
	if c == nil || t.file == nil {
		return nil, ""
	}
	switch expired := c.Expired(); {
	case expired != "":
		unfit = expired
		if t.lock != nil { // a clock that is set must not bring it back
			t.device.RemoveConsent()
		}
	case !c.IsOf(t.before):
		unfit = "it was used, or something else has become of the target since"
	case c.Peer != t.peerName():
		unfit = "it is for an image from " + hostName(c.Peer)
	case c.Disk != t.Disk:
		unfit = "it is for an image of " + c.Disk
	case c.Image != basis:
		unfit = "it is to lose " + c.Image.String()
	default:
		return c, ""
	}
	return nil, fmt.Sprintf("\n%s to lose changes does not fit: %s", c, unfit)
}

// divergedCures says how a delta may overwrite what has diverged.
func (t *target) divergedCures(known []*state.Record, basis stream.Image) string {
	comparable := func(r *state.Record) bool { return r.Image.Comparable(basis) }
	if t.file == nil || !slices.ContainsFunc(known, comparable) {
		return t.forceCure()
	}
	return t.forceCure() + "; or, on " + t.cure("the host of the target", here()) + ": " + t.discardCure(known)
}

// discardCure is the command by which the target's administrator consents.
func (t *target) discardCure(known []*state.Record) string {
	command := "xb-patch --discard-changes"
	if peer, err := t.lastPeer(known); t.Peer != "" && (err != nil || peer != t.Peer) {
		command += " --peer " + t.Peer
	}
	if t.before.Disk == "" {
		command += " --disk " + cmp.Or(t.Disk, "DOMU/DISK")
	}
	return command + " " + text.Operand(t.Target)
}

// consent is what is told of one.
type consent struct {
	Peer string `json:"peer,omitempty"`
	Disk string `json:"disk"`
	stream.ImageFields
	By    string    `json:"by"`
	Given time.Time `json:"given"`
	Until time.Time `json:"until"`
}

// validConsent returns what --state tells of a consent; nil if it would let nothing pass.
func (t *target) validConsent(now *state.Record) *consent {
	c, err := t.device.Consent()
	if c == nil || err != nil || c.Expired() != "" || !c.IsOf(now) {
		return nil
	}
	return &consent{c.Peer, c.Disk, c.Image.Fields(), c.By, c.Given, c.Until()}
}
