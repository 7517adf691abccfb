package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity returns what a device is remembered by: the UUID of a device-mapper
// device, which stays when a logical volume is renamed and when the numbers of the
// /dev/dm-N are dealt anew, and the path without links of anything else. The file
// need not exist, only its directory.
func Identity(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		uuid, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%s/dm/uuid", majorMinor(stat.Rdev)))
		if id := strings.TrimSpace(string(uuid)); err == nil && id != "" {
			return id, nil
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", openError(filepath.Dir(path), err)
	}
	real := filepath.Join(dir, filepath.Base(path))
	target, err := filepath.EvalSymlinks(real)
	switch {
	case os.IsNotExist(err):
		return real, nil
	case err != nil:
		return "", openError(path, err)
	}
	return target, nil
}
