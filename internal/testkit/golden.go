package testkit

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// Golden reads one of the streams that were written by hand. It is for tests of a package
// beside package stream, or of that.
func Golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../stream/testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.TrimSpace(line))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}
