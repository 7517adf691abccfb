package standby

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// Coming is what is known of an image before its source has a snapshot of it.
type Coming struct {
	Size   int64         // bytes
	Header stream.Header // by which it will be read
	Have   []stream.Image
	DryRun bool // change nothing, recover nothing
}

// Readiness is what a target can take.
type Readiness struct {
	Reason string       // why the source has to be read whole; "": it need not be
	Basis  stream.Image // if not: that of Have which the target holds
	Phase  state.Phase
	Last   time.Time // of the last image that the peer and this host both had; zero: there is none
	Guests bool      // a guest is seen to run on this host
	// Finished tells that an interrupted apply was.
	Finished bool
}

// Why the source has to be read whole.
const (
	firstCopyComing = "first-copy"
	noBasis         = "no-base"
	forced          = "forced"
	unfinishedApply = "unfinished"
)

// deltaVersion is the highest version of deltas that is taken.
const deltaVersion = stream.Version

// String is one line of words: what is to be sent, and after it key=value.
func (r *Readiness) String() string {
	words := "full reason=" + r.Reason
	if r.Reason == "" {
		words = "tracked basis=" + r.Basis.Text()
	}
	words += " phase=" + string(r.Phase)
	if !r.Last.IsZero() {
		words += " last=" + r.Last.UTC().Format(time.RFC3339)
	}
	guests := "no"
	if r.Guests {
		guests = "yes"
	}
	words += fmt.Sprintf(" takes=%d guests=%s points=yes", deltaVersion, guests)
	if r.Finished {
		words += " finished=yes"
	}
	return words
}

// Prepare finishes what was interrupted on a target, and refuses whatever is known to end in a refusal, without
// reading the target: before its source has a snapshot. Auto trusts nothing of that.
func Prepare(user User, o Options, coming Coming) (*Readiness, error) {
	o.Managed, o.Create = true, true
	t, err := findComing(user, o, coming)
	if err != nil {
		return nil, err
	}
	recovered, err := t.finishFirst(coming)
	if err != nil {
		return nil, err
	}
	if recovered { // the target may have been created by that
		if t, err = findComing(user, o, coming); err != nil {
			return nil, err
		}
	} else {
		user.Begin(func() bool { return false })
	}
	defer t.close()
	if !coming.DryRun {
		if err := t.takeLock(); err != nil {
			return nil, err
		}
	}
	r, err := t.judgeComing(coming)
	if err != nil {
		return nil, err
	}
	r.Finished = recovered
	return r, nil
}

// findComing is find, and names what makes a missing volume.
func findComing(user User, o Options, coming Coming) (*target, error) {
	t, err := find(user, o)
	if exit.StatusOf(err) == exit.NoInput && o.CreateVG == "" && !dm.Exists(o.Target) {
		if vg, lv, ok := dm.PathOfVolume(o.Target); ok {
			return nil, exit.Fail(exit.NoInput, "%s is missing or not active; on %s: lvcreate -y -L %db -n %s %s", o.Target, here(),
				coming.Size, lv, vg)
		}
	}
	return t, err
}

// finishFirst finishes an interrupted apply, and those of its set.
func (t *target) finishFirst(coming Coming) (done bool, err error) {
	r, err := t.device.Load()
	if err != nil {
		return false, err
	}
	change, err := t.device.ChangeOf()
	if err != nil || coming.DryRun || change == nil && r.Phase != state.Applying {
		return false, err
	}
	switch _, err := Recover(t.user, t.Options); {
	case errors.Is(err, state.ErrAtWork): // it is under way, not interrupted
		return false, err
	case err != nil:
		return false, exit.Fail(exit.Unfinished, "the interrupted apply cannot be finished: %w\n"+
			"when the cause is mended, run again, or on %s: xb-patch --recover %s", err, here(), text.Operand(t.Target))
	}
	return true, nil
}

// judgeComing says what the target can take, or why it can take nothing.
func (t *target) judgeComing(coming Coming) (*Readiness, error) {
	if err := t.look(); err != nil {
		return nil, err
	}
	r := &Readiness{Phase: t.before.Phase, Guests: inuse.AnyGuest()}
	if coming.DryRun && r.Phase == state.Applying { // else it was finished, or was begun and interrupted since
		r.Reason = unfinishedApply
		return r, errors.Join(t.checkOwner(), t.checkFits(coming.Size))
	}
	if err := t.checkRecord(); err != nil {
		return nil, err
	}
	for _, check := range []func(Coming) error{t.checkRoomFor, t.checkKnown, t.checkFirst} {
		if err := check(coming); err != nil {
			return nil, err
		}
	}
	known, err := t.remembered()
	if err != nil {
		return nil, err
	}
	r.Last = t.lastCommon(known)
	r.Reason, r.Basis = t.reason(known, coming)
	return r, nil
}

