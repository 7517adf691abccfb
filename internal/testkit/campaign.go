package testkit

import (
	"os"
	"strconv"
	"testing"
)

// Rounds is how often a test tries what goes by chance: so often in an ordinary run, and XB_CAMPAIGN times as often in
// a campaign.
func Rounds(t testing.TB, ordinary int) int {
	t.Helper()
	return ordinary * setting(t, "XB_CAMPAIGN")
}

// Campaign tells whether this is one.
func Campaign() bool { return os.Getenv("XB_CAMPAIGN") != "" }

// Some returns the first rows of a table, so many in an ordinary run, and all in a campaign: those that come first differ
// most from each other.
func Some[T any](t testing.TB, ordinary int, rows ...T) []T {
	t.Helper()
	if Campaign() {
		return rows
	}
	return rows[:min(ordinary, len(rows))]
}

// Seed makes another campaign of it: XB_CAMPAIGN_SEED.
func Seed(t testing.TB) uint64 {
	t.Helper()
	return uint64(setting(t, "XB_CAMPAIGN_SEED"))
}

// setting returns the number in a variable, or 1.
func setting(t testing.TB, name string) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, and no number", name, text)
	}
	return n
}
