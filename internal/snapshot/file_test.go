package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// quiet fails the test if a word is said.
type quiet struct{ *testing.T }

func (q quiet) Warn(format string, args ...any) { q.Errorf(format, args...) }
func (q quiet) Info(string, ...any)             {}

// take takes snapshots and returns their paths.
func take(t *testing.T, records state.Dir, owner Owner, sources ...string) (snaps []string) {
	t.Helper()
	order := Order{Size: DefaultSize, Owner: owner, State: records}
	err := Create(sources, order, quiet{t}, func(paths ...string) error { snaps = paths; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return snaps
}

// What is given up must be what xb-snap made.
func TestGiveUpOnlyOurs(t *testing.T) {
	dir, records := testkit.Mount(t, "mkfs.btrfs", "-q"), state.Dir(t.TempDir())
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "precious")
	for what, replace := range map[string]func(snap string) error{
		"a link to another file": func(snap string) error { return os.Symlink(a, snap) },
		"another name of a file": func(snap string) error { return os.Link(a, snap) },
		"another file":           func(snap string) error { return os.WriteFile(snap, []byte("precious"), 0o600) },
	} {
		snap := take(t, records, nobody, a)[0]
		files, _, err := fileSnapshots(records)
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.Remove(snap); err != nil {
			t.Fatal(err)
		}
		if err := replace(snap); err != nil {
			t.Fatal(err)
		}
		if err := files[0].giveUp(); err == nil || testkit.Read(t, a) != "precious" || testkit.Read(t, snap) != "precious" {
			t.Errorf("%s: %v", what, err)
		}
		if err := Remove([]string{snap}, records); err != nil {
			t.Error(err)
		}
	}
	empty := filepath.Join(dir, "empty")
	testkit.Write(t, empty, "")
	order := Order{Size: 1, Owner: nobody, State: records}
	if err := Create([]string{empty}, order, quiet{t}, nil); exit.StatusOf(err) != exit.Config {
		t.Errorf("an empty file: %v", err)
	}
}

// Somebody prunes while a snapshot is being taken for an owner that is dead by now.
func TestPrunedWhileTaken(t *testing.T) {
	dir, records := testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1"), state.Dir(t.TempDir())
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "a")
	left := func() string { return testkit.Names(t, dir) + " " + testkit.Names(t, recordDir(records)) }
	before := testkit.Names(t, dir) + " "
	f, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := newFile(f, "abcdefgh", 0, Order{Owner: "1.1.00000000", State: records})
	if err == nil {
		err = errors.Join(s.prepare(), os.Remove(s.record), s.take())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err == nil || !strings.Contains(err.Error(), "removed while it was taken") {
		t.Errorf("finish: %v", err)
	}
	if err := s.undo(); err != nil || left() != before {
		t.Errorf("undo: %v, left %s", err, left())
	}
}
