package replicate

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// claimsName is the file of a run's directory with all standbys that this run has prepared, a line each: whose they are
// is known before the other side has to find out that two disks meet in one.
const claimsName = "standbys"

// claim makes a standby that of a disk for this run, or says whose it is. Only looking claims nothing.
func (r *run) claim(row *Row, onlyLook bool) error {
	f, err := os.OpenFile(filepath.Join(r.Run, claimsName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		defer f.Close()
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot tell whose standby it is: %w", err)
	}
	standby := row.Dom0 + ":" + row.Target
	mine := fmt.Sprintf("%s\t%s\t%s", standby, r.DomU, row.Source)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := lines.Text(); line == mine {
			return nil
		} else if is, owner, _ := strings.Cut(line, "\t"); is == standby {
			return exit.Fail(exit.Config, "%s would overwrite %s of %s", row.Source, standby, strings.ReplaceAll(owner, "\t", " "))
		}
	}
	if onlyLook {
		return nil
	}
	_, err = f.WriteString(mine + "\n")
	return errors.Join(err)
}
