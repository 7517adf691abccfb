package blockdev

import (
	"os"
	"path/filepath"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

func TestIdentityOfPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mkdir := func(name string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	mkdir("real")
	if err := os.WriteFile(filepath.Join(dir, "real/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link("real", "linked")
	link("real/file", "link")
	link("link", "link2")
	link("loop", "loop")
	t.Chdir(dir)
	for path, want := range map[string]string{
		"real/file": "real/file", "./real//file": "real/file", "real/../real/file": "real/file",
		dir + "/real/file": "real/file", "linked/file": "real/file", "link": "real/file", "link2": "real/file",
		"real/new": "real/new", "linked/new": "real/new", dir + "/new": "new",
	} {
		if got, err := Identity(path); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: %s (%v), want %s", path, got, err, want)
		}
	}
	_, err = Identity("none/new")
	testkit.WantStatus(t, "no directory", err, exit.NoInput)
	_, err = Identity("real/file/new")
	testkit.WantStatus(t, "a file as directory", err, exit.NoInput)
	_, err = Identity("loop")
	testkit.WantStatus(t, "link to itself", err, exit.IOError)
}

func TestIdentityOfDevice(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{device, link} {
		if got, err := Identity(path); got != device || err != nil {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}
