package standby

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
)

// What a target holds is worth being kept until it is overwritten, and no longer is at hand then. So a point in time is
// made between the proof of what it is and the first write, if this host's rule keeps one. Whoever sends images decides
// nothing about those that are there: see state.Keep. That none can be made keeps no image from becoming a newer one.

// pointing is what became of the points of targets that change together.
type pointing struct {
	of    []*apply
	rules []*state.Keep // by which they are pruned
	there bool          // there are some
	undo  func() error  // nil: none was made
}

// point makes a point of a target that changes alone.
func (a *apply) point() (err error) {
	a.points, err = pointOf([]*apply{a})
	return err
}

// pointOf makes a point of each target, as they are now, unless there is one of just that.
func pointOf(members []*apply) (p pointing, err error) {
	p.of = members
	making, pruning := members[0].rules()
	if len(making) == 0 || members[0].Rollback { // that has made its own
		return p, nil
	}
	p.rules = pruning
	m, err := newMoment(members)
	if m == nil || err != nil {
		return p, p.without(err)
	}
	for _, a := range members {
		if err := snapshot.CanHavePoints(a.file); err != nil {
			return p, p.without(err)
		}
	}
	points, damaged, err := snapshot.PointsOf(targetsOf(members), m.dir)
	if err != nil {
		return p, p.without(err)
	}
	if damaged != nil { // a point more or less is no reason to have none from now on
		members[0].user.Warn("a point in time cannot be read: %v", damaged)
	}
	p.there = len(points) > 0
	list := m.missing(points, making)
	if len(list) == 0 {
		return p, nil
	}
	if err := m.checkLimit(); err != nil {
		return p, p.without(err)
	}
	if p.undo, err = snapshot.MakePoints(list, m.dir, members[0].user); err != nil {
		return p, p.without(err)
	}
	p.there = true
	return p, nil
}

// without says why no point was made, as a warning if that is news.
func (p *pointing) without(err error) error {
	if err == nil {
		return nil
	}
	reason := err.Error()
	say := p.of[0].user.Info
	for _, a := range p.of {
		if a.before.NoPoint != reason {
			say = a.user.Warn
		}
		a.noPoint = reason
	}
	say("no point in time was made: %v", err)
	return nil
}

// takeBack removes the points that were made of what stays.
func (p *pointing) takeBack(err error) error {
	if p.undo != nil {
		err = errors.Join(err, p.undo())
		p.undo = nil
	}
	return err
}

// prune removes the points that are no longer kept, now that there is a newer image.
func (p *pointing) prune() {
	if !p.there {
		return
	}
	first := p.of[0]
	dir := state.Dir(first.StateDir)
	err := snapshot.PrunePoints(targetsOf(p.of), p.rules, time.Now(), dir, first.user)
	if first.Allow == nil {
		err = errors.Join(err, snapshot.GuardPoints(first.file, first.limit(), dir, first.user))
	}
	if err != nil {
		first.user.Warn("the points in time could not all be looked after: %v", err)
	}
}

// rules returns by which rules points are made, each of which has to keep them, and by which they are pruned: those of
// somebody who may only replicate decide nothing about what is there, and nothing is kept for him unless this host
// says so.
func (t *target) rules() (making, pruning []*state.Keep) {
	host := t.HostKeep
	if t.Allow != nil {
		if host == nil {
			return nil, nil
		}
		host = host.AtMostHourly()
		pruning = []*state.Keep{host}
	}
	for _, rule := range []*state.Keep{host, t.Keep} {
		if rule != nil {
			making = append(making, rule)
		}
	}
	if t.Allow == nil {
		pruning = making
	}
	return making, pruning
}

func (t *target) limit() int { return cmp.Or(t.Limit, state.DefaultLimit) }

func targetsOf(members []*apply) (paths []string) {
	for _, a := range members {
		paths = append(paths, a.Target)
	}
	return paths
}

// moment is what the targets hold together: images of one set, or one that came alone.
type moment struct {
	members []*apply
	dir     state.Dir
	set     string
	came    time.Time
}

// newMoment returns nil if there was no image before, and an error if they are not of one moment.
func newMoment(members []*apply) (*moment, error) {
	m := &moment{members: members, dir: state.Dir(members[0].StateDir)}
	var first *state.Set
	whole := 0
	for i, a := range members {
		r := a.before
		if a.file == nil || r.Phase != state.Clean || r.Image != a.delta.Basis {
			continue
		}
		if whole++; i == 0 {
			first = r.Set
		}
		if r.Time.After(m.came) {
			m.came = r.Time
		}
		if r.Set == nil && len(members) == 1 {
			continue
		}
		if r.Set == nil || first == nil || r.Set.ID != first.ID || !sameDisks(r.Set, members) {
			return nil, errors.New("the disks are not of one moment")
		}
	}
	switch {
	case whole == 0:
		return nil, nil
	case whole < len(members):
		return nil, errors.New("not all disks hold a whole image")
	case first != nil:
		m.set = first.ID
	}
	return m, nil
}

