package snapshot

import (
	"os"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/state"
)

// With the points of a DomU's disks its document of then is kept: see domain.Moment. It is there before the first of them,
// and stays until there is neither a point nor a standby of that moment.

// moment returns whose disks a point is of, as of when; false if that is not known.
func (p *Point) moment() (domain.Moment, bool) {
	name, _, of := strings.Cut(p.Disk, "/")
	return domain.Moment{Name: name, Of: p.Taken}, of && name != "" && !p.Taken.IsZero()
}

// keepDocument keeps the document with a point that is about to be made. A point without one is better than none.
func keepDocument(p *Point, dir state.Dir, words Words) {
	if m, known := p.moment(); known {
		if err := m.KeepDocument(dir); err != nil {
			words.Warn("the document of %s is not kept with its point in time: %v", m.Name, err)
		}
	}
}

// dropDocuments removes the documents of points that are gone.
func dropDocuments(gone []*Snapshot, dir state.Dir) error {
	if len(gone) == 0 {
		return nil
	}
	found, err := taken(dir)
	if err != nil {
		return err
	}
	return found.dropDocuments(dir, func(moment string, _ time.Time, _ []state.Found) bool {
		return slices.ContainsFunc(gone, func(s *Snapshot) bool {
			m, known := s.Point.moment()
			return known && m.String() == moment
		})
	})
}

// pruneDocuments removes those whose points went otherwise, as by lvremove, or were never made. One that has come just now
// may be waiting for its points; and where a standby is not there its points may be where nobody sees them either.
func (i *inventory) pruneDocuments(dir state.Dir) error {
	return i.dropDocuments(dir, func(moment string, since time.Time, standbys []state.Found) bool {
		name := moment[:strings.LastIndexByte(moment, '@')]
		return time.Since(since) > time.Hour && !slices.ContainsFunc(standbys, func(f state.Found) bool {
			_, err := os.Stat(f.Record.Device)
			return strings.HasPrefix(f.Disk, name+"/") && err != nil
		})
	})
}

// dropDocuments removes those of the documents that nothing is of. If what there is cannot all be read it removes none.
func (i *inventory) dropDocuments(dir state.Dir, which func(moment string, since time.Time, standbys []state.Found) bool) error {
	standbys, err := dir.All()
	if err != nil || len(i.damaged) > 0 {
		return err
	}
	needed := make(map[string]bool)
	for _, f := range standbys {
		if f.Record == nil {
			return nil
		}
		p := Point{Disk: f.Disk, Taken: f.Record.Of()}
		m, _ := p.moment()
		needed[m.String()] = true
	}
	for _, s := range pointsAmong(i.all, func(*Snapshot) bool { return true }) {
		m, known := s.Point.moment()
		if !known && s.Point.Disk != "" {
			return nil
		}
		needed[m.String()] = true
	}
	return domain.DropDocuments(dir, func(moment string, since time.Time) bool {
		return !needed[moment] && which(moment, since, standbys)
	})
}

// LatestPoint returns the latest point of a DomU that is not after a time, and that all disks of its document of then have;
// nil if there is none.
func LatestPoint(dir state.Dir, domu string, at time.Time) (*Point, error) {
	points, err := Points(dir, func(string, ...any) {}) // whoever takes them hears of what is damaged
	if err != nil {
		return nil, err
	}
	points = slices.DeleteFunc(points, func(s *Snapshot) bool {
		return !s.Valid || !strings.HasPrefix(s.Point.Disk, domu+"/") || s.Point.Taken.After(at)
	})
	slices.SortStableFunc(points, latestFirst)
	for _, s := range points {
		d, err := domain.Moment{Name: domu, Of: s.Point.Taken}.Domain(dir)
		if err != nil { // which whoever reads it will say
			return s.Point, nil
		}
		if !slices.ContainsFunc(d.Copied(), func(target string) bool {
			return !slices.ContainsFunc(points, func(o *Snapshot) bool {
				return o.Point.Disk == domu+"/"+target && (o == s || o.Point.isWith(s.Point))
			})
		}) {
			return s.Point, nil
		}
	}
	return nil, nil
}
