package dm

import (
	"testing"

	"xen-backup/internal/exit"
)

// Captured from Linux 6.1 and 7.2.
func TestParsePool(t *testing.T) {
	pool := func(status string) *Device {
		target := Target{Type: "thin-pool", Params: "254:0 254:1 128 0 0", Status: status}
		return &Device{Name: "vg-pool-tpool", Targets: []Target{target}}
	}
	for _, status := range []string{
		"3 121/1024 1536/3200 - rw no_discard_passdown queue_if_no_space - 256",
		"3 121/1024 1536/3200 77 out_of_data_space discard_passdown error_if_no_space needs_check 256",
	} {
		got, err := pool(status).parsePool()
		want := Pool{
			Name: "vg-pool", ZeroesBlocks: true, BlockSize: 64 << 10,
			Data: 3200 << 16, DataUsed: 1536 << 16, Meta: 1024 << 12, MetaUsed: 121 << 12,
		}
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
