package snapshot

import (
	"os"
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

// TestStateLost has nothing name snapshots any more that are there. Those that runs of this host have taken go with the
// next one; what anybody else has taken stays, and so does what somebody wants to keep, or is using.
func TestStateLost(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir, records, others := testkit.Mount(t, mkfs...), state.Dir(t.TempDir()), state.Dir(t.TempDir())
			a := filepath.Join(dir, strings.Repeat("ä", 120)) // of which the name is cut, in a letter
			testkit.Write(t, a, "precious")
			b := filepath.Join(dir, "b")
			testkit.Write(t, b, "another")
			keep := func(records state.Dir) string {
				snap := take(t, records, deadOwner, a)[0]
				order := keepOrder(t, records, 8, snap)
				if kept, err := Keep(snap, order, quiet{t}); err != nil || !kept {
					t.Fatal(kept, err)
				}
				return snap
			}
			alive, err := FindOwner("")
			if err != nil {
				t.Fatal(err)
			}
			base, leftover := keep(records), take(t, records, deadOwner, a)[0]
			stay := []string{keep(others), take(t, others, deadOwner, a)[0], take(t, records, nobody, a)[0], take(t, records, alive, a)[0],
				take(t, records, deadOwner, b)[0], snapshotPath(a, "abcdefgh")}
			testkit.Write(t, stay[5], "somebody's own")
			for _, name := range []string{"bases", "snapshots"} {
				if err := os.RemoveAll(filepath.Join(string(records), name)); err != nil {
					t.Fatal(err)
				}
			}
			var said spoken
			err = Create([]string{a}, Order{Size: DefaultSize, Owner: deadOwner, State: records}, &said,
				func(paths ...string) error { stay = append(stay, paths...); return nil })
			if err != nil || len(said) != 2 {
				t.Fatal(said, err)
			}
			for i, snap := range []string{base, leftover} {
				if _, err := os.Lstat(snap); err == nil {
					t.Errorf("%d: %s is still there", i, snap)
				}
			}
			for i, snap := range stay {
				if _, err := os.Lstat(snap); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
			// What has a record stays, also under another name of its directory.
			was, now := stay[6], filepath.Join(dir, "moved")
			if err := os.Mkdir(now, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{a, was} {
				if err := os.Rename(path, filepath.Join(now, filepath.Base(path))); err != nil {
					t.Fatal(err)
				}
			}
			take(t, records, deadOwner, filepath.Join(now, filepath.Base(a)))
			if _, err := os.Lstat(filepath.Join(now, filepath.Base(was))); err != nil {
				t.Error(err)
			}
		})
	}
}
