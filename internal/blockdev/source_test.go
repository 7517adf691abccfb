package blockdev

import (
	"os"
	"path/filepath"
	"testing"

	"xen-backup/internal/exit"
)

// TestSource: what is written to while it is read is no image.
func TestSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".disk.xb-snap-abcdefgh")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(allowLive bool) *Source {
		s, err := OpenSource(path, allowLive)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		if err := s.Check(); err != nil {
			t.Errorf("untouched: %v", err)
		}
		return s
	}
	frozen, live := open(false), open(true)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 5000); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Check(); exit.StatusOf(err) != exit.Busy {
		t.Errorf("written to: %v", err)
	}
	if err := live.Check(); err != nil {
		t.Errorf("written to, which is allowed: %v", err)
	}
	if err := Empty(f); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Source{frozen, live} {
		if err := s.Check(); exit.StatusOf(err) != exit.BadSnapshot {
			t.Errorf("given up: %v", err)
		}
	}
	for _, allowLive := range []bool{false, true} {
		if _, err := OpenSource(path, allowLive); exit.StatusOf(err) != exit.BadSnapshot {
			t.Errorf("given up before: %v", err)
		}
		if _, err := OpenSource(path+"2", allowLive); exit.StatusOf(err) != exit.NoInput {
			t.Errorf("missing: %v", err)
		}
	}
}
