package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

func TestPendingFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func() *PendingFile {
		p, err := CreatePending(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(p, "new")
		if old, _ := os.ReadFile(path); string(old) != "old" {
			t.Errorf("%q before Commit", old)
		}
		return p
	}
	p := write()
	p.Discard()
	p.Discard()
	if old, _ := os.ReadFile(path); string(old) != "old" || testkit.Names(t, dir) != "file" {
		t.Errorf("%q in %s after Discard", old, testkit.Names(t, dir))
	}
	p = write()
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	p.Discard() // deferred ones come after Commit
	got, _ := os.ReadFile(path)
	if info, err := os.Stat(path); string(got) != "new" || testkit.Names(t, dir) != "file" || err != nil ||
		info.Mode().Perm() != 0o600 {
		t.Errorf("%q in %s after Commit", got, testkit.Names(t, dir))
	}
	if len(undo.stack) != 0 {
		t.Errorf("%d things to undo are left", len(undo.stack))
	}

	if _, err := CreatePending(filepath.Join(dir, "none", "file")); exit.StatusOf(err) != exit.CantCreate {
		t.Errorf("no directory: %v", err)
	}
	// A failed Commit says which file, and leaves none.
	for name, spoil := range map[string]func(*PendingFile){
		"closed": func(p *PendingFile) { p.Close() },
		"renamed": func(p *PendingFile) {
			if err := os.Mkdir(filepath.Join(dir, "occupied"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		path := filepath.Join(dir, "occupied")
		p, err := CreatePending(path)
		if err != nil {
			t.Fatal(err)
		}
		spoil(p)
		err = p.Commit()
		if exit.StatusOf(err) != exit.CantCreate || !strings.Contains(err.Error(), " "+path+":") {
			t.Errorf("%s: %v", name, err)
		}
		os.Remove(path)
		if testkit.Names(t, dir) != "file" {
			t.Errorf("%s: leaves %s", name, testkit.Names(t, dir))
		}
	}
}

// TestPendingReplaces demands that nothing but a regular file is replaced: as root,
// a rename over /dev/null takes it from the whole machine.
func TestPendingReplaces(t *testing.T) {
	dir := t.TempDir()
	fifo, link := dir+"/fifo", dir+"/link"
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink("nowhere", link)); err != nil {
		t.Fatal(err)
	}
	before := testkit.Names(t, dir)
	for _, path := range []string{fifo, link, dir} {
		if _, err := CreatePending(path); exit.StatusOf(err) != exit.CantCreate {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := testkit.Names(t, dir); got != before {
		t.Errorf("leaves %s", got)
	}
}
