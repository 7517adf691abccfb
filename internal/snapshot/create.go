package snapshot

import (
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// DefaultSize is what a disk's guest is expected to write while it has a snapshot.
const DefaultSize = 1 << 30

// runLength is how many characters tell a run's snapshots from others.
const runLength = 8

// Order is what somebody wants of snapshots.
type Order struct {
	Size     int64 // bytes that may be written to a disk while it has a snapshot
	Owner    Owner
	State    state.Dir // where records are kept
	Writable bool      // for a guest that is started from them
	DryRun   bool      // take none, and find out whether it could be done
	OrNone   bool      // where not all can be taken, or only if bases give way, none is, and that is no error
	Still    Stillness // for the moment of the snapshots; nil for none
}

// Create takes one of each source, one right after another, and tells their paths. All or
// nothing: none remains if one fails, if nobody could be told, or if a signal comes.
func Create(sources []string, order Order, words Words, tell Tell) error {
	told := false
	err := create(sources, order, words, func(paths ...string) error {
		told = true
		return tell(paths...)
	})
	if err != nil && order.OrNone && !told {
		words.Info("no snapshots: %v", err)
		return nil
	}
	return err
}

func create(sources []string, order Order, words Words, tell Tell) error {
	if order.Still == nil {
		order.Still = restless{}
	}
	if !order.DryRun {
		removeLost(sources, order.State, words)
	}
	p, err := newPlan(sources, order)
	for exit.StatusOf(err) == exit.CantCreate && !order.DryRun && !order.OrNone && p.takeFromBases(err, words) {
		p.close()
		p, err = newPlan(sources, order)
	}
	defer func() { p.close() }()
	if err != nil {
		return err
	}
	if order.DryRun {
		return p.try()
	}
	return allOrNothing(p.members, p.Still, words, func(span time.Duration) error {
		if slices.ContainsFunc(p.members, isVolume) && lvm.SeesGuests() {
			words.Warn("LVM looks for volume groups inside of volumes, where a guest may have made one of any name: " +
				"set devices/scan_lvs=0 in lvm.conf")
		}
		if err := tell(p.paths()...); err != nil {
			return err
		}
		words.Info("all snapshots taken within %.1f s", span.Seconds())
		return nil
	})
}

// plan is of snapshots that are to be taken: what each source is, and all that can be
// checked before.
type plan struct {
	Order
	run     string            // its id, in the name of each of its snapshots
	members []member          // one of each source, in their order
	sources map[string]string // by what they are
	rooms   *rooms            // nil: it is not asked whether there is room
	files   []*fileSnapshot

	volumes *lvm.Volumes // nil if no source is one: the host may be without LVM
	origins []*lvm.Volume
	places  []int // of the origins among the sources
}

// newPlan returns a plan. Even with an error, its files are open.
func newPlan(sources []string, order Order) (*plan, error) {
	p := &plan{
		Order: order, run: strings.ToLower(rand.Text()[:runLength]), members: make([]member, len(sources)),
		sources: make(map[string]string), rooms: newRooms(order.Size),
	}
	for i, source := range sources {
		if err := p.add(i, source); err != nil {
			return p, err
		}
	}
	if err := p.rooms.check(p.sources, p.volumes, p.State); err != nil {
		return p, err
	}
	return p, p.orderVolumes()
}

func (p *plan) add(i int, source string) error {
	f, err := blockdev.Open(source)
	if err != nil {
		return err
	}
	if p.rooms != nil {
		if err := p.rooms.add(f); err != nil {
			f.Close()
			return err
		}
	}
	var origin string
	if f.IsBlock() {
		f.Close()
		origin, err = p.addVolume(i, source)
	} else {
		origin, err = p.addFile(i, f.OS())
	}
	if err != nil {
		return err
	}
	if other := p.sources[origin]; other != "" {
		return exit.Fail(exit.Usage, "%s and %s are the same disk", other, source)
	}
	p.sources[origin] = source
	return nil
}

func (p *plan) addVolume(i int, source string) (origin string, err error) {
	if p.volumes == nil {
		if p.volumes, err = lvm.List(); err != nil {
			return "", err
		}
	}
	v, err := p.volumes.Find(source)
	if err != nil {
		return "", err
	}
	p.origins, p.places = append(p.origins, v), append(p.places, i)
	return v.Path(), nil
}

func (p *plan) addFile(i int, source *os.File) (origin string, err error) {
	s, err := newFile(source, p.run, i, p.Order)
	if err != nil {
		source.Close()
		return "", err
	}
	p.members[i], p.files = s, append(p.files, s)
	return s.Origin, nil
}

// takeFromBases removes the oldest base that takes from what the new snapshots need, and for which there is too little
// room, and reports whether it could: rather reads the next run all than that none runs.
func (p *plan) takeFromBases(lack error, words Words) bool {
	b := &baseGuard{dir: p.State, words: words, tell: func(...string) error { return nil }}
	for _, s := range basesOf(known(p.volumes, p.State)) {
		if !p.needsRoomOf(s) {
			continue
		}
		err := b.yield(s, "the next snapshots need its room ("+lack.Error()+")")
		if err == nil {
			return true
		}
		words.Warn("%v", err)
	}
	return false
}

// needsRoomOf reports whether a snapshot takes from a file system, pool or volume group that has too little for the plan.
func (p *plan) needsRoomOf(s *Snapshot) bool {
	if v, ok := s.holder.(volume); ok && !v.Thin() {
		return lvm.NeededOf(v.VGUUID, p.origins, p.Size) > v.VGFree
	}
	for _, need := range p.rooms.byID {
		if need.check() != nil && s.liesIn(need.Room) {
			return true
		}
	}
	return false
}

// orderVolumes plans the snapshots of all volumes at once: they may share a volume group
// and its free space.
func (p *plan) orderVolumes() error {
	if len(p.origins) == 0 {
		return nil
	}
	orders, err := p.volumes.Order(p.origins, p.Size, p.run, []string{tag, ownerTag + string(p.Owner), placeTag + placeOf(p.State)})
	if err != nil {
		return err
	}
	for i, o := range orders {
		o.Writable = p.Writable
		p.members[p.places[i]] = newVolume{o}
	}
	return nil
}

// try finds out what only the file systems know: whether their files can share blocks.
func (p *plan) try() error {
	for _, f := range p.files {
		if err := f.try(); err != nil {
			return err
		}
	}
	return p.Still.Check()
}

func (p *plan) paths() (all []string) {
	for _, m := range p.members {
		all = append(all, m.path())
	}
	return all
}

func (p *plan) close() {
	for _, f := range p.files {
		f.source.Close()
	}
}
