package extent

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// pairs returns the extents as pairs.
func pairs(e *Set) [][2]int64 {
	var list [][2]int64
	for off, n := range e.All {
		list = append(list, [2]int64{off, n})
	}
	return list
}

func TestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		unit, size := int64(1+r.IntN(9)), int64(r.IntN(2000))
		e := NewSet(unit, size)
		changed := make([]bool, size)
		for range r.IntN(40) {
			off, n := int64(r.IntN(2200)), int64(r.IntN(30))
			e.Add(off, n)
			for i := off / unit * unit; n > 0 && off < size && i < (min(off+n, size)+unit-1)/unit*unit && i < size; i++ {
				changed[i] = true
			}
		}
		var want [][2]int64
		for i, is := range changed {
			switch {
			case !is:
			case i > 0 && changed[i-1]:
				want[len(want)-1][1]++
			default:
				want = append(want, [2]int64{int64(i), 1})
			}
		}
		if got := pairs(e); !reflect.DeepEqual(got, want) {
			t.Fatalf("unit %d size %d: %v, want %v", unit, size, got, want)
		}
	}
}

// However many there are, all that was added is in the set, and its bounds hold.
func TestTooMany(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		unit := int64(1 + r.IntN(9))
		size := 1 + int64(r.IntN(4000))
		e := NewSet(unit, size)
		e.limit = 1 + r.IntN(40)
		changed := make([]bool, size)
		order := r.Perm(int(size))[:r.IntN(int(size)+1)]
		if i%2 == 0 { // as thin_delta prints them
			slices.Sort(order)
		}
		for _, off := range order {
			changed[off] = true
			e.Add(int64(off), 1)
		}
		list := pairs(e)
		if len(list) > e.limit {
			t.Fatalf("%d extents, at most %d wanted", len(list), e.limit)
		}
		end := int64(-1)
		for _, x := range list {
			if x[0] <= end || x[1] <= 0 || x[0]%e.unit != 0 || x[0]+x[1] != min(size, (x[0]+x[1]+e.unit-1)/e.unit*e.unit) {
				t.Fatalf("size %d in units of %d: bad extent %v behind %d", size, e.unit, x, end)
			}
			end = x[0] + x[1]
			clear(changed[x[0]:end])
		}
		if at := slices.Index(changed, true); at >= 0 {
			t.Fatalf("size %d, limit %d: byte %d is missing in %v", size, e.limit, at, list)
		}
	}
}

// A million are kept as they are, from a store in any order as from thin_delta.
func TestMillion(t *testing.T) {
	const chunk, size = 4096, 16 << 40
	order := rand.New(rand.NewPCG(5, 6)).Perm(Max)
	for _, extra := range []int{0, 1} {
		e := NewSet(chunk, size)
		for _, i := range order {
			e.Add(int64(i)*2*chunk, chunk)
		}
		for range extra {
			e.Add(size-chunk, chunk)
		}
		list := pairs(e)
		if exact := len(list) == Max && list[Max-1] == [2]int64{(Max - 1) * 2 * chunk, chunk}; exact != (extra == 0) {
			t.Errorf("%d more than a million: %d extents in units of %d", extra, len(list), e.unit)
		}
		if last := list[len(list)-1]; extra > 0 && last != [2]int64{size - e.unit, e.unit} {
			t.Errorf("the last extent is %v", last)
		}
	}
}

func TestOverlap(t *testing.T) {
	e := NewSet(100, 9_950)
	for _, off := range []int64{1000, 1150, 5010, 9940} {
		e.Add(off, 10)
	}
	if got := e.Bytes(); got != 350 {
		t.Errorf("%d bytes, want 350", got)
	}
	for _, c := range []struct{ off, n, want int64 }{
		{0, 10_000, 350}, {0, 1000, 0}, {1000, 100, 100}, {1100, 100, 100}, {1050, 100, 100}, {1199, 3000, 1},
		{1200, 3800, 0}, {1000, 4100, 300}, {9900, 5000, 50},
	} {
		if got := e.Overlap(c.off, c.n); got != c.want {
			t.Errorf("%d bytes at %d: %d, want %d", c.n, c.off, got, c.want)
		}
	}
}
