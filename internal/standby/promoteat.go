package standby

import (
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
)

// Whoever asks what a start as of a time would be hears of the points, and not of what the standbys are now: that is gone
// by then. Nothing is read whole for it, so of what only a proof would find nothing is said.

// pointAt judges the points that the disks would become: images is where what is started from will be found.
func (p *Promotion) pointAt(s Start, set string, images map[string]string) error {
	var targets []string
	for _, t := range p.disks {
		targets = append(targets, t.Target)
	}
	dir := state.Dir(p.disks[0].StateDir)
	points, err := snapshot.PointsAt(targets, s.At, dir)
	if err != nil {
		return err
	}
	if p.alreadyAt(s.At, points[0].Point) {
		return p.each((*target).checkPromotable)
	}
	if err := p.each((*target).checkReplaceable); err != nil {
		return err
	}
	for i, point := range points {
		f, _, err := snapshot.OpenPoint(point)
		if err != nil {
			return err
		}
		f.Close()
		_, name, _ := strings.Cut(p.disks[i].Disk, "/")
		images[name] = point.Path
	}
	p.points = points
	if point := points[0].Point; point.Set != set {
		p.disks[0].user.Warn("the document is not of the same time as the disks")
	}
	return nil
}

// alreadyAt reports whether the disks are what is asked for, and not older than the latest point, as far as is remembered:
// see alreadyOf.
func (p *Promotion) alreadyAt(at time.Time, latest *snapshot.Point) bool {
	first := p.disks[0].before.Set
	for _, t := range p.disks {
		changed := t.changedSince(t.before)
		if changed == nil || *changed || !isOf(t.before, first, len(p.disks), at, latest) {
			return false
		}
	}
	return true
}

func (p *Promotion) each(check func(*target) error) (wrong error) {
	for _, t := range p.disks {
		if err := check(t); err != nil {
			wrong = worst(wrong, exit.Fail(exit.StatusOf(err), "%s: %w", t.Disk, err))
		}
	}
	return wrong
}

// checkReplaceable demands that what a standby is may give way to a point.
func (t *target) checkReplaceable() error {
	changed := t.changedSince(t.before)
	if changed == nil || !*changed {
		return nil
	}
	if c, err := t.device.Consent(); err == nil && c != nil && c.Expired() == "" && c.IsOf(t.before) {
		return nil
	}
	return exit.Fail(exit.NotBasis, "%s has diverged: it was written to since the last copy, and what nobody else has would be lost; "+
		"to lose it: xb-patch --discard-changes", t.Target)
}
