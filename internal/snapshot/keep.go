package snapshot

import (
	"cmp"
	"errors"
	"time"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// A run keeps its snapshot as the base of a peer in two steps: before the peer can have the image, a record says that
// it may have it, and then the snapshot gets an owner that does not end with the run. Killed between the two, the run
// leaves a snapshot that is pruned as any other leftover, and a record of which Bases says that its snapshot is gone.
// That the peer has the image is remembered by who hears it (room runs).

// KeepOrder is what is to be kept.
type KeepOrder struct {
	Peer, Disk string       // whose base, of what: DOMU/DISK
	Image      stream.Image // that is in the snapshot, and is about to be sent
	Read       string       // where it was read, by blockdev.Identity
	Taken      time.Time
	Basis      stream.Image // that the peer said it has; the zero one: it did not
	Auto       bool         // not where it costs the guest much
	Limit      int          // percent of a room: see GuardBases
	State      state.Dir
}

// Keep has the snapshot at path be the base of a peer. If that might harm the guest it is not, and why is said: as a
// warning the first time.
func Keep(path string, order KeepOrder, words Words) (kept bool, err error) {
	if err := state.CheckPair(order.Disk, order.Peer); err != nil {
		return false, err
	}
	store, err := base.Open(order.State)
	if err != nil {
		return false, err
	}
	defer store.Close()
	found, listErr := takenAmong([]string{path}, order.State)
	s, err := found.find(path, listErr)
	if err != nil {
		return false, err
	}
	record, err := order.record(s)
	if err != nil {
		return false, err
	}
	if no, err := order.refusal(s, found.all); err != nil || no != nil {
		return false, errors.Join(err, order.say(no, store, words))
	}
	if err := store.Keep(*record, order.Basis); err != nil || s.Owner.isBase() {
		return err == nil, err
	}
	if err := s.setOwner(baseOf(order.Peer)); err != nil {
		return false, err
	}
	return true, nil
}

// say says why no base is kept: as a warning if that is news.
func (o *KeepOrder) say(no *refusal, store *base.Store, words Words) error {
	if no == nil {
		return nil
	}
	say := words.Info
	var news bool
	var err error
	if no.reason != "" {
		news, err = store.Refuse(o.Disk, o.Peer, no.reason)
	}
	if news {
		say = words.Warn
	}
	say("no base of %s is kept for %s: %s", o.Disk, o.Peer, no.words)
	return err
}

// record returns that of a snapshot which certainly is what was taken, and what was read.
func (o *KeepOrder) record(s *Snapshot) (*base.Record, error) {
	switch {
	case s.Owner == nobody:
		return nil, exit.Fail(exit.Usage, "%s has the owner none: it is somebody's own, and stays that", s.Path)
	case s.Owner.isPoint():
		return nil, exit.Fail(exit.Usage, "%s is a point in time, and stays that", s.Path)
	case !s.Valid:
		return nil, exit.Fail(exit.BadSnapshot, "%s has lost its content: it is no base of anything", s.Path)
	}
	origin, err := s.origin()
	if err != nil {
		return nil, err
	}
	// With the image of another snapshot, what has changed between the two would never be sent.
	if o.Read == "" {
		return nil, exit.Fail(exit.BadStream, "the summary does not tell what was read: nobody knows that it was %s", s.Path)
	}
	if read, err := blockdev.Identity(s.Path); err != nil || read != o.Read {
		return nil, cmp.Or(err, exit.Fail(exit.BadStream, "what was sent was read from %s: it is not of %s", o.Read, s.Path))
	}
	identity, err := Identity(s.Path)
	if err != nil {
		return nil, err
	}
	size, err := blockdev.Size(s.Path)
	if err != nil {
		return nil, err
	}
	if size != o.Image.Size {
		return nil, exit.Fail(exit.BadStream, "%s has %d bytes, but what was sent has %d: it is not of this snapshot", s.Path, size,
			o.Image.Size)
	}
	return &base.Record{Peer: o.Peer, Disk: o.Disk, Source: s.Origin, Origin: origin, Snapshot: s.Path, Identity: identity,
		Image: o.Image.Text(), Taken: o.Taken}, nil
}

// Bases returns the records of a source and a peer of which the snapshot certainly still is what it was, the latest
// last. Why others are left out is said.
func Bases(source, peer string, dir state.Dir, words Words) (usable []*base.Record, err error) {
	real, origin, err := originAt(source)
	if err != nil {
		return nil, err
	}
	chains, err := base.All(dir)
	if exit.StatusOf(err) == exit.Config { // it is none that can be used
		words.Warn("%v", err)
		err = nil
	}
	for _, c := range chains {
		if c.Peer != peer {
			continue
		}
		for _, r := range c.Records() {
			if r.Origin != origin && r.Source != real && r.Source != source {
				continue
			}
			if err := usableFor(r, origin); err != nil {
				words.Warn("the base of %s of %s can't be used: %v", r.Peer, r.Taken.Format(time.RFC3339), err)
				continue
			}
			usable = append(usable, r)
		}
	}
	return usable, err
}

// usableFor proves that the snapshot that a record names is the one that was kept, and of that origin.
func usableFor(r *base.Record, origin string) error {
	if r.Lost != "" {
		return exit.Fail(exit.BadSnapshot, "%s", r.Lost)
	}
	if r.Origin != origin {
		return exit.Fail(exit.NotBasis, "it is of what was called %s before", r.Source)
	}
	now, err := Identity(r.Snapshot)
	if err == nil && now != r.Identity {
		err = exit.Fail(exit.NotBasis, "%s is not what it was: now it is %q, and %q was kept", r.Snapshot, now, r.Identity)
	}
	return err
}

// originAt returns the path of a source without links, and what snapshots of it show as their origin: "" where nothing
// does, and there are no bases.
func originAt(source string) (path, origin string, err error) {
	f, err := blockdev.Open(source)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if path, err = realPath(source); err != nil {
		return "", "", err
	}
	if f.IsBlock() {
		origin, err = blockdev.Identity(source)
	} else if origin, err = blockdev.FileName(f.OS()); errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return path, origin, err
}
