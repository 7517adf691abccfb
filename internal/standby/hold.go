package standby

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// The disks of a DomU that has several are one machine: none may become the new image while another one cannot. So the
// delta of each is held first: it is received and proved, and neither the target nor its state is touched.

// hold keeps a delta until its set is committed.
func (a *apply) hold() error {
	if err := walk(a, arriving); err != nil {
		return err
	}
	if err := walk(a, holding); err != nil {
		if a.spool.kept {
			a.spool.remove()
		}
		return errors.Join(err, a.device.Unhold())
	}
	return nil
}

// note remembers the delta beside the state, and what was proved of the target.
func (a *apply) note() error {
	path, err := filepath.Abs(a.Target)
	if err != nil {
		return err
	}
	h := &state.Held{Set: a.Set, Taken: a.Taken, Peer: a.peerName(), Disk: a.Disk, UUID: a.UUID, Target: path,
		Spool: a.spool.path, Checksum: formatChecksum(&a.spool.sum), Basis: a.delta.Basis, Source: a.delta.Source,
		Phase: a.before.Phase, Before: a.before.Image, Forced: a.Force || a.consented,
		Missing: a.file == nil, Owner: a.Owner, Mode: a.Mode, Toolstack: a.Toolstack, Keep: a.Keep}
	if a.basis != nil {
		h.Witness = a.basis.witness
	}
	return a.device.Hold(h)
}

func formatChecksum(sum *xxhash.Digest) string { return fmt.Sprintf("xxh64:%016x", sum.Sum64()) }

// asHeld are the settings under which the delta was held.
func (t *target) asHeld(h *state.Held) {
	t.Peer, t.Disk, t.UUID, t.Toolstack = h.Peer, h.Disk, h.UUID, h.Toolstack
	t.Force, t.Create, t.Owner, t.Mode, t.Keep = h.Forced, h.Missing, h.Owner, h.Mode, h.Keep
}

// reopenHeld opens the spool of a delta that is held, and proves that it is what was noted.
func (a *apply) reopenHeld() (err error) {
	h := a.held
	if a.file == nil && !h.Missing {
		return exit.Fail(exit.NoInput, "%s: no such device or file", a.Target)
	}
	if h.Spool == "" { // the target has the image already
		a.delta = noDelta(h.Source)
		return nil
	}
	if a.spool, err = openSpool(h.Spool); err != nil {
		return exit.Fail(exit.Busy, "%s: the delta that was held for it cannot be read any more: %w", a.Target, err)
	}
	a.delta, err = rdiff.Verify(io.TeeReader(a.replay("proving the spool"), &a.spool.sum), rdiff.Steps{})
	if err == nil && (formatChecksum(&a.spool.sum) != h.Checksum || a.delta.Basis != h.Basis || a.delta.Source != h.Source) {
		err = errors.New("it is another one")
	}
	if err != nil {
		return exit.Fail(exit.BadStream, "%s: the delta that was held for it, %s, is damaged: %w", a.Target, h.Spool, err)
	}
	return a.checkSize(a.delta.Source.Size)
}

// noDelta is one that changes nothing.
func noDelta(image stream.Image) rdiff.Delta {
	return rdiff.Delta{Header: stream.Header{BlockSize: image.BlockSize, Hash: image.Hash},
		DeltaEnd: stream.DeltaEnd{Basis: image, Source: image}}
}

// proveHeld demands what was proved when the delta was held; again, unless nothing has happened since.
func (a *apply) proveHeld() error {
	h := a.held
	if a.file != nil {
		a.basis = a.beginProof(h.Basis.Size)
	}
	if a.before.Phase == h.Phase && a.before.Image == h.Before && h.Missing == (a.file == nil) &&
		(a.file == nil || blockdev.Untouched(h.Witness, a.basis.witness)) {
		return nil
	}
	return a.prove()
}

// reopenAgain is reopenHeld after the commit: what the set needs is lost.
func (a *apply) reopenAgain() error {
	if a.before.Phase == state.Clean && a.before.Image == a.held.Source {
		a.delta = noDelta(a.held.Source) // an xen-backup that knows no sets has applied it
		return nil
	}
	err := a.reopenHeld()
	status := exit.StatusOf(err)
	switch status {
	case exit.Busy:
		status = exit.Unfinished
	case exit.BadStream:
	default:
		return err
	}
	return exit.Fail(status, "%w\nif it is lost for good: xb-patch --abandon-apply %s, which leaves there what is there", err,
		text.Operand(a.Target))
}
