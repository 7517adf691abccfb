package standby

import (
	"errors"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// recover finishes an interrupted apply from its spool, without the source host.
// Nothing is written that would not make the target the delta's source.
// To write a delta twice does no harm, so it does not matter how far the apply
// had come.
func (p *patcher) recover() (*rdiff.Delta, error) {
	p.user.Commit()
	if err := p.open(); err != nil {
		return nil, err
	}
	if p.record.Phase != state.Applying {
		p.user.Info("%s: there is no unfinished apply; nothing to recover", p.Target)
		return nil, nil
	}
	if err := p.checkOwner(); err != nil {
		return nil, err
	}
	s, err := openSpool(p.record.Spool)
	if err != nil {
		return nil, exit.Fail(exit.Unfinished, "%s: the spool of the unfinished apply cannot be read: %w\n%s", p.Target, err, p.lost())
	}
	defer s.Close()
	// Its header is not held against the target: that this is too small is no fault of the spool.
	d, err := rdiff.Verify(p.replay(s, "proving the spool"), rdiff.Steps{})
	if err != nil {
		return nil, exit.Fail(exit.StatusOf(err), "%s: the spool of the unfinished apply, %s, is damaged: %w\n%s", p.Target, s.path, err, p.lost())
	}
	if d.Source != p.record.Image {
		return nil, exit.Fail(exit.BadStream, "%s: %s is not the spool of the unfinished apply: it leads to %s, not to %s\n%s",
			p.Target, s.path, d.Source, p.record.Image, p.lost())
	}
	if err := p.checkSize(d.Source.Size); err != nil {
		return nil, err
	}
	if p.file == nil {
		if d.Basis.Size != 0 {
			return nil, exit.Fail(exit.NoInput, "%s: no such device or file", p.Target)
		}
		if err := p.createTarget(); err != nil {
			return nil, err
		}
	}
	p.basis = p.beginProof(max(d.Basis.Size, d.Source.Size))
	if err := p.proveRest(d, s); err != nil {
		return nil, err
	}
	if err := p.beginWrites(max(d.Basis.Size, d.Source.Size)); err != nil {
		return nil, err
	}
	defer durable.OnSignal(p.interrupted)()
	return &d, p.unfinished(p.apply(d, s))
}

// proveRest proves before any write that the target is the one of the interrupted
// apply, and not another disk that got its name since: together with what the delta
// writes, what it leaves alone must be the delta's source.
func (p *patcher) proveRest(d rdiff.Delta, s *spool) error {
	image, err := p.file.Reread()
	if err != nil {
		return err
	}
	defer image.Close()
	appended := !image.IsBlock() && image.Size() > max(d.Basis.Size, d.Source.Size)
	if err := image.Limit(min(image.Size(), d.Source.Size)); err != nil {
		return err
	}
	p.progress.Step("proving", image.Size())
	err = rdiff.ProveRest(s.reader(), d, image, p.advance)
	if appended && err == nil {
		err = rdiff.ErrNotRest
	}
	if errors.Is(err, rdiff.ErrNotRest) {
		return exit.Fail(exit.NotBasis, "%s was changed since the apply was interrupted, or is another disk under its name: %w\n"+
			"nothing was written, and the spool is kept; to give the image up: xb-patch --abandon-apply %s, then a full copy", p.Target, err, text.Operand(p.Target))
	}
	return err
}

// lost says what is left to do when a spool is lost.
func (p *patcher) lost() string {
	return "if the spool is lost for good, so is the image: xb-patch --abandon-apply " + text.Operand(p.Target) + ", then a full copy"
}

// abandon forgets an unfinished apply. What is on the target is a mix, and is
// remembered as one.
func (p *patcher) abandon() error {
	if err := p.open(); err != nil {
		return err
	}
	if p.record.Phase != state.Applying {
		p.user.Info("%s: there is no unfinished apply; nothing to abandon", p.Target)
		return nil
	}
	return p.forget(p.record.Spool)
}

// forget remembers the target as a mix that no spool leads out of.
func (p *patcher) forget(spool string) error {
	if err := p.remember(&state.Record{Phase: state.Incomplete, Peer: p.record.Peer}); err != nil {
		return err
	}
	removeDurably(spool)
	return nil
}
