package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Mount makes a file system by a command, to which the name of an image is added, and
// returns where it is mounted.
func Mount(t *testing.T, mkfs ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 400<<20); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, c := range [][]string{append(mkfs, image), {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	return dir
}
