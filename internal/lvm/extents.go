package lvm

import (
	"cmp"
	"slices"
)

// maxExtents bounds the memory that a set takes, to 16 MiB and some: a disk of 16
// TiB in chunks of 4 KiB has four thousand million of them.
const (
	maxExtents = 1_000_000
	maxFresh   = 1 << 18 // those that wait for being merged
)

// Extents are the byte ranges of an image that may differ from another's, in whole
// units. They are exact as long as there are a million or less; with more of them,
// neighbours are joined by making the unit larger. So there can be more in the set
// than was added, but never less.
type Extents struct {
	unit, size int64  // in bytes
	limit      int    // maxExtents
	list       []span // in order, none touching the next
	fresh      []span // added since, in no order
}

type span struct{ off, end int64 }

func newExtents(unit, size int64) *Extents {
	return &Extents{unit: unit, size: size, limit: maxExtents}
}

// add adds the units that n bytes at off touch; what lies behind the image's end
// is dropped.
func (e *Extents) add(off, n int64) {
	if off >= e.size || n <= 0 {
		return
	}
	s := e.whole(span{off, off + min(n, e.size-off)})
	if k := len(e.fresh) - 1; k >= 0 && e.fresh[k].off <= s.off && s.off <= e.fresh[k].end {
		e.fresh[k].end = max(e.fresh[k].end, s.end)
		return
	}
	if e.fresh = append(e.fresh, s); len(e.fresh) >= min(e.limit, maxFresh) {
		e.merge()
	}
}

// whole rounds to whole units, the last of which may be a short one.
func (e *Extents) whole(s span) span {
	end := s.end
	if rest := end % e.unit; rest > 0 {
		end += min(e.unit-rest, e.size-end)
	}
	return span{s.off - s.off%e.unit, end}
}

// merge puts the fresh ones in their places in the list.
func (e *Extents) merge() {
	slices.SortFunc(e.fresh, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	if e.list == nil && len(e.fresh) > 0 { // memory that is not used is not resident, and what has grown is garbage
		e.list = make([]span, 0, e.limit+maxFresh)
	}
	i, j := len(e.list)-1, len(e.fresh)-1
	e.list = append(e.list, e.fresh...) // for the room: it is filled from behind
	for k := len(e.list) - 1; j >= 0; k-- {
		if i >= 0 && e.list[i].off > e.fresh[j].off {
			e.list[k], i = e.list[i], i-1
		} else {
			e.list[k], j = e.fresh[j], j-1
		}
	}
	e.fresh = e.fresh[:0]
	for e.join(); len(e.list) > e.limit; e.join() {
		e.unit *= 2
	}
}

// join makes one of those that touch each other, in units of today's size.
func (e *Extents) join() {
	joined := e.list[:0]
	for _, s := range e.list {
		s = e.whole(s)
		if k := len(joined) - 1; k >= 0 && s.off <= joined[k].end {
			joined[k].end = max(joined[k].end, s.end)
		} else {
			joined = append(joined, s)
		}
	}
	e.list = joined
}

// All yields offset and length in bytes of each extent, in ascending order. Two
// of them never touch.
func (e *Extents) All(yield func(off, n int64) bool) {
	e.merge()
	for _, s := range e.list {
		if !yield(s.off, s.end-s.off) {
			return
		}
	}
}
