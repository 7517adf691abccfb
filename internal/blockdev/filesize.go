// A file that could not become as large as its image is refused before anything of it is written.

package blockdev

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// CheckFileSize fails unless a regular file in the directory of path may have n bytes: more than its file system
// allows to any file has status BadStream, more than this process may write CantCreate. Whether there is room for
// them is another question.
func CheckFileSize(path string, n int64) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil // a file system that can't tell beforehand
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, n); errors.Is(err, unix.EFBIG) || errors.Is(err, unix.EINVAL) {
		if limit := checkFileLimit(n); limit != nil {
			return exit.Fail(exit.CantCreate, "%s: %w", path, limit)
		}
		return exit.Fail(exit.BadStream, "%s: its file system allows no file of %d bytes", path, n)
	}
	return nil
}

// checkFileLimit fails unless this process may make a file of n bytes.
func checkFileLimit(n int64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil || uint64(n) <= limit.Cur {
		return err
	}
	return fmt.Errorf("this process may make no file of %d bytes: its limit is %d (RLIMIT_FSIZE, see ulimit -f)",
		n, limit.Cur)
}
