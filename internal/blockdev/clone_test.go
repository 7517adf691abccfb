package blockdev

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/testkit"
)

func TestClone(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir := testkit.Mount(t, mkfs...)
			for _, attribute := range []string{"", "file +C", "directory +C"} {
				if attribute != "" && mkfs[0] != "mkfs.btrfs" {
					continue
				}
				testClone(t, dir, attribute)
			}
		})
	}
}

func testClone(t *testing.T, dir, attribute string) {
	old := bytes.Repeat([]byte("old."), 100_000)
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	src := create(t, filepath.Join(dir, "src"))
	switch attribute {
	case "file +C":
		testkit.Command(t, "", "chattr", "+C", src.Name())
	case "directory +C":
		testkit.Command(t, "", "chattr", "+C", dir)
	}
	if _, err := src.Write(old); err != nil { // stays unsynced
		t.Fatal(err)
	}
	dst := create(t, filepath.Join(dir, "dst"))
	if err := Clone(dst, src); err != nil {
		t.Fatalf("attribute %q: %v", attribute, err)
	}
	if _, err := src.WriteAt([]byte("new!"), 8192); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, old) {
		t.Errorf("attribute %q: the clone is not what was there, %v", attribute, err)
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestCloneUnsupported(t *testing.T) {
	dir := testkit.Mount(t, "mkfs.ext4", "-q")
	src := create(t, filepath.Join(dir, "src"))
	if err := Clone(create(t, filepath.Join(dir, "dst")), src); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("on ext4: %v", err)
	}
	err := Clone(create(t, filepath.Join(t.TempDir(), "dst")), src)
	if !errors.Is(err, unix.EXDEV) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("from one file system to another: %v", err)
	}
}
