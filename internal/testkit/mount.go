package testkit

import (
	"os"
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
	Write(t, image, "")
	const size = 400 << 20 // mkfs.xfs wants 300 MiB
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	Command(t, "", mkfs[0], append(mkfs[1:], image)...)
	Command(t, "", "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { insist(t, "umount", dir) })
	return dir
}
