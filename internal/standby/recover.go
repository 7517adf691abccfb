package standby

import (
	"errors"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/text"
)

// resume finishes an interrupted apply from its spool, without the source host.
// Nothing is written that would not make the target the delta's source.
// To write a delta twice does no harm, so it does not matter how far the apply
// had come.
func (a *apply) resume() error {
	if err := a.checkOwner(); err != nil {
		return err
	}
	if err := walk(a, resuming); err != nil {
		return err
	}
	defer durable.OnSignal(a.interrupted)()
	return a.unfinished(walk(a, finishing))
}

// reopenSpool opens the spool of the interrupted apply, and proves it.
func (a *apply) reopenSpool() (err error) {
	path := a.before.Spool
	if a.spool, err = openSpool(path); err != nil {
		return exit.Fail(exit.Unfinished, "%s: the spool of the unfinished apply cannot be read: %w\n%s", a.Target, err,
			a.lost())
	}
	// Its header is not held against the target: that this is too small is no fault of the spool.
	d, err := rdiff.Verify(a.replay("proving the spool"), rdiff.Steps{})
	if err != nil {
		return exit.Fail(exit.StatusOf(err), "%s: the spool of the unfinished apply, %s, is damaged: %w\n%s", a.Target, path,
			err, a.lost())
	}
	if d.Source != a.before.Image {
		return exit.Fail(exit.BadStream, "%s: %s is not the spool of the unfinished apply: it leads to %s, not to %s\n%s",
			a.Target, path, d.Source, a.before.Image, a.lost())
	}
	a.delta = d
	if err := a.checkSize(d.Source.Size); err != nil {
		return err
	}
	if a.file == nil && d.Basis.Size != 0 {
		return exit.Fail(exit.NoInput, "%s: no such device or file", a.Target)
	}
	return nil
}

// proveRest proves before any write that the target is the one of the interrupted
// apply, and not another disk that got its name since: together with what the delta
// writes, what it leaves alone must be the delta's source.
func (a *apply) proveRest() error {
	d := a.delta
	a.basis = a.beginProof(a.extent())
	image, err := a.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	appended := !image.IsBlock() && image.Size() > max(d.Basis.Size, d.Source.Size)
	if err := image.Limit(min(image.Size(), d.Source.Size)); err != nil {
		return err
	}
	a.progress.Step("proving", image.Size())
	err = rdiff.ProveRest(a.spool.reader(), d, image, a.progress.Advance)
	if appended && err == nil {
		err = rdiff.ErrNotRest
	}
	if errors.Is(err, rdiff.ErrNotRest) {
		return exit.Fail(exit.NotBasis,
			"%s was changed since the apply was interrupted, or is another disk under its name: %w\n"+
				"nothing was written, and the spool is kept; to give the image up: xb-patch --abandon-apply %s, then a full copy",
			a.Target, err, text.Operand(a.Target))
	}
	return err
}

// lost says what is left to do when a spool is lost.
func (a *apply) lost() string {
	return "if the spool is lost for good, so is the image: xb-patch --abandon-apply " + text.Operand(a.Target) +
		", then a full copy"
}
