package blockdev

import (
	"testing"

	"xen-backup/internal/exit"
)

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

// Captured from Linux 6.1 and 7.2.
func TestParsePool(t *testing.T) {
	pool := func(status string) *DM {
		return &DM{Name: "vg-pool-tpool", Targets: []DMTarget{{Type: "thin-pool", Params: "254:0 254:1 128 0 0", Status: status}}}
	}
	for _, status := range []string{
		"3 121/1024 1536/3200 - rw no_discard_passdown queue_if_no_space - 256",
		"3 121/1024 1536/3200 77 out_of_data_space discard_passdown error_if_no_space needs_check 256",
	} {
		got, err := pool(status).parsePool()
		want := Pool{BlockSize: 64 << 10, Data: 3200 << 16, DataUsed: 1536 << 16, Meta: 1024 << 12, MetaUsed: 121 << 12}
		if err != nil || *got != want {
			t.Errorf("%q: %+v, %v", status, got, err)
		}
	}
	for _, status := range []string{"Fail", "Error", "", "3 121/1024"} {
		if p, err := pool(status).parsePool(); exit.StatusOf(err) != exit.BadSnapshot {
			t.Errorf("%q: %+v, %v", status, p, err)
		}
	}
}

func TestGivenUp(t *testing.T) {
	const uuid = "LVM-vkxRLOzdRr2OqtgJpH5URYrGRzpyVSvr9okgbcmw4RKMhABpyaXLOBfcMfTJhZUW"
	for _, c := range []struct {
		name, uuid string
		targets    []DMTarget
		givenUp    bool
	}{
		{"vg-xb--t1--ntxmqbty", uuid, []DMTarget{{Type: "error"}}, true},
		{"vg-xb--t1--ntxmqbty", uuid, []DMTarget{{Type: "thin"}}, false},
		{"vg-xb--t1--ntxmqbty", uuid, nil, false},
		{"vg-t1", uuid, []DMTarget{{Type: "error"}}, false},                                 // a volume whose disk is gone
		{"vg-xb--t1--ntxmqbty", "", []DMTarget{{Type: "error"}}, false},                     // none of LVM's
		{"vg-xb--t1--ntxmqbty-cow", uuid, []DMTarget{{Type: "error"}}, false},               // a hidden part
		{"vg-xb--t1--ntxmqbty", uuid, []DMTarget{{Type: "linear"}, {Type: "error"}}, false}, // partly active
	} {
		if d := (&DM{Name: c.name, UUID: c.uuid, Targets: c.targets}); d.GivenUp() != c.givenUp {
			t.Errorf("%s %s %v: %v", c.name, c.uuid, c.targets, d.GivenUp())
		}
	}
}
