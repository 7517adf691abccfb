package standby

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Disk is a disk of a DomU, DOMU/DISK, and the device or file that is its standby.
type Disk struct{ Name, Target string }

// Promotion are the standbys of all disks of a DomU, which can be started from them. As long as it is not closed, no
// run gets at them.
type Promotion struct {
	disks  []*target
	points []*snapshot.Snapshot // that the disks would become first; nil: they stay what they are
	now    time.Time
}

// Start is what is to be started: the DomU of a document in a file, from the standbys of all its disks.
type Start struct {
	Document string
	Disks    []Disk
	Apart    bool      // whatever their times are
	At       time.Time // as Rollback would make them, which has not been done; zero: as they are
	Locked   bool      // and no run gets at them until the promotion is closed
}

// Promote demands that the standbys of all disks of a DomU can become its disks: each is there, whole, unused, as the last
// copy left it, and needs no other file of this host; and all are of one set, which is that of the document. All that is
// wrong is in the error.
func Promote(user User, o Options, s Start) (*Promotion, error) {
	p := &Promotion{now: time.Now()}
	stored, err := os.ReadFile(s.Document)
	if err != nil {
		return nil, exit.OpenFailed(err)
	}
	var wrong error
	images := make(map[string]string)
	for _, d := range s.Disks {
		o.Target, o.Disk = d.Target, d.Name
		_, name, _ := strings.Cut(d.Name, "/")
		images[name] = d.Target
		if err := p.add(user, o, s); err != nil {
			wrong = worst(wrong, exit.Fail(exit.StatusOf(err), "%s: %w", d.Name, err))
		}
	}
	set := domain.SetOf(stored).Name
	if wrong == nil && !s.At.IsZero() {
		wrong = p.pointAt(s, set, images)
	}
	if wrong == nil {
		wrong = domain.CheckImages(stored, images)
	}
	if wrong == nil && p.points == nil {
		wrong = p.checkSet(state.Dir(o.StateDir), set, s.Apart)
	}
	if wrong != nil {
		p.Close()
		return nil, wrong
	}
	return p, nil
}

// worst joins two errors. The first status counts, but what is unfinished has a cure.
func worst(a, b error) error {
	if a == nil {
		return b
	}
	status := exit.StatusOf(a)
	if exit.StatusOf(b) == exit.Unfinished {
		status = exit.Unfinished
	}
	return exit.Fail(status, "%w\n%w", a, b)
}

func (p *Promotion) add(user User, o Options, s Start) error {
	t, err := find(user, o)
	if err == nil && t.missing() {
		err = exit.Fail(exit.NoInput, "%s is not there, though its copy is not finished", t.Target)
	}
	if err != nil {
		return err
	}
	p.disks = append(p.disks, t)
	if s.Locked {
		// The peer's name lets this run take over from one of the same copy whose host is dead.
		if r, err := t.device.Load(); err == nil {
			t.Peer = r.Peer
		}
		if err := t.takeLock(); err != nil {
			return err
		}
	}
	if err := t.look(); err != nil {
		return err
	}
	if err = t.checkRecord(); err == nil && s.At.IsZero() {
		err = t.checkPromotable()
	}
	t.file.Close() // whoever starts the DomU shall not find a user of its disks
	t.file = nil
	return err
}

func (t *target) checkPromotable() error {
	r := t.before
	switch {
	case r.Phase == state.None:
		return exit.Fail(exit.NotBasis, "%s is no standby that this host knows: it remembers no copy to it", t.Target)
	case r.Disk != t.Disk:
		return exit.Fail(exit.NotBasis, "%s is not its standby, as far as this host knows, but that of %s", t.Target,
			ownerName(r.Disk, r.UUID))
	case r.Phase != state.Clean:
		return exit.Fail(exit.NotBasis, "%s holds no whole image: its state is %q", t.Target, r.Phase)
	}
	switch changed := t.changedSince(r); {
	case changed == nil:
		t.user.Warn("%s: it cannot be told whether %s was written to since the last copy", t.Disk, t.Target)
	case *changed:
		return exit.Fail(exit.NotBasis, "%s was written to since the last copy, and may be no image of any one moment", t.Target)
	}
	return nil
}

// checkSet demands that all disks are of one set, and no disk of it is missing. The document is of the set stored.
func (p *Promotion) checkSet(dir state.Dir, stored string, apart bool) error {
	var times []string
	one := true
	first := p.disks[0].before.Set
	for _, t := range p.disks {
		set := t.before.Set
		times = append(times, fmt.Sprintf("%s of %s", t.Disk, t.of().UTC().Format(time.RFC3339)))
		if set == nil {
			one = one && len(p.disks) == 1
			continue
		}
		whole, err := set.IsWhole(dir)
		if err != nil {
			return err
		}
		one = one && first != nil && set.ID == first.ID && whole
		for _, m := range set.Members {
			if !slices.ContainsFunc(p.disks, func(t *target) bool { return t.Disk == m.Disk }) {
				return exit.Fail(exit.NoInput, "%s was copied together with %s, but is not in the document: it would be missing",
					m.Disk, t.Disk)
			}
		}
	}
	user := p.disks[0].user
	switch {
	case !one && apart:
		user.Warn("the disks are of different times: %s", strings.Join(times, ", "))
	case !one:
		return exit.Fail(exit.No, "the disks are not of one moment (%s): the next run makes them so; if there will be none: "+
			"--disks-of-different-times", strings.Join(times, ", "))
	case first != nil && stored != first.ID && apart:
		user.Warn("the document is not of the same time as the disks")
	case first != nil && stored != first.ID:
		return exit.Fail(exit.No, "the document is not of the same time as the disks: the next run brings it; if there will be "+
			"none, and it is right: --disks-of-different-times")
	}
	return nil
}

// of returns of when the image on a target is.
func (t *target) of() time.Time {
	return (&Holding{Found: state.Found{Record: t.before}}).Of()
}

// Rows tells of each disk: its name, its standby, the host from which it came, of when it is, how old that is, and its
// image.
func (p *Promotion) Rows() string {
	var b strings.Builder
	for i, t := range p.disks {
		of, image := t.of(), t.before.Image.Text()
		if p.points != nil {
			of, image = p.points[i].Point.Taken, p.points[i].Point.Image
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Disk, text.Operand(t.Target), cmp.Or(t.before.Peer, "-"),
			of.UTC().Format(time.RFC3339), text.FormatAge(max(0, p.now.Sub(of))), image)
	}
	return b.String()
}

// Close lets runs get at the standbys again. The error tells that one may have before.
func (p *Promotion) Close() (err error) {
	for _, t := range p.disks {
		if t.lock != nil {
			err = errors.Join(err, t.lock.Check())
		}
		t.close()
	}
	return err
}
