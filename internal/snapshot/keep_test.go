package snapshot

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

const deadOwner = Owner("1.1.00000000")

func keepOrder(t *testing.T, records state.Dir, size int64, snap string) KeepOrder {
	t.Helper()
	read, err := blockdev.Identity(snap)
	if err != nil {
		t.Fatal(err)
	}
	return KeepOrder{Peer: "dom0b", Disk: "web/xvda", Image: stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: size},
		Read: read, Taken: time.Unix(1, 0), Limit: 99, State: records}
}

// TestKilledWhileKept: between its two steps keep leaves a snapshot that is a leftover as others are, and a record that
// nobody takes for a base.
func TestKilledWhileKept(t *testing.T) {
	dir, records := testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1"), state.Dir(t.TempDir())
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "precious")
	snap := take(t, records, deadOwner, a)[0]
	order := keepOrder(t, records, 8, snap)

	// The first step.
	found, err := taken(records)
	s, err := found.find(snap, err)
	if err != nil {
		t.Fatal(err)
	}
	record, err := order.record(s)
	if err != nil {
		t.Fatal(err)
	}
	store, err := base.Open(records)
	if err == nil {
		err = store.Keep(*record, stream.Image{})
	}
	if err != nil {
		t.Fatal(err)
	}
	store.Close()

	var told []string
	tell := func(paths ...string) error { told = append(told, paths...); return nil }
	if err := PruneBases(Peers{}, records, quiet{t}, tell); err != nil || told != nil {
		t.Errorf("it is no base to be pruned: %v, %s", err, told)
	}
	if err := Prune(records, quiet{t}, tell); err != nil || strings.Join(told, " ") != snap {
		t.Errorf("prune: %v, %s", err, told)
	}
	var said spoken
	if usable, err := Bases(a, "dom0b", records, &said); err != nil || len(usable) != 0 || len(said) != 1 ||
		!strings.Contains(said[0], "no such snapshot") {
		t.Errorf("bases: %v, %v, %q", usable, err, said)
	}
	snap = take(t, records, deadOwner, a)[0]
	order = keepOrder(t, records, 8, snap)
	if kept, err := Keep(snap, order, quiet{t}); err != nil || !kept {
		t.Errorf("the next run: %v, %v", kept, err)
	}
	if usable, err := Bases(a, "dom0b", records, quiet{t}); err != nil || len(usable) != 1 || usable[0].Snapshot != snap {
		t.Errorf("bases: %v, %v", usable, err)
	}
	if err := Prune(records, quiet{t}, tell); err != nil || len(told) != 1 {
		t.Errorf("prune of bases: %v, %s", err, told)
	}
	if err := RemoveUnlessKept([]string{snap}, records); err != nil {
		t.Error(err)
	}
	if err := Remove([]string{snap}, records); err != nil {
		t.Error(err)
	}
	if err := Remove([]string{snap}, records); exit.StatusOf(err) != exit.NoInput {
		t.Errorf("removed twice: %v", err)
	}
}
