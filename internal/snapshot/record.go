package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// A record is a file STATE_DIR/snapshots/RUN-NUMBER.json with what a fileSnapshot has in
// JSON. A file without one is never taken for a snapshot of ours.

var recordName = regexp.MustCompile(`^[a-z2-7]{8}-[0-9]+\.json$`)

func recordDir(dir state.Dir) string { return filepath.Join(string(dir), "snapshots") }

// remember writes the record.
func (s *fileSnapshot) remember() error {
	if err := durable.MakeDir(filepath.Dir(s.record)); err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the state directory: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return exit.Fail(exit.Internal, "record of a snapshot: %w", err)
	}
	if err := durable.WriteFile(s.record, append(text, '\n')); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write a record of the snapshot: %w", err)
	}
	return nil
}

// forget removes the record, if it is there.
func (s *fileSnapshot) forget() error {
	if err := os.Remove(s.record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return exit.Fail(exit.IOError, "cannot remove the record of a snapshot: %w", err)
	}
	return nil
}

// takenFiles returns all snapshots of files. Even with an error, those that it returns
// are there.
func takenFiles(dir state.Dir) (all []*Snapshot, err error) {
	files, err := fileSnapshots(dir)
	for _, s := range files {
		all = append(all, s.snapshot())
	}
	return all, err
}

// fileSnapshots reads all records. A record that can't be read is an error, but
// keeps nobody from the others.
func fileSnapshots(dir state.Dir) ([]*fileSnapshot, error) {
	entries, err := os.ReadDir(recordDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, exit.Fail(exit.IOError, "cannot read the records: %w", err)
	}
	var all []*fileSnapshot
	var errs []error
	for _, entry := range entries {
		if !recordName.MatchString(entry.Name()) { // one being written, or a stranger
			continue
		}
		s, err := readRecord(filepath.Join(recordDir(dir), entry.Name()))
		if err == nil {
			all = append(all, s)
		} else if !errors.Is(err, fs.ErrNotExist) { // else removed just now
			errs = append(errs, exit.Fail(exit.IOError, "cannot read the record of a snapshot: %w", err))
		}
	}
	return all, errors.Join(errs...)
}

func readRecord(path string) (*fileSnapshot, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &fileSnapshot{record: path}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !isFileName(s.Snapshot) {
		return nil, fmt.Errorf("%s: %q is no name of a snapshot", path, s.Snapshot)
	}
	return s, nil
}
