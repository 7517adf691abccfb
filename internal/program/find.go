// Package program runs the programs of others: virsh, xl, LVM's. Each one has a time limit,
// speaks no other language than the C locale, and fails with what it said. Nothing stays
// behind of one that only answers; none that changes something is ever killed.
package program

import (
	"os/exec"
	"path/filepath"

	"xen-backup/internal/exit"
)

// Find returns where a helper program is. The PATH of cron and of ssh often
// lacks the sbin directories: not to see xl for that would be to overlook the
// domains that it started. The error, of one that is not installed, is
// exec.ErrNotFound and has status Unavailable.
func Find(name string) (string, error) {
	for _, dir := range []string{"", "/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exit.Fail(exit.Unavailable, "%s: %w: is its package installed?", name, exec.ErrNotFound)
}
