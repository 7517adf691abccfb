package durable

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// LockFile has the lock of a file, which is made with its directory if it is not there, until it is released or the
// process ends. Another holder is waited for; after so long the status is Busy.
func LockFile(path string, patience time.Duration) (release func(), err error) {
	if err := MakeDir(filepath.Dir(path)); err != nil {
		return nil, exit.Fail(exit.CantCreate, "%w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "%w", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			f.Close()
			return nil, exit.Fail(exit.Busy, "%s: %w", path, err)
		}
	}
}
