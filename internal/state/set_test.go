package state

import (
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// TestTwiceInAChange has a change with a device twice, for whose lock a run would wait for itself.
func TestTwiceInAChange(t *testing.T) {
	dir := Dir(t.TempDir())
	image := stream.Image{Size: 4096, BlockSize: 4096, Hash: stream.XXH64}
	held := Held{Version: version, Set: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Taken: time.Now(), Identity: "/srv/a",
		Target: "/srv/a", Basis: image, Source: image, Before: image}
	load := func(deltas ...Held) error {
		set := SetFields{Set: held.Set, Taken: held.Taken}
		if err := dir.SaveChange(&Change{SetFields: set, Deltas: deltas}); err != nil {
			t.Fatal(err)
		}
		_, err := dir.LoadChange(held.Set)
		return err
	}
	if err := load(held); err != nil {
		t.Error(err)
	}
	testkit.WantStatus(t, "one device twice", load(held, held), exit.Config)
}
