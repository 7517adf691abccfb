// Package testkit has what the tests of several rooms need.
package testkit

import (
	"os"
	"strings"
	"testing"
)

// Names returns the names of all files in a directory, with spaces between them.
func Names(t *testing.T, dir string) string {
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
