package snapshot

import (
	"cmp"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// A point in time is what a standby was before it became another image. It is a snapshot as any other, but what it is of
// is not the disk of a guest, and nobody's end makes it a leftover: it stays as long as its host's rule keeps it (see
// state.Keep), or until there is too little room, or somebody removes it by name.

// Point says of which image of a standby a point in time is.
type Point struct {
	Disk  string    `json:"disk,omitempty"` // DOMU/DISK
	Set   string    `json:"set,omitempty"`  // that the image came in; "": it came alone
	Taken time.Time `json:"taken"`          // when its source took it
	Came  time.Time `json:"came"`           // when it had come to this host, by whose clock it is kept
	Image string    `json:"image"`          // as stream.Image.Text, proved before the point was made
}

// Of which image a logical volume is a point, its tags tell: what is remembered of the standby may be lost.
const (
	diskTag  = "xen-backup.disk="
	takenTag = "xen-backup.taken="
	cameTag  = "xen-backup.came="
	imageTag = "xen-backup.image="
)

func (p *Point) tags() []string {
	return []string{diskTag + inTag(p.Disk), takenTag + p.Taken.UTC().Format(time.RFC3339),
		cameTag + p.Came.UTC().Format(time.RFC3339), imageTag + p.Image}
}

// pointOfTags reads the tags. Of what it cannot read it leaves out only that.
func pointOfTags(tags []string) *Point {
	p := &Point{}
	at := func(word string) time.Time {
		t, err := time.Parse(time.RFC3339, word)
		if err != nil {
			return time.Time{}
		}
		return t
	}
	for _, t := range tags {
		switch name, value, _ := strings.Cut(t, "="); name + "=" {
		case ownerTag:
			p.Set = strings.TrimPrefix(strings.TrimPrefix(value, pointPrefix), "-")
		case diskTag:
			p.Disk = ofTag(value)
		case takenTag:
			p.Taken = at(value)
		case cameTag:
			p.Came = at(value)
		case imageTag:
			p.Image = value
		}
	}
	return p
}

// NewPoint is a point that is to be made.
type NewPoint struct {
	Standby string // its path
	File    *blockdev.File
	Mended  bool // by another image of the same moment, whose document has not come yet
	Point
}

// MakePoints makes a point of each standby, all or none. undo removes them again. What no point can be made of is an error
// with status Config.
func MakePoints(list []NewPoint, dir state.Dir, words Words) (undo func() error, err error) {
	p := &plan{
		Order: Order{State: dir, Owner: pointOf(list[0].Set)}, run: strings.ToLower(rand.Text()[:runLength]),
		members: make([]member, len(list)), sources: make(map[string]string),
	}
	defer p.close()
	for i := range list {
		if err := p.addPoint(i, &list[i]); err != nil {
			return nil, err
		}
	}
	if err := p.orderVolumes(); err != nil {
		return nil, err
	}
	for i := range list {
		if v, is := p.members[i].(newVolume); is {
			v.order.AddTags(list[i].tags()...)
		}
	}
	var made []*Snapshot
	for i := range list {
		made = append(made, &Snapshot{Point: &list[i].Point})
	}
	if !list[0].Mended {
		keepDocument(&list[0].Point, dir, words)
	}
	if err := allOrNothing(p.members, restless{}, words, func(time.Duration) error { return nil }); err != nil {
		return nil, errors.Join(err, dropDocuments(made, dir))
	}
	return func() (err error) {
		for _, m := range slices.Backward(p.members) {
			err = errors.Join(err, m.undo())
		}
		return errors.Join(err, dropDocuments(made, dir))
	}, nil
}

// CanHavePoints refuses a standby whose storage has no snapshots that cost nothing.
func CanHavePoints(standby *blockdev.File) error {
	room, err := standby.Room()
	if err == nil && room == nil {
		err = exit.Fail(exit.Config, "%s is no thin volume: a snapshot of a thick one would slow down each copy to it, and be lost when it "+
			"is full; points in time need a standby in a thin pool, or as a file on XFS or btrfs", standby.Path())
	}
	return err
}

// addPoint demands that what is snapshotted is what the standby was when it was proved.
func (p *plan) addPoint(i int, n *NewPoint) error {
	if err := p.add(i, n.Standby); err != nil {
		return err
	}
	same := false
	if s, is := p.members[i].(*fileSnapshot); is {
		s.Point = &n.Point
		mine, err1 := n.File.OS().Stat()
		other, err2 := s.source.Stat()
		same = err1 == nil && err2 == nil && os.SameFile(mine, other)
	} else {
		v := p.origins[len(p.origins)-1]
		same = v.Thin() && n.File.Is(v.Path())
	}
	if !same {
		return exit.Fail(exit.Busy, "%s was replaced", n.Standby)
	}
	return nil
}

// Points returns the points of all standbys, of each the oldest first, and has it said what cannot be read. Even with an
// error, those that it returns are there.
func Points(dir state.Dir, warn func(format string, args ...any)) ([]*Snapshot, error) {
	found, err := taken(dir)
	found.warnOfDamaged(warn)
	return pointsAmong(found.all, func(*Snapshot) bool { return true }), err
}

// PointsOf returns the points of some standbys, by their paths, of each the oldest first. Damaged is of those of them, and
// only those, that cannot be read.
func PointsOf(standbys []string, dir state.Dir) (points []*Snapshot, damaged, err error) {
	found, listErr := takenAmong(standbys, dir)
	names, damaged, err := found.namesOf(standbys)
	if err != nil {
		return nil, damaged, errors.Join(listErr, err)
	}
	return pointsAmong(found.all, func(s *Snapshot) bool { return slices.Contains(names, s.Origin) }), damaged, listErr
}

// namesOf returns the names of standbys in records, and what of them cannot be read.
func (i *inventory) namesOf(standbys []string) (names []string, damaged, err error) {
	var errs []error
	for _, path := range standbys {
		name, err := nameOf(path, i.volumes)
		if err != nil {
			return nil, nil, err
		}
		names, errs = append(names, name), append(errs, i.damagedOf(name))
	}
	return names, errors.Join(errs...), nil
}

// PointsAt returns a point of each standby, all of the latest time that is not after at and of which all have one, which
// are of one set.
func PointsAt(standbys []string, at time.Time, dir state.Dir) ([]*Snapshot, error) {
	found, listErr := taken(dir)
	names, damaged, err := found.namesOf(standbys)
	if err != nil || damaged != nil { // it may be what is wanted
		return nil, errors.Join(err, damaged, listErr)
	}
	points := pointsAmong(found.all, func(s *Snapshot) bool { return s.Valid && !s.Point.Taken.After(at) })
	slices.SortStableFunc(points, latestFirst)
	for i, path := range standbys {
		if slices.Contains(names[:i], names[i]) {
			return nil, exit.Fail(exit.Usage, "%s is named twice", path)
		}
	}
	for _, first := range points {
		if first.Origin != names[0] {
			continue
		}
		together := []*Snapshot{first}
		for _, name := range names[1:] {
			i := slices.IndexFunc(points, func(s *Snapshot) bool { return s.Origin == name && first.Point.isWith(s.Point) })
			if i >= 0 {
				together = append(together, points[i])
			}
		}
		if len(together) < len(names) {
			continue
		}
		for _, s := range points {
			if first.Point.isWith(s.Point) && !slices.Contains(names, s.Origin) {
				return nil, exit.Fail(exit.Usage, "the point of %s is of %s, too: name all standbys of its set",
					first.Point.Taken.UTC().Format(time.RFC3339), s.Origin)
			}
		}
		return together, listErr
	}
	return nil, errors.Join(listErr, exit.Fail(exit.Unavailable, "there is no point of %s of %s or before: see xb-snap list --points",
		strings.Join(standbys, " and "), at.UTC().Format(time.RFC3339)))
}

func latestFirst(a, b *Snapshot) int {
	return cmp.Or(b.Point.Taken.Compare(a.Point.Taken), b.Point.Came.Compare(a.Point.Came))
}

// isWith reports whether two points are of one set.
func (p *Point) isWith(q *Point) bool { return p.Set != "" && p.Set == q.Set && p.Taken.Equal(q.Taken) }

func pointsAmong(all []*Snapshot, wanted func(*Snapshot) bool) (points []*Snapshot) {
	for _, s := range all {
		if s.Owner.isPoint() && s.Point != nil && wanted(s) {
			points = append(points, s)
		}
	}
	slices.SortStableFunc(points, func(a, b *Snapshot) int {
		if a.Origin != b.Origin {
			return strings.Compare(a.Origin, b.Origin)
		}
		return a.Point.compare(b.Point)
	})
	return points
}

func (p *Point) compare(q *Point) int {
	if c := p.Came.Compare(q.Came); c != 0 {
		return c
	}
	return p.Taken.Compare(q.Taken)
}

// IsOf reports whether it is a point of that image, as it was taken then.
func (p *Point) IsOf(image, set string, taken time.Time) bool {
	return p.Image == image && p.Set == set && p.Taken.Equal(taken)
}

// PrunePoints removes the points of standbys that one of the rules does not keep. One that is being read stays for now.
func PrunePoints(standbys []string, rules []*state.Keep, now time.Time, dir state.Dir, words Words) error {
	points, _, err := PointsOf(standbys, dir) // whoever makes points has heard of what is damaged
	errs := []error{err}
	var gone []*Snapshot
	remove := func(s *Snapshot, why string) {
		gone = append(gone, s)
		errs = append(errs, s.removePoint(why, words.Info))
	}
	points = slices.DeleteFunc(points, func(s *Snapshot) bool {
		if !s.Valid {
			remove(s, "it was given up")
		}
		return !s.Valid
	})
	for len(points) > 0 {
		var times []time.Time
		n := 0
		for ; n < len(points) && points[n].Origin == points[0].Origin; n++ {
			times = append(times, points[n].Point.Came)
		}
		for i, stays := range state.AllKeep(rules, times, now) {
			if !stays {
				remove(points[i], "it is no longer kept")
			}
		}
		points = points[n:]
	}
	return errors.Join(append(errs, dropDocuments(gone, dir))...)
}

// removePoint removes a point that nobody reads, and says so.
func (s *Snapshot) removePoint(why string, say func(string, ...any)) error {
	if open, err := inuse.IsOpen(s.Path); open && err == nil {
		return nil
	}
	err := s.remove()
	if exit.StatusOf(err) == exit.NoInput && err != nil { // somebody else was quicker
		return nil
	}
	if err == nil {
		say("point %s of %s removed: %s", s.Point.Taken.UTC().Format(time.RFC3339), s.Origin, why)
	}
	return err
}

// CheckTarget refuses what xb-snap made: nothing is ever copied to it.
func CheckTarget(f *blockdev.File) error {
	made := exit.Fail(exit.Config, "%s was made by xb-snap, as a snapshot or as a point in time of a standby, and is no standby itself",
		f.Path())
	if !f.IsBlock() {
		if path, err := realPath(f.Path()); err != nil || !isFileName(path) {
			return err
		}
		return made
	}
	info, err := f.OS().Stat()
	if err != nil {
		return err
	}
	d, err := dm.Query(info.Sys().(*syscall.Stat_t).Rdev)
	if err != nil || d == nil {
		return err
	}
	// Somebody may call a volume of his own alike; for all others LVM need not be asked.
	if _, name, ok := dm.SplitName(d.Name); !ok || !volumeName().MatchString(name) {
		return nil
	}
	volumes, err := lvm.List()
	if err != nil {
		return err
	}
	v, err := volumes.Find(f.Path())
	if err == nil && isOurs(v) && slices.Contains(v.Tags, tag) {
		return made
	}
	return err
}

// OpenPoint opens a point for reading, if it certainly is what was made.
func OpenPoint(s *Snapshot) (*blockdev.File, stream.Image, error) {
	image, err := stream.ParseImage(s.Point.Image)
	if err == nil {
		_, err = s.origin()
	}
	if err != nil {
		return nil, image, err
	}
	f, err := blockdev.Open(s.Path)
	if err != nil {
		return nil, image, err
	}
	return f, image, f.Limit(image.Size)
}
