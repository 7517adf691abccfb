package standby

import (
	"fmt"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// judge proves, before the first write, that the target is the delta's basis and
// that it still is what a sync left there: else the changes on it exist nowhere
// else.
func (c *change) judge() error {
	d := c.delta
	if err := c.checkSize(d.Source.Size); err != nil {
		return err
	}
	err := c.checkDiverged(d.Basis, d.Source)
	if err == nil {
		err = c.proveBasis()
	}
	return c.explainMigration(err)
}

// proveBasis demands that the target's content is the basis now: by what a reader
// found, if nobody wrote since, or by reading all of it.
func (c *change) proveBasis() error {
	basis := c.delta.Basis
	if size := c.size(); size < basis.Size || (c.file == nil || !c.file.IsBlock()) && size != basis.Size {
		return c.isNotBasis(fmt.Sprintf("has %d bytes", size))
	}
	if c.file == nil {
		return nil // a basis of 0 bytes has one digest
	}
	// A device of which nobody knows may have become active, or have grown, when its signature was made already.
	if seen := min(c.size(), c.delta.Source.Size); c.file.IsBlock() && basis.Size < seen && c.firstContact() {
		return exit.Fail(exit.NotBasis, "%s is not the delta's basis: it has %d bytes, and its signature was that of only %d: run again",
			c.Target, c.size(), basis.Size)
	}
	c.basis = c.beginProof(basis.Size)
	for _, r := range []*state.Record{c.device.LoadSeen(), c.before} {
		if (r.Phase == state.Seen || r.Phase == state.Clean) && r.Image == basis && blockdev.Untouched(r.Witness,
			c.basis.witness) {
			return nil
		}
	}
	c.user.Info("%s: reading all of it to prove that it is the delta's basis", c.Target)
	found, err := c.digest(basis.Size, "proving")
	if err == nil {
		err = c.check(c.basis)
	}
	if err != nil {
		return err
	}
	if found != c.delta.Basis {
		return c.isNotBasis("holds " + found.String())
	}
	return nil
}

// isNotBasis is the error of a target that holds something else. A delta that was made from what the last sync left, without
// a look at the target, finds out only here that it was changed since.
func (c *change) isNotBasis(what string) error {
	basis := c.delta.Basis
	if c.before.Phase != state.Clean || c.before.Image != basis {
		return exit.Fail(exit.NotBasis, "%s is not the delta's basis: it %s, the basis is %s", c.Target, what, basis)
	}
	known, err := c.remembered()
	if err != nil {
		return err
	}
	return c.diverged(known, basis, "it was changed since its last sync, which left "+basis.String()+", and now "+what)
}

// digest reads the first size bytes of the target from the disk.
func (c *change) digest(size int64, step string) (stream.Image, error) {
	image, err := c.file.Reread()
	if err != nil {
		return stream.Image{}, err
	}
	defer image.Close()
	if err := image.Limit(size); err != nil {
		return stream.Image{}, err
	}
	c.progress.Step(step, size)
	return rdiff.DigestOf(image, c.delta.Header, c.progress.Advance)
}
