package standby

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// judge proves, before the first write, that the target is the delta's basis and
// that it still is what a sync left there: else the changes on it exist nowhere
// else.
func (p *patcher) judge(d rdiff.Delta) error {
	if err := p.checkSize(d.Source.Size); err != nil {
		return err
	}
	err := p.checkDiverged(d.Basis, d.Source)
	if err == nil {
		err = p.proveBasis(d)
	}
	return p.explainMigration(err)
}

// explainMigration adds to a refusal what a live migration is the reason of: with its
// disks, it has written to this one until the other host had them all; without them,
// this is the only image. The two look the same from here.
func (p *patcher) explainMigration(err error) error {
	name, _, _ := strings.Cut(p.Disk, "/")
	if exit.StatusOf(err) != exit.NotBasis || name == "" {
		return err
	}
	if words := domain.MigratedAway(context.Background(), name); words != "" {
		return exit.Fail(exit.NotBasis, "%w\n%s: if its disks were copied on the way (virsh migrate --copy-storage-all), this is what it left "+
			"behind and may be overwritten; if not, this is the only good image", err, words)
	}
	return err
}

// checkDiverged holds the basis against the images that this host knows to exist
// elsewhere: the one it got last, and those it sent.
func (p *patcher) checkDiverged(basis, source stream.Image) error {
	known, err := p.remembered()
	if err != nil {
		return err
	}
	if len(known) == 0 {
		if !p.InPlace {
			p.warnSectors()
		}
		if p.file != nil && !p.InPlace {
			p.user.Warn("first contact with %s: no sync of it is remembered here, so nothing tells whether it was changed", p.Target)
			if tail := p.file.Size() - source.Size; p.file.IsBlock() && tail > 0 {
				p.user.Warn("%s is larger than the image: its last %d bytes are left alone", p.Target, tail)
			}
		}
		return nil
	}
	why, comparable := "it was changed since its last sync", false
	if p.file == nil {
		why = "it is missing, although a sync left an image in it (is its file system not mounted?)"
	}
	for _, r := range known {
		comparable = comparable || r.Image.Comparable(basis)
		if r.Image != basis {
			continue
		}
		if p.vouches(r) {
			if r == p.record && p.Peer != "" && p.Peer != r.Peer {
				p.user.Warn("%s has its last image from %s, and gets the next one from %s",
					p.Target, cmp.Or(r.Peer, "a host that was not named"), p.Peer)
			}
			return nil
		}
		why = "it was sent to " + r.Peer + " as it is and is not known to " + p.Peer + ", which may bring an older image"
	}
	if known[0].Image == source {
		why += ", or this delta was applied already"
	}
	if !comparable {
		why = "the delta's digests cannot be compared with those remembered: use -b and --hash as before"
	}
	why += "; remembered is " + p.newest(known).Image.String()
	if p.Force {
		p.user.Warn("%s has diverged and may be overwritten all the same (--force-diverged): %s", p.Target, why)
		return nil
	}
	return exit.Fail(exit.NotBasis, "%s has diverged: %s, the delta's basis is %s\n"+
		"changes on it that exist nowhere else would be lost; to overwrite them: --force-diverged", p.Target, why, basis)
}

// remembered returns the images of the target that exist elsewhere too.
func (p *patcher) remembered() ([]*state.Record, error) {
	known, err := p.device.Sent()
	if err == nil && p.record.Phase == state.Clean {
		known = append([]*state.Record{p.record}, known...)
	}
	return known, err
}

// vouches tells whether an image that is remembered may be overwritten by this peer:
// one that the target only sent to a third host is newer than what the peer knew.
func (p *patcher) vouches(r *state.Record) bool {
	return r == p.record || p.Peer == "" || r.Peer == p.Peer
}

// newest returns the last image that both this host and the peer had, or if there is none
// the last that any other host had.
func (p *patcher) newest(known []*state.Record) *state.Record {
	return slices.MaxFunc(known, func(a, b *state.Record) int {
		if p.vouches(a) != p.vouches(b) {
			if p.vouches(a) {
				return 1
			}
			return -1
		}
		return a.Time.Compare(b.Time)
	})
}

// proveBasis demands that the target's content is the basis now: by what a reader
// found, if nobody wrote since, or by reading all of it.
func (p *patcher) proveBasis(d rdiff.Delta) error {
	if size := p.size(); size < d.Basis.Size || (p.file == nil || !p.file.IsBlock()) && size != d.Basis.Size {
		return exit.Fail(exit.NotBasis, "%s is not the delta's basis: it has %d bytes, the basis %d", p.Target, size, d.Basis.Size)
	}
	if p.file == nil {
		return nil // a basis of 0 bytes has one digest
	}
	p.basis = p.beginProof(d.Basis.Size)
	for _, r := range []*state.Record{p.device.LoadSeen(), p.record} {
		if (r.Phase == state.Seen || r.Phase == state.Clean) && r.Image == d.Basis && blockdev.Untouched(r.Witness, p.basis.witness) {
			return nil
		}
	}
	p.user.Info("%s: reading all of it to prove that it is the delta's basis", p.Target)
	found, err := p.digest(d.Header, d.Basis.Size, "proving")
	if err == nil {
		err = p.check(p.basis)
	}
	if err != nil {
		return err
	}
	if found != d.Basis {
		return exit.Fail(exit.NotBasis, "%s is not the delta's basis: it holds %s, the basis is %s", p.Target, found, d.Basis)
	}
	return nil
}

// digest reads the first size bytes of the target from the disk.
func (p *patcher) digest(h stream.Header, size int64, step string) (stream.Image, error) {
	image, err := p.file.Reread()
	if err != nil {
		return stream.Image{}, err
	}
	defer image.Close()
	if err := image.Limit(size); err != nil {
		return stream.Image{}, err
	}
	p.progress.Step(step, size)
	return rdiff.DigestOf(image, h, p.advance)
}
