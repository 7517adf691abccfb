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
}

func (p *Peers) left(c *base.Chain) bool {
	return p.Known && !slices.Contains(p.Names, c.Peer) && (len(p.DomUs) == 0 || slices.Contains(p.DomUs, c.DomU()))
}

// PruneBases removes the bases that no record names any more, or which have lost their content, and tells the path of
// each.
func PruneBases(peers Peers, dir state.Dir, tell Tell) error {
	store, err := base.Open(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	chains, damaged := base.All(dir)
	errs := []error{damaged}
	named := make(map[string]bool)
	for _, c := range chains {
		if peers.left(c) {
			errs = append(errs, store.Forget(c))
			continue
		}
		for _, r := range c.Records() {
			named[r.Snapshot] = true
		}
	}
	all, _, err := taken(dir)
	errs = append(errs, err)
	for _, s := range all {
		// A record that can't be read may name any.
		if needed := named[s.Path] || damaged != nil; s.Owner.isBase() && !(s.Valid && needed) {
			errs = append(errs, removeAndTell(s, tell))
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