// sameDisks reports whether a set is of just these disks.
func sameDisks(set *state.Set, members []*apply) bool {
	for _, member := range set.Members {
		if !slices.ContainsFunc(members, func(a *apply) bool { return a.before.Disk == member.Disk }) {
			return false
		}
	}
	return len(set.Members) == len(members)
}

// missing returns the points that are to be made: those that the rules keep, and that are not there.
func (m *moment) missing(points []*snapshot.Snapshot, rules []*state.Keep) (list []snapshot.NewPoint) {
	said := m.members[0].before.Of().UTC()
	taken := m.believe(said, points)
	var times []time.Time
	for _, s := range points {
		if !slices.ContainsFunc(times, s.Point.Came.Equal) {
			times = append(times, s.Point.Came)
		}
	}
	for _, a := range m.members {
		r, image := a.before, a.before.Image.Text()
		if slices.ContainsFunc(points, func(s *snapshot.Snapshot) bool {
			return s.Valid && s.Point.Disk == r.Disk && (s.Point.IsOf(image, m.set, taken) || s.Point.IsOf(image, m.set, said))
		}) {
			continue
		}
		next := a.Taken
		if a.set != nil {
			next = a.set.Taken
		}
		list = append(list, snapshot.NewPoint{Standby: a.Target, File: a.file, Mended: next.Equal(said),
			Point: snapshot.Point{Disk: r.Disk, Set: m.set, Taken: taken, Came: m.came, Image: image}})
	}
	if len(list) < len(m.members) { // where some are there, a run was killed between them
		return list
	}
	times = append(times, m.came)
	if stays := state.AllKeep(rules, times, time.Now()); !stays[len(times)-1] {
		return nil
	}
	return list
}

// skew is how far the clocks of two hosts may be apart.
const skew = 5 * time.Minute

// believe returns of when the image is. If somebody who may only replicate says that he took it before an earlier one had
// come here, it would be found in the place of that.
func (m *moment) believe(said time.Time, points []*snapshot.Snapshot) time.Time {
	for _, s := range points {
		if m.members[0].Allow != nil && s.Point.Came.Before(m.came) && said.Before(s.Point.Came.Add(-skew)) {
			m.members[0].user.Warn("%s: its source says that it took it at %s, but an earlier image came here at %s: its point is of %s, "+
				"when it came", m.members[0].Target, said.Format(time.RFC3339), s.Point.Came.UTC().Format(time.RFC3339),
				m.came.UTC().Format(time.RFC3339))
			return m.came.UTC()
		}
	}
	return said
}

// checkLimit refuses a point where somebody who may only replicate would so have the oldest ones give way.
func (m *moment) checkLimit() error {
	if m.members[0].Allow == nil {
		return nil
	}
	need := make(map[string]int64)
	for _, a := range m.members {
		room, err := a.file.Room()
		if room == nil || err != nil {
			return err
		}
		n, err := a.touched()
		if err != nil {
			return err
		}
		need[room.ID] += n
		if limit := int64(a.limit()); room.Size-room.Free+need[room.ID] > room.Size/100*limit {
			return exit.Fail(exit.CantCreate, "%s would be more than %d %% full with one more (POOL_LIMIT), and older ones give way to none",
				room.Name, limit)
		}
	}
	return nil
}

// touched returns how many bytes the delta takes where all that it replaces is kept.
func (a *apply) touched() (int64, error) {
	if a.spool == nil {
		return 0, nil
	}
	if w, err := a.thinWrites(); w != nil || err != nil {
		return w.Bytes(), err
	}
	const unit = 4096 // of the file systems with reflinks
	e := extent.NewSet(unit, max(unit, a.delta.Source.Size))
	err := a.literals(func(off, n int64) error { e.Add(off, n); return nil })
	return e.Bytes(), err
}

// leftForPoints returns how much somebody who may only replicate has to leave free, so that points do not have to give
// way: see snapshot.GuardBases.
func (a *apply) leftForPoints() (int64, error) {
	if a.Allow == nil {
		return 0, nil
	}
	share, err := snapshot.ShareRoom(a.file, state.Dir(a.StateDir))
	if !share || err != nil {
		return 0, err
	}
	room, err := a.file.Room()
	if room == nil || err != nil {
		return 0, err
	}
	return room.Size / 100 * int64(100-a.limit()), nil
}

// takenByPoints adds to the error that there is no room what could be had.
func (a *apply) takenByPoints(err error) error {
	if exit.StatusOf(err) != exit.CantCreate {
		return err
	}
	if share, listErr := snapshot.ShareRoom(a.file, state.Dir(a.StateDir)); !share || listErr != nil {
		return err
	}
	return exit.Fail(exit.CantCreate, "%w\npoints in time take some there: see xb-snap list --points and xb-snap remove, and KEEP and "+
		"POOL_LIMIT in %s", err, state.HostConf)
}