// reason says why the source has to be read whole, "" and the image that it need not be, if the target has one that the
// source has too.
func (t *target) reason(known []*state.Record, coming Coming) (string, stream.Image) {
	switch {
	case len(known) == 0:
		return firstCopyComing, stream.Image{}
	case t.Force || t.validConsent(t.before) != nil: // it may hold anything
		return forced, stream.Image{}
	case t.wasUsedSince(known): // what the source has is of before a failover
	case t.before.Phase == state.Clean && coming.comparable(t.before.Image) &&
		slices.Contains(coming.Have, t.before.Image):
		return "", t.before.Image
	}
	return noBasis, stream.Image{}
}

// wasUsedSince reports whether another image of the target was sent from here after the last that came: the DomU ran here.
func (t *target) wasUsedSince(known []*state.Record) bool {
	return slices.ContainsFunc(known, func(r *state.Record) bool {
		return r.Image != t.before.Image && !r.Time.Before(t.before.Time)
	})
}

func (c Coming) comparable(i stream.Image) bool {
	return i.BlockSize == c.Header.BlockSize && i.Hash == c.Header.Hash
}

// lastCommon returns when the peer and this host last had the same image.
func (t *target) lastCommon(known []*state.Record) (last time.Time) {
	for _, r := range known {
		if r.Peer == t.Peer && r.Time.After(last) {
			last = r.Time
		}
	}
	return last
}

// checkFits demands that the image has its place: a device does not grow by itself.
func (t *target) checkFits(size int64) error {
	if t.file == nil || !t.file.IsBlock() || size <= t.file.Size() {
		return t.checkSize(size)
	}
	cure := ""
	if vg, lv, ok := dm.PathOfVolume(t.Target); ok {
		cure = fmt.Sprintf("; on %s: lvextend -L %db /dev/%s/%s", here(), size, vg, lv)
	}
	return exit.Fail(exit.BadStream, "%s is too small: it has %d bytes, the image %d%s", t.Target, t.file.Size(), size, cure)
}

// checkRoomFor demands that what has to be created can be.
func (t *target) checkRoomFor(coming Coming) error {
	if err := t.checkFits(coming.Size); err != nil {
		return err
	}
	if t.volume != nil {
		t.volume.Size = coming.Size
		if err := t.volume.Check(); err != nil {
			return err
		}
	}
	var err error
	if t.InPlace, err = t.nothingToLose(coming.Size); err != nil {
		return err
	}
	return t.checkPlaces()
}

// checkKnown refuses what will be refused whatever the target holds, by what is remembered of it.
func (t *target) checkKnown(coming Coming) error {
	known, err := t.remembered()
	if err != nil || len(known) == 0 || t.Force {
		return err
	}
	if t.file == nil {
		return t.gone()
	}
	mine := slices.DeleteFunc(slices.Clone(known), func(r *state.Record) bool { return !t.vouches(r) })
	if t.validConsent(t.before) != nil {
		return nil // what it is to lose is seen when the target is read
	}
	if len(mine) == 0 {
		last := t.newest(known)
		return exit.Fail(exit.NotBasis, "%s was last sent from here to %s, at %s, and %s has no image of it in common with this host: "+
			"it may bring an older one\n%s", t.Target, last.Peer, last.Time.UTC().Format(time.RFC3339), t.Peer, t.loss())
	}
	if !slices.ContainsFunc(mine, func(r *state.Record) bool { return coming.comparable(r.Image) }) {
		i := mine[0].Image
		return exit.Fail(exit.NotBasis, "%s was made with HASH=%s and BLOCK_SIZE=%d, and now HASH=%s and BLOCK_SIZE=%d are set: "+
			"set them as before, or, to change them, once %s", t.Target, i.Hash, i.BlockSize, coming.Header.Hash,
			coming.Header.BlockSize, t.forceCure())
	}
	return nil
}

// checkFirst tells of a first copy what is known without the delta.
func (t *target) checkFirst(coming Coming) error {
	if !t.firstContact() {
		return nil
	}
	if t.InPlace {
		return t.checkFirstCopy()
	}
	t.warnSectors()
	return nil
}

// loss says what is lost where changes that exist nowhere else are overwritten, and how to consent to that.
func (t *target) loss() string {
	written := ""
	if t.file != nil && !t.file.IsBlock() {
		if at, err := blockdev.Modified(t.Target); err == nil {
			written = " It was last written to at " + at.Format(time.RFC3339) + "."
		}
	}
	return "overwriting it would lose what exists nowhere else." + written + " If that can go, " + t.forceCure()
}
