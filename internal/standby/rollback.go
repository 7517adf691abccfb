package standby

import (
	"io"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// A standby becomes one of its points as it becomes any other image: by a delta, which leads from what it is to what the
// point is, and is held for a set where the point is of several disks. To merge the snapshot, or to swap the names of
// two volumes, would be quicker, but both happen behind the back of what is remembered: killed in between, a standby
// would be one image and its state tell of another, and of two disks one could be the point and the other not. A delta
// is proved before the first write, is finished by --recover, and makes the disks of a set the point together; the tables
// of the package comment hold. And the point stays, as does one of what the standby was before.

// Rollback makes standbys what they were at a time: the latest point not after it that all of them have, unless what they
// are is of that time and no older. It returns of when that is.
func Rollback(user User, o Options, at time.Time, standbys []string) (time.Time, error) {
	points, err := snapshot.PointsAt(standbys, at, state.Dir(o.StateDir))
	if err != nil {
		return time.Time{}, err
	}
	p := points[0].Point
	if of, err := alreadyOf(user, o, at, p, standbys); err != nil || !of.IsZero() {
		return of, err
	}
	o.Rollback, o.Set, o.Taken, o.Managed = true, p.Set, p.Taken, true
	for i, path := range standbys {
		o.Target = path
		if o.Peer, err = rollBack(user, o, points[i]); err != nil {
			return p.Taken, err
		}
	}
	if p.Set != "" {
		set := o.Set
		o.Set = ""
		_, err = Commit(user, o, set, standbys)
	}
	return p.Taken, err
}

// alreadyOf returns of when the standbys are, if together they are what they were at a time: not after it, and not older
// than the latest point. Of that there is no point until it is overwritten, and a way back that was killed may have made
// it one: so what is asked for once more would else lead somewhere else.
func alreadyOf(user User, o Options, at time.Time, latest *snapshot.Point, standbys []string) (of time.Time, err error) {
	var first *state.Set
	for i, path := range standbys {
		o.Target = path
		r, err := wholeRecord(user, o)
		if r == nil || err != nil {
			return time.Time{}, err
		}
		if i == 0 {
			first, of = r.Set, r.Of()
		}
		if !isOf(r, first, len(standbys), at, latest) {
			return time.Time{}, nil
		}
	}
	return of, nil
}

// isOf reports whether a record is of an image as of at, no older than the latest point, and of the set, if there is one,
// of so many disks.
func isOf(r *state.Record, set *state.Set, disks int, at time.Time, latest *snapshot.Point) bool {
	together := r.Set == nil && disks == 1 || r.Set != nil && set != nil && r.Set.ID == set.ID && len(r.Set.Members) == disks
	return together && !r.Of().After(at) && !r.Of().Before(latest.Taken) && !r.Time.Before(latest.Came)
}

// wholeRecord returns what is remembered of a standby that certainly is that image; of others nil.
func wholeRecord(user User, o Options) (*state.Record, error) {
	t, err := open(user, o)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if t.before.Phase != state.Clean {
		return nil, nil
	}
	b := &wayBack{target: t, image: t.before.Image}
	defer b.close()
	if changed := t.changedSince(t.before); changed != nil && !*changed {
		return t.before, nil
	}
	if err := b.readBasis(); err != nil || b.basis != t.before.Image {
		return nil, err
	}
	return t.before, nil
}

// rollBack makes a standby a point, or has what makes it so be held for its set. It returns the host from which it has its
// image.
func rollBack(user User, o Options, point *snapshot.Snapshot) (peer string, err error) {
	t, err := open(user, o)
	if err != nil {
		return "", err
	}
	defer t.close()
	t.Disk, t.UUID, t.Peer = point.Point.Disk, t.before.UUID, t.before.Peer
	if err := t.takePlace(); err != nil {
		return "", err
	}
	b, err := openWayBack(t, point)
	if err != nil {
		return "", err
	}
	defer b.close()
	if b.isThere() {
		user.Info("%s is of %s already", t.Target, point.Point.Taken.UTC().Format(time.RFC3339))
		return t.Peer, nil
	}
	in, out := io.Pipe()
	written := make(chan bool)
	go func() {
		out.CloseWithError(b.write(out))
		close(written)
	}()
	defer func() { // it reads what is closed after that
		in.Close()
		<-written
	}()
	a := newApply(t, in)
	defer a.close()
	if t.Set != "" {
		return t.Peer, a.hold()
	}
	return t.Peer, a.run()
}

// takePlace refuses what checkRecord does. What is held gives way, as it does to the next run: its host may be dead, and
// if it is not, the commit of its set finds that another has come between. It would not if the standby is of that set, and
// only has to become right: that is waited for.
func (t *target) takePlace() error {
	h, err := t.device.Held()
	if err != nil && !state.IsUnusable(err) {
		return err
	}
	again := h != nil && t.before.Set != nil && t.before.Set.ID == h.Set
	if again && h.Before == t.before.Image && h.Basis != h.Source { // else it is what the end of a killed run has left
		return exit.Fail(exit.Busy, "%s: a delta is held for it that mends what it is, set %s: wait for the end of that run, or of the "+
			"next one", t.Target, h.Set)
	}
	if err := t.admit(); err != nil {
		return err
	}
	if h != nil && h.Set != t.Set && !again {
		t.user.Warn("%s: a delta of %s was held for it, of set %s from %s: that is given up", t.Target,
			h.Taken.UTC().Format(time.RFC3339), h.Set, h.Peer)
	}
	return nil
}

// wayBack leads from what a standby is to one of its points.
type wayBack struct {
	*target
	point        *snapshot.Snapshot
	older, newer *blockdev.File // what the standby is, and the point
	basis, image stream.Image   // what they hold
	changes      *extents       // between them
	proved       bool           // the point was read whole, and is the image
}

func openWayBack(t *target, point *snapshot.Snapshot) (_ *wayBack, err error) {
	b := &wayBack{target: t, point: point}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	f, image, err := snapshot.OpenPoint(point)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b.image = image
	if b.newer, err = readFresh(f, image.Size); err != nil {
		return nil, err
	}
	if err := b.findBasis(); err != nil {
		return nil, err
	}
	if !b.basis.Comparable(b.image) {
		if err := b.provePoint(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func readFresh(f *blockdev.File, size int64) (*blockdev.File, error) {
	image, err := f.Reread()
	if err != nil {
		return nil, err
	}
	if err := image.Limit(size); err != nil {
		image.Close()
		return nil, err
	}
	return image, nil
}

func (b *wayBack) close() {
	for _, f := range []*blockdev.File{b.older, b.newer} {
		if f != nil {
			f.Close()
		}
	}
	b.older, b.newer = nil, nil
}

// isThere reports whether the standby is the point already.
func (b *wayBack) isThere() bool {
	r := b.before
	return r.Phase == state.Clean && r.Image == b.image && b.basis == b.image && (r.Set == nil) == (b.Set == "") &&
		(r.Set == nil || r.Set.ID == b.Set)
}

// findBasis finds out what the standby is. If it certainly is what a copy left there, that becomes a point, too, unless it
// is one: it may be the latest there is of its DomU. Between two points the storage knows what differs.
func (b *wayBack) findBasis() (err error) {
	r := b.before
	defer func() {
		if b.changes == nil && err == nil { // nothing is known
			b.changes = &extents{{0, max(b.older.Size(), b.newer.Size())}}
		}
	}()
	if changed := b.changedSince(r); r.Phase == state.Clean && changed != nil && !*changed {
		b.basis = r.Image
	} else if err := b.readBasis(); err != nil || r.Phase != state.Clean || b.basis != r.Image {
		return err
	}
	now, err := b.keepNow()
	if err != nil {
		return err
	}
	f, _, err := snapshot.OpenPoint(now)
	if err != nil {
		return err
	}
	defer f.Close()
	if b.older != nil {
		b.older.Close()
	}
	if b.older, err = readFresh(f, r.Image.Size); err != nil {
		return err
	}
	first, last := b.point, now
	if last.Point.Came.Before(first.Point.Came) {
		first, last = last, first
	}
	changes, err := snapshot.Changes(first.Path, last.Path, state.Dir(b.StateDir))
	if err != nil {
		b.user.Info("%s: all of it is compared with its point: %v", b.Target, err)
		return nil
	}
	b.changes = new(extents)
	for off, n := range changes.All {
		// A device may be larger than its image.
		if end := min(off+n, max(b.older.Size(), b.newer.Size())); end > off {
			*b.changes = append(*b.changes, [2]int64{off, end - off})
		}
	}
	return nil
}

// readBasis reads all of the standby.
func (b *wayBack) readBasis() (err error) {
	r, size := b.before, b.file.Size()
	h := stream.Header{BlockSize: b.image.BlockSize, Hash: b.image.Hash}
	if r.Phase == state.Clean {
		h.BlockSize, h.Hash, size = r.Image.BlockSize, r.Image.Hash, min(size, r.Image.Size)
	} else if b.file.IsBlock() {
		size = min(size, b.image.Size)
	}
	if b.older, err = readFresh(b.file, size); err == nil {
		b.basis, err = rdiff.DigestOf(b.older, h, func(int64) {})
	}
	return err
}

// keepNow makes a point of what the standby is, unless there is one, and returns it.
func (b *wayBack) keepNow() (*snapshot.Snapshot, error) {
	r, dir := b.before, state.Dir(b.StateDir)
	now := snapshot.Point{Disk: r.Disk, Taken: r.Of().UTC(), Came: r.Time, Image: r.Image.Text()}
	if r.Set != nil {
		now.Set = r.Set.ID
	}
	find := func() (*snapshot.Snapshot, error) {
		points, _, err := snapshot.PointsOf([]string{b.Target}, dir)
		for _, s := range points {
			if s.Valid && s.Point.IsOf(now.Image, now.Set, now.Taken) {
				return s, nil
			}
		}
		return nil, err
	}
	s, err := find()
	if err != nil || s != nil {
		return s, err
	}
	list := []snapshot.NewPoint{{Standby: b.Target, File: b.file, Point: now}}
	if _, err := snapshot.MakePoints(list, dir, b.user); err != nil {
		return nil, err
	}
	if s, err = find(); err == nil && s == nil {
		err = exit.Fail(exit.CantCreate, "%s: the point of what it is now was removed while it was made", b.Target)
	}
	return s, err
}

// provePoint reads all of the point.
func (b *wayBack) provePoint() error {
	h := stream.Header{BlockSize: b.image.BlockSize, Hash: b.image.Hash}
	found, err := rdiff.DigestOf(b.newer, h, func(int64) {})
	if err == nil && found != b.image {
		err = b.spoiled(found)
	}
	b.proved = true
	return err
}

func (b *wayBack) spoiled(found stream.Image) error {
	return exit.Fail(exit.BadSnapshot, "%s is not what was kept: it holds %s, and %s was proved when it was made; nothing was written",
		b.point.Path, found, b.image)
}

// write writes the delta. Its end record leaves only if it leads to what the point is known to be.
func (b *wayBack) write(out io.Writer) error {
	encoder, err := stream.NewEncoder(1, 1)
	if err != nil {
		return err
	}
	h := stream.Header{BlockSize: b.basis.BlockSize, Hash: b.basis.Hash, Size: b.newer.Size()}
	outputs := rdiff.Outputs{Delta: stream.NewDeltaWriter(out, h), Encoder: encoder}
	_, err = rdiff.Track(b.changes, b.basis, b.older, b.newer, outputs, rdiff.Options{BeforeEnd: func(found stream.Image) error {
		if !b.proved && found != b.image {
			return b.spoiled(found)
		}
		return nil
	}})
	return err
}

// extents are offsets and lengths: rdiff.Extents.
type extents [][2]int64

func (e *extents) Next() (off, n int64, err error) {
	if len(*e) == 0 {
		return 0, 0, io.EOF
	}
	next := (*e)[0]
	*e = (*e)[1:]
	return next[0], next[1], nil
}
