package testkit

import (
	"testing"

	"xen-backup/internal/exit"
)

// WantStatus demands an error with this exit status.
func WantStatus(t testing.TB, what string, err error, status int) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted, want status %d", what, status)
	} else if got := exit.StatusOf(err); got != status {
		t.Errorf("%s: status %d (%v), want %d", what, got, err, status)
	}
}
