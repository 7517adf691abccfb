package lvm

import "math/bits"

// Extents are the byte ranges of an image that may differ from another's. They
// are kept as one bit for each unit, because a large disk can have hundreds of
// millions of them: 1 TiB in units of 4 KiB takes 32 MiB.
type Extents struct {
	unit, size int64 // in bytes
	bits       []uint64
}

func newExtents(unit, size int64) *Extents {
	units := (size + unit - 1) / unit
	return &Extents{unit, size, make([]uint64, (units+63)/64)}
}

// add adds the units that n bytes at off touch; what lies behind the image's end
// is dropped.
func (e *Extents) add(off, n int64) {
	if off >= e.size || n <= 0 {
		return
	}
	n = min(n, e.size-off)
	for u := off / e.unit; u <= (off+n-1)/e.unit; u++ {
		e.bits[u/64] |= 1 << (u % 64)
	}
}

// All yields offset and length in bytes of each extent, in ascending order. Two
// of them never touch.
func (e *Extents) All(yield func(off, n int64) bool) {
	for end := int64(0); end < e.size; {
		start := e.next(end, true)
		if start == e.size {
			return
		}
		end = e.next(start, false)
		if !yield(start, end-start) {
			return
		}
	}
}

// next returns the offset of the first unit at or behind off, a unit's offset
// itself, that is in the set, or is not; and the size if there is none.
func (e *Extents) next(off int64, in bool) int64 {
	for u := off / e.unit; u/64 < int64(len(e.bits)); u = (u/64 + 1) * 64 {
		word := e.bits[u/64]
		if !in {
			word = ^word
		}
		if word >>= u % 64; word != 0 {
			return min(e.size, (u+int64(bits.TrailingZeros64(word)))*e.unit)
		}
	}
	return e.size
}
