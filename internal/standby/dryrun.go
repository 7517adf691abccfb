package standby

import (
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
)

// DryRun receives a delta and proves it and the target. It takes no lock and writes nothing.
func DryRun(user User, o Options, in io.Reader) (rdiff.Delta, error) {
	t, err := find(user, o)
	if err != nil {
		return rdiff.Delta{}, err
	}
	defer t.close()
	err = t.look()
	if err == nil {
		err = t.checkRecord()
	}
	if err == nil {
		err = t.checkPlaces()
	}
	if err == nil && o.InPlace {
		err = t.checkFirstCopy()
	}
	if err != nil {
		return rdiff.Delta{}, err
	}
	a := newApply(t, in)
	defer a.close()
	if err = a.verify(&a.input); err == nil {
		err = a.judge()
	}
	if err == nil {
		err = a.checkStranger()
	}
	return a.delta, err
}

// checkPlaces demands that the state, the spool and a missing target could be created.
func (t *target) checkPlaces() error {
	dirs := []string{t.StateDir}
	if t.file == nil && t.volume == nil {
		dirs = append(dirs, filepath.Dir(t.Target))
	}
	if !t.InPlace {
		dirs = append(dirs, filepath.Dir(t.device.SpoolFile(t.Spool)))
	}
	for _, dir := range dirs {
		for dir != t.Spool && isMissing(dir) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir) // it would be created in there
		}
		if err := unix.Access(dir+"/.", unix.W_OK); err != nil {
			return exit.Fail(exit.CantCreate, "cannot create files in %s: %w", dir, err)
		}
	}
	return nil
}
