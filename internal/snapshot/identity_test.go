package snapshot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// Whatever root does to a snapshot of a file, it has another identity then, or none. Of logical volumes the lab tries
// the same.
func TestIdentityOfFiles(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir, records := testkit.Mount(t, mkfs...), state.Dir(t.TempDir())
			a := filepath.Join(dir, "a")
			testkit.Write(t, a, "precious")
			for what, change := range map[string]func(snap string) error{
				"nothing": func(string) error { return nil },
				"it is read": func(snap string) error {
					_, err := os.ReadFile(snap)
					return err
				},
				"it is written to, and its time set back": func(snap string) error {
					info, err := os.Stat(snap)
					if err == nil {
						err = os.WriteFile(snap, []byte("PRECIOUS"), 0)
					}
					if err == nil {
						err = os.Chtimes(snap, time.Time{}, info.ModTime())
					}
					return err
				},
				"another one has its name": func(snap string) error {
					other := take(t, records, nobody, a)[0]
					return os.Rename(other, snap)
				},
				"it is made writable for a moment": func(snap string) error {
					if err := os.Chmod(snap, 0o600); err != nil {
						return err
					}
					if id, err := Identity(snap); exit.StatusOf(err) != exit.BadSnapshot {
						t.Errorf("while it can be written to: %q, %v", id, err)
					}
					return os.Chmod(snap, 0o400)
				},
			} {
				snap := take(t, records, nobody, a)[0]
				before, err := Identity(snap)
				if err != nil {
					t.Fatal(err)
				}
				if err := change(snap); err != nil {
					t.Fatal(err)
				}
				now, err := Identity(snap)
				if same := what == "nothing" || what == "it is read"; err != nil || (now == before) != same {
					t.Errorf("%s: before %q, now %q, %v", what, before, now, err)
				}
			}
			snap := take(t, records, nobody, a)[0]
			if err := os.Truncate(snap, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := Identity(snap); exit.StatusOf(err) != exit.BadSnapshot {
				t.Errorf("given up: %v", err)
			}
			if _, err := Identity(snap + "x"); exit.StatusOf(err) != exit.NoInput {
				t.Errorf("missing: %v", err)
			}
		})
	}
	other := filepath.Join(testkit.MemoryDir(t), "a")
	testkit.Write(t, other, "precious")
	if err := os.Chmod(other, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Identity(other); exit.StatusOf(err) != exit.Usage {
		t.Errorf("where nothing is known of files: %v", err)
	}
}
