package snapshot

import (
	"errors"
	"slices"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/state"
)

// lookAtPoints removes the oldest points, all of a set together, of what is too full without bases.
func (b *baseGuard) lookAtPoints(all []*Snapshot) error {
	points := pointsAmong(all, func(s *Snapshot) bool { return s.Valid })
	slices.SortStableFunc(points, func(a, b *Snapshot) int { return a.Point.compare(b.Point) })
	var errs []error
	var gone []*Snapshot
	for _, s := range points {
		if slices.Contains(gone, s) {
			continue
		}
		why, err := b.tooFull(s)
		if err != nil && exit.StatusOf(err) != exit.NoInput { // else removed just now
			errs = append(errs, err)
		}
		if err != nil || why == "" {
			continue
		}
		for _, other := range points {
			if other == s || s.Point.Set != "" && other.Point.Set == s.Point.Set {
				gone = append(gone, other)
				errs = append(errs, b.yieldPoint(other, why))
			}
		}
	}
	return errors.Join(append(errs, dropDocuments(gone, b.dir))...)
}

func (b *baseGuard) yieldPoint(s *Snapshot, why string) error {
	if open, err := inuse.IsOpen(s.Path); open && err == nil {
		return nil
	}
	if err := s.giveUp(); err != nil && exit.StatusOf(err) != exit.NoInput { // its room is free at once
		return err
	}
	if err := s.removePoint(why, b.words.Warn); err != nil {
		return err
	}
	return b.tell(s.Path)
}

// GuardPoints has those points give way with which a standby shares its room, if that is too full: see GuardBases.
func GuardPoints(standby *blockdev.File, limit int, dir state.Dir, words Words) error {
	room, err := standby.Room()
	if err != nil || room == nil {
		return err
	}
	if use, _ := room.Use(); use <= float64(limit) {
		return nil
	}
	found, err := taken(dir)
	b := &baseGuard{limit: limit, dir: dir, words: words, tell: func(...string) error { return nil }}
	in := slices.DeleteFunc(found.all, func(s *Snapshot) bool { return !s.liesIn(room) })
	return errors.Join(err, b.look(in), b.lookAtPoints(in))
}

// ShareRoom reports whether there are points that lose what a standby takes.
func ShareRoom(standby *blockdev.File, dir state.Dir) (bool, error) {
	room, err := standby.Room()
	if err != nil || room == nil {
		return false, err
	}
	points, err := Points(dir, func(string, ...any) {}) // what cannot be read gives way to nobody
	return slices.ContainsFunc(points, func(s *Snapshot) bool { return s.Valid && s.liesIn(room) }), err
}
