package standby

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// checkDiverged holds the basis against the images that this host knows to exist
// elsewhere: the one it got last, and those it sent.
func (t *target) checkDiverged(basis, source stream.Image) error {
	known, err := t.remembered()
	if err != nil {
		return err
	}
	if len(known) == 0 {
		if !t.InPlace {
			t.tellFirstContact(source.Size)
		}
		return nil
	}
	why := t.difference(known, basis, source)
	if why == "" {
		t.tellOtherPeer(basis)
		return nil
	}
	consent, unfit := t.consentTo(basis)
	switch {
	case consent != nil:
		t.consented = true
		t.user.Warn("%s has diverged and may be overwritten all the same, by %s: %s; lost is %s", t.Target, consent, why, basis)
		return nil
	case t.Force:
		t.user.Warn("%s has diverged and may be overwritten all the same (--force-diverged): %s", t.Target, why)
		return nil
	}
	return t.diverged(known, basis, why+", the delta's basis is "+basis.String()+unfit)
}

// diverged is the error of a target that is not overwritten, and says how it can be.
func (t *target) diverged(known []*state.Record, basis stream.Image, why string) error {
	return exit.Fail(exit.NotBasis, "%s has diverged: %s\nchanges on it that exist nowhere else would be lost; to overwrite them: %s",
		t.Target, why, t.divergedCures(known, basis))
}

// tellOtherPeer says so if the image does not come from the host that the last one came from.
func (t *target) tellOtherPeer(basis stream.Image) {
	r := t.before
	if r.Phase == state.Clean && r.Image == basis && t.Peer != "" && t.Peer != r.Peer {
		t.user.Warn("%s has its last image from %s, and gets the next one from %s", t.Target, hostName(r.Peer), t.Peer)
	}
}

func hostName(peer string) string { return cmp.Or(peer, "a host that was not named") }

// difference says in words why the basis is none of the images that are known and that this
// peer may replace; "" if it is one.
func (t *target) difference(known []*state.Record, basis, source stream.Image) (why string) {
	why, comparable := "it was changed since its last sync", false
	if t.file == nil {
		why = "it is missing, although a sync left an image in it (is its file system not mounted?)"
	}
	for _, r := range known {
		comparable = comparable || r.Image.Comparable(basis)
		if r.Image != basis {
			continue
		}
		if t.vouches(r) {
			return ""
		}
		why = "it was sent to " + r.Peer + " as it is and is not known to " + t.Peer + ", which may bring an older image"
	}
	if known[0].Image == source {
		why += ", or this delta was applied already"
	}
	if !comparable {
		why = "the delta's digests cannot be compared with those remembered: " +
			t.cure("use -b and --hash as before", "set BLOCK_SIZE and HASH as before")
	}
	return why + "; remembered is " + t.newest(known).Image.String()
}

// remembered returns the images of the target that exist elsewhere too.
func (t *target) remembered() ([]*state.Record, error) {
	known, err := t.device.Sent()
	if err == nil && t.before.Phase == state.Clean {
		known = append([]*state.Record{t.before}, known...)
	}
	return known, err
}

// vouches reports whether an image that is remembered may be overwritten by this peer:
// one that the target only sent to a third host is newer than what the peer knew.
func (t *target) vouches(r *state.Record) bool {
	return r == t.before || t.Peer == "" || r.Peer == t.Peer
}

// newest returns the last image that both this host and the peer had, or if there is none
// the last that any other host had.
func (t *target) newest(known []*state.Record) *state.Record {
	return slices.MaxFunc(known, func(a, b *state.Record) int {
		if t.vouches(a) != t.vouches(b) {
			if t.vouches(a) {
				return 1
			}
			return -1
		}
		return a.Time.Compare(b.Time)
	})
}

// tellFirstContact says what can't be known of a target of which no sync is remembered.
func (t *target) tellFirstContact(size int64) {
	t.warnSectors()
	if t.file == nil {
		return
	}
	t.user.Warn("first contact with %s: no sync of it is remembered here, so nothing tells whether it was changed",
		t.Target)
	if tail := t.file.Size() - size; t.file.IsBlock() && tail > 0 {
		t.user.Warn("%s is larger than the image: its last %d bytes are left alone", t.Target, tail)
	}
}

// explainMigration adds to a refusal what a live migration is the reason of: with its
// disks, it has written to this one until the other host had them all; without them,
// this is the only image. The two look the same from here.
func (t *target) explainMigration(err error) error {
	name, _, _ := strings.Cut(t.Disk, "/")
	if exit.StatusOf(err) != exit.NotBasis || name == "" {
		return err
	}
	if words := domain.MigratedAway(context.Background(), name); words != "" {
		return exit.Fail(exit.NotBasis,
			"%w\n%s: if its disks were copied on the way (virsh migrate --copy-storage-all), this is what it left "+
				"behind and may be overwritten; if not, this is the only good image", err, words)
	}
	return err
}
