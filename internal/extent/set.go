// Package extent keeps byte ranges of an image. A set of them may have more in it than
// was added, but never less: what is missing in one is a change that nobody copies.
package extent

import (
	"cmp"
	"slices"
	"sort"
)

// Max bounds the memory that a set takes, to 16 MiB and some: a disk of 16 TiB in
// chunks of 4 KiB has four thousand million extents.
const Max = 1_000_000

const maxFresh = 1 << 18 // extents that wait for being merged

// Set is a set of the byte ranges of an image that may differ from another's, in whole
// units. They are exact as long as there are Max or less; with more of them, neighbours
// are joined by making the unit larger.
type Set struct {
	unit, size int64  // in bytes
	limit      int    // Max
	list       []span // in order, none touching the next
	fresh      []span // added since, in no order
}

type span struct{ off, end int64 }

// NewSet returns an empty set for an image of size bytes.
func NewSet(unit, size int64) *Set { return &Set{unit: unit, size: size, limit: Max} }

// Add adds the units that n bytes at off touch; what lies behind the image's end
// is dropped.
func (e *Set) Add(off, n int64) {
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
func (e *Set) whole(s span) span {
	end := s.end
	if rest := end % e.unit; rest > 0 {
		end += min(e.unit-rest, e.size-end)
	}
	return span{s.off - s.off%e.unit, end}
}

// merge puts the fresh ones in their places in the list.
func (e *Set) merge() {
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
func (e *Set) join() {
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
func (e *Set) All(yield func(off, n int64) bool) {
	e.merge()
	for _, s := range e.list {
		if !yield(s.off, s.end-s.off) {
			return
		}
	}
}

// Bytes returns how many bytes the extents have together.
func (e *Set) Bytes() (n int64) {
	for _, length := range e.All {
		n += length
	}
	return n
}

// Overlap returns how many of the n bytes at off are in the set.
func (e *Set) Overlap(off, n int64) (common int64) {
	e.merge()
	end := off + n
	behind := func(i int) bool { return e.list[i].end > off }
	for i := sort.Search(len(e.list), behind); i < len(e.list) && e.list[i].off < end; i++ {
		common += min(end, e.list[i].end) - max(off, e.list[i].off)
	}
	return common
}
