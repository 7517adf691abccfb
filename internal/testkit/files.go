// Package testkit has what the tests of several rooms need. What it makes is gone when the
// test ends, and what it cannot have fails or skips the test.
package testkit

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// Write makes a file with this content.
func Write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Read returns the content of a file.
func Read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Names returns the names of all files in a directory, with spaces between them.
func Names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

// FullWriter takes so many bytes, and no more.
type FullWriter struct{ Room int }

// ErrFull is the error of a FullWriter that has no more room.
var ErrFull = errors.New("full")

func (w *FullWriter) Write(b []byte) (int, error) {
	n := min(len(b), w.Room)
	if w.Room -= n; n < len(b) {
		return n, ErrFull
	}
	return n, nil
}

// MemoryDir returns a directory of the test's own, in memory where there is such a place: a
// test that kills processes needs no sync that takes its time.
func MemoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "xb-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
