package blockdev

import "testing"

func TestRoomFloor(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		room          Room
		floor, margin int64
	}{
		{Room{Size: 10 * gib, Free: gib}, 256 * mib, 768 * mib},
		{Room{Size: 10 * gib, Free: 200 * mib}, 256 * mib, -56 * mib},
		{Room{Size: 100 << 40, Free: 1 << 40}, 1 << 40, 0},
		{Room{Size: 100 * gib, Free: 6 * gib, MetaSize: gib, MetaFree: gib, pool: 1}, 5 * gib, gib},
		{Room{Size: 100 * gib, Free: 4 * gib, MetaSize: gib, MetaFree: gib, pool: 1}, 5 * gib, -gib},
		{Room{Size: 100 * gib, Free: 90 * gib, MetaSize: 100 * mib, MetaFree: 11 * mib, pool: 1}, 5 * gib, 16 * mib},
		{Room{Size: 100 * gib, Free: 90 * gib, MetaSize: 100 * mib, MetaFree: 9 * mib, pool: 1}, 5 * gib, -16 * mib},
	} {
		// A hundredth is rounded down.
		floor, margin := c.room.Floor(), c.room.Margin()
		if c.floor-floor > 1<<10 || floor > c.floor || margin < c.margin || margin-c.margin > 1<<10 {
			t.Errorf("%+v: floor %d, want %d, margin %d, want %d", c.room, floor, c.floor, margin, c.margin)
		}
	}
}
