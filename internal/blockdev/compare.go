// What two frozen files are not said to differ in is the same in both, though no byte of them is read and whatever
// moves their bytes meanwhile.

package blockdev

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// CompareExtents shows the parts of the first size bytes in which two files may differ: all but those that have the
// same place on the disk in both, and those that are zeroes in both. Nobody may write to either, ever: then what had
// one place at one moment is the same for ever, whatever becomes of the place.
//
// Their file system may move bytes all the time, for a balance, a defragmentation or a deduplication, and then give
// their old place to others. If they are moved whenever they are looked at, the status is Busy.
func CompareExtents(older, newer *File, size int64, differ func(off, n int64)) error {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(older.f.Fd()), &a), unix.Fstat(int(newer.f.Fd()), &b)); err != nil {
		return err
	}
	if a.Dev != b.Dev { // where the same place is another one
		return exit.Fail(exit.Usage, "%s and %s are on different file systems", older.path, newer.path)
	}
	return compare(mapOf(older.f), mapOf(newer.f), size, differ)
}

// extentMap tells where a file's bytes are from one byte up to another, or, if that is too much for one answer, up to
// an earlier one: without gaps, and neighbours made one where they can be. Two answers are equal if nothing moved.
type extentMap func(at, end int64) (parts []part, upTo int64, err error)

// part is a part of a file.
type part struct {
	span
	place int64 // of its first byte on the disk, or one of these:
}

const (
	nowhere = -1 - iota // these are zeroes: a hole, or blocks that were never written
	unknown
)

// errDisorder: the extents were moved while they were listed.
var errDisorder = errors.New("its extents overlap")

// tries is how often a part of two files is looked at. What moves bytes comes by each of them once.
const tries = 5

func compare(older, newer extentMap, size int64, differ func(off, n int64)) error {
	for at := int64(0); at < size; {
		a, b, upTo, err := look(older, newer, at, size)
		if err != nil {
			return err
		}
		compareParts(a, b, differ)
		at = upTo
	}
	return nil
}

// look returns where the bytes of both files are at one moment, from byte at on. The maps can only be read one after
// the other: the older file's bytes might be moved away as soon as its map was read, and the newer file's be put into
// their place. So both are read twice. What the older one says twice was so all the time between, and so it is with
// the newer one; between its first answer and the older one's second, both were.
func look(older, newer extentMap, at, size int64) (a, b []part, upTo int64, err error) {
	for range tries {
		a, upTo, err = older(at, size)
		if err == nil {
			b, upTo, err = newer(at, upTo)
		}
		if err == nil {
			a = cut(a, upTo)
			err = errors.Join(confirm(older, a, at, upTo), confirm(newer, b, at, upTo))
		}
		if !errors.Is(err, errDisorder) {
			return a, b, upTo, err
		}
	}
	return nil, nil, 0, exit.Fail(exit.Busy, "the extents are being moved (a balance, a defragmentation or "+
		"a deduplication is under way): try again when it is through")
}

// confirm demands that a file's map still says the same.
func confirm(m extentMap, said []part, at, upTo int64) error {
	again, _, err := m(at, upTo)
	if err == nil && !slices.Equal(again, said) {
		return errDisorder
	}
	return err
}

// compareParts compares two lists of the same bytes.
func compareParts(a, b []part, differ func(off, n int64)) {
	for len(a) > 0 {
		n := min(a[0].n, b[0].n)
		if a[0].place != b[0].place || a[0].place == unknown {
			differ(a[0].off, n)
		}
		a, b = behind(a, n), behind(b, n)
	}
}

// behind returns what follows the first n bytes, which are in one part.
func behind(parts []part, n int64) []part {
	first := &parts[0]
	if first.n == n {
		return parts[1:]
	}
	first.off, first.n = first.off+n, first.n-n
	if first.place >= 0 {
		first.place += n
	}
	return parts
}

// cut returns the parts up to a byte.
func cut(parts []part, upTo int64) []part {
	for i := range parts {
		if p := &parts[i]; p.off+p.n >= upTo {
			p.n = upTo - p.off
			return parts[:i+1]
		}
	}
	return parts
}

// appendPart appends the bytes from one up to another.
func appendPart(parts []part, from, to, place int64) []part {
	if from >= to {
		return parts
	}
	if k := len(parts) - 1; k >= 0 {
		last := &parts[k]
		if place < 0 && last.place == place || place >= 0 && last.place >= 0 && last.place+last.n == place {
			last.n = to - last.off
			return parts
		}
	}
	return append(parts, part{span{from, to - from}, place})
}

// mapOf returns the map that the file system has of a file.
func mapOf(f *os.File) extentMap {
	m := new(fiemap)
	return func(at, end int64) (parts []part, upTo int64, err error) {
		if err := m.ask(f, at, end); err != nil {
			return nil, 0, pathError("map", f.Name(), err)
		}
		upTo = at
		for _, e := range m.extents[:m.mapped] {
			from, to := int64(e.logical), min(end, int64(e.logical+e.length))
			place := placeOf(e.physical, e.flags)
			if from < at {
				if place >= 0 {
					place += at - from
				}
				from = at
			}
			if from < upTo || to <= from {
				return nil, 0, errDisorder
			}
			parts = appendPart(parts, upTo, from, nowhere)
			parts = appendPart(parts, from, to, place)
			upTo = to
		}
		if m.mapped < m.count { // there are no more
			parts, upTo = appendPart(parts, upTo, end, nowhere), end
		}
		return parts, upTo, nil
	}
}

// placeOf returns where an extent is. Only the flags that are named here say nothing of its bytes: with any other one
// (they are encoded, not written yet, together with others in a block) equal places do not mean equal bytes.
func placeOf(physical uint64, flags uint32) int64 {
	const harmless = fiemapLast | fiemapUnwritten | fiemapMerged | fiemapShared
	switch {
	case flags&^harmless != 0 || int64(physical) < 0:
		return unknown
	case flags&fiemapUnwritten != 0:
		return nowhere
	}
	return int64(physical)
}
