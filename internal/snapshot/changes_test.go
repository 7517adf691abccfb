package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// What happens to a snapshot after it was found to be what it was, and before its last extent was read, leaves no list
// of changes.
func TestChangesNotKept(t *testing.T) {
	dir, records := testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1"), state.Dir(t.TempDir())
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "precious")
	for what, spoil := range map[string]func(f *frozenFile) error{
		"given up":   func(f *frozenFile) error { return f.giveUp() },
		"removed":    func(f *frozenFile) error { return f.remove() },
		"written to": func(f *frozenFile) error { return os.WriteFile(f.Path(), []byte("PRECIOUS"), 0) },
		"nothing":    func(f *frozenFile) error { return nil },
	} {
		for i := range 2 {
			var pair [2]*frozenFile
			for i := range pair {
				var err error
				if pair[i], err = openFrozen(take(t, records, nobody, a)[0], records); err != nil {
					t.Fatal(err)
				}
				defer pair[i].Close()
			}
			if err := errors.Join(checkPair(pair[0], pair[1]), spoil(pair[i])); err != nil {
				t.Fatal(err)
			}
			e, err := compareFrozen(pair[0], pair[1])
			switch {
			case what == "nothing" && err == nil:
			case exit.StatusOf(err) != exit.BadSnapshot || e != nil:
				t.Errorf("snapshot %d %s: %v", i, what, err)
			}
		}
	}
}

// The record of a snapshot that was removed while it was taken is not written again.
func TestRemovedWhileTaken(t *testing.T) {
	dir, records := testkit.Mount(t, "mkfs.btrfs", "-q"), state.Dir(t.TempDir())
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "a")
	f, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := newFile(f, "abcdefgh", 0, Order{Owner: "1.1.00000000", State: records})
	if err == nil {
		err = errors.Join(s.prepare(), s.take(), os.Remove(s.Snapshot))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); exit.StatusOf(err) != exit.CantCreate {
		t.Errorf("finish: %v", err)
	}
	s.undo()
	if left := testkit.Names(t, dir) + " " + testkit.Names(t, recordDir(records)); left != "a " {
		t.Errorf("left: %s", left)
	}
}
