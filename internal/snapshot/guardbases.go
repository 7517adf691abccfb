package snapshot

import (
	"errors"
	"fmt"
	"slices"

	"xen-backup/internal/base"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/state"
)

// GuardBases looks once at all that bases and points in time take from, and removes bases, the oldest first, where more
// than limit percent of it is taken: they save time. Where none is left it removes points, the oldest first. It tells the
// path of each, and says why. When all was looked at, Keep knows for some minutes that bases are looked after.
func GuardBases(limit int, dir state.Dir, words Words, tell Tell) error {
	found, err := taken(dir)
	found.warnOfDamaged(words.Warn)
	b := &baseGuard{limit: limit, dir: dir, words: words, tell: tell}
	if err := errors.Join(err, b.look(found.all), b.lookAtPoints(found.all)); err != nil {
		return err
	}
	return renewStamp(dir)
}

type baseGuard struct {
	limit int
	dir   state.Dir
	words Words
	tell  Tell
}

func (b *baseGuard) look(all []*Snapshot) error {
	var errs []error
	for _, s := range basesOf(all) {
		why, err := b.tooFull(s)
		if err == nil && why != "" {
			err = b.yield(s, why)
		}
		if exit.StatusOf(err) != exit.NoInput { // else removed just now
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// basesOf returns the bases that have a content, the oldest first.
func basesOf(all []*Snapshot) []*Snapshot {
	bases := slices.DeleteFunc(slices.Clone(all), func(s *Snapshot) bool { return !s.Owner.isBase() || !s.Valid })
	slices.SortStableFunc(bases, func(a, b *Snapshot) int { return a.Created.Compare(b.Created) })
	return bases
}

// tooFull tells why a base must go now, "" if it need not. Its room is measured anew, since others went before it.
func (b *baseGuard) tooFull(s *Snapshot) (why string, err error) {
	room, err := s.room()
	switch {
	case err != nil:
		return "", err
	case room != nil:
		if use, what := room.Use(); use > float64(b.limit) {
			return fmt.Sprintf("%s was %.1f %% full", what, use), nil
		}
	case s.Used != nil && *s.Used > float64(b.limit):
		return fmt.Sprintf("it was %.1f %% full", *s.Used), nil
	}
	return "", nil
}

// yield removes a base whose room others need. Where it shares a room, that is free at once, though somebody reads the
// base: he ends, and what is left of it PruneBases removes. A thick one takes nothing from anybody, and stays meanwhile.
func (b *baseGuard) yield(s *Snapshot, why string) error {
	open, err := inuse.IsOpen(s.Path)
	isRead := open && err == nil
	if s.sharesRoom() {
		err = s.giveUp()
	} else if err = nil; isRead {
		err = exit.Fail(exit.Busy, "base %s is to be removed (%s), but is being read", s.Path, why)
	}
	if err != nil {
		return err
	}
	b.words.Warn("base %s removed: %s", s.Path, why)
	if err = b.lose(s, why); !isRead {
		err = errors.Join(err, s.remove())
	}
	return errors.Join(err, b.tell(s.Path))
}

// lose has the next run know why it must read all.
func (b *baseGuard) lose(s *Snapshot, why string) error {
	store, err := base.Open(b.dir)
	if err != nil {
		return err
	}
	defer store.Close()
	return store.Lose(s.Path, s.Path+" was removed: "+why)
}
