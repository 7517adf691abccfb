package snapshot

import (
	"errors"
	"slices"

	"xen-backup/internal/base"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Peers are all those that shall have copies. Of others what is remembered of bases is forgotten.
type Peers struct {
	Known bool     // else nobody has said who they are
	Names []string // none: nobody is left
	DomUs []string // of which that is said; none: of all

	Plan map[string][]string // those of each DomU, if these are not the same; of others nothing is said
}

func (p *Peers) left(c *base.Chain) bool {
	if peers, planned := p.Plan[c.DomU()]; planned {
		return !slices.Contains(peers, c.Peer)
	}
	return p.Known && !slices.Contains(p.Names, c.Peer) && (len(p.DomUs) == 0 || slices.Contains(p.DomUs, c.DomU()))
}

// PruneBases removes the bases that no record names any more, or which have lost their content, and tells the path of
// each.
func PruneBases(peers Peers, dir state.Dir, words Words, tell Tell) error {
	damaged, err := prune(peers, false, dir, words, tell)
	return errors.Join(damaged, err)
}

// PruneAll removes leftovers, too. A record that can't be understood is only a warning: the next base takes its place.
func PruneAll(peers Peers, dir state.Dir, words Words, tell Tell) error {
	damaged, err := prune(peers, true, dir, words, tell)
	if exit.StatusOf(damaged) == exit.Config {
		words.Warn("%v", damaged)
		damaged = nil
	}
	return errors.Join(damaged, err)
}

func prune(peers Peers, leftovers bool, dir state.Dir, words Words, tell Tell) (damaged, err error) {
	store, err := base.Open(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	chains, damaged := base.All(dir)
	var errs []error
	chains = slices.DeleteFunc(chains, func(c *base.Chain) bool {
		left := peers.left(c)
		if left {
			errs = append(errs, store.Forget(c))
		}
		return left
	})
	needed := neededBy(chains, damaged)
	found, err := taken(dir)
	found.warnOfDamaged(words.Warn)
	errs = append(errs, err)
	for _, s := range found.all {
		if !s.foreign && (s.Owner.isBase() && !needed(s) || leftovers && s.Dead) {
			errs = append(errs, removeAndTell(s, tell))
		}
	}
	if leftovers && err == nil {
		errs = append(errs, found.pruneDocuments(dir))
	}
	return damaged, errors.Join(errs...)
}

// neededBy returns what tells whether a base is one. A record that can't be read may name any.
func neededBy(chains []*base.Chain, damaged error) func(*Snapshot) bool {
	named := make(map[string]bool)
	for _, c := range chains {
		for _, r := range c.Records() {
			named[r.Snapshot] = true
		}
	}
	return func(s *Snapshot) bool { return s.Valid && (named[s.Path] || damaged != nil) }
}

// removeReplaced removes those bases, of the disks whose snapshots a run has taken, that later ones have replaced.
func removeReplaced(all []*Snapshot, origins []string, dir state.Dir) error {
	if !slices.ContainsFunc(all, func(s *Snapshot) bool { return s.Owner.isBase() }) {
		return nil
	}
	store, err := base.Open(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	needed := neededBy(base.All(dir))
	var errs []error
	for _, s := range all {
		if !s.foreign && s.Owner.isBase() && slices.Contains(origins, s.Origin) && !needed(s) {
			errs = append(errs, removeAndTell(s, func(...string) error { return nil }))
		}
	}
	return errors.Join(errs...)
}

// removeAndTell removes a snapshot, which somebody else may be quicker to do.
func removeAndTell(s *Snapshot, tell Tell) error {
	err := s.remove()
	if err == nil {
		return tell(s.Path)
	} else if exit.StatusOf(err) == exit.NoInput { // only its record was left
		return nil
	}
	return err
}
