package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// A record is a file STATE_DIR/snapshots/RUN-NUMBER.json with what a fileSnapshot has in
// JSON. A file without one is never taken for a snapshot of ours.

var recordName = text.Pattern(`^[a-z2-7]{8}-[0-9]+\.json$`)

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

// takenFiles finds all snapshots of files.
func takenFiles(dir state.Dir) (*inventory, error) {
	files, bad, err := fileSnapshots(dir)
	found := &inventory{damaged: bad}
	for _, s := range files {
		found.all = append(found.all, s.snapshot())
	}
	return found, err
}

// fileSnapshots reads all records. One that can't be used keeps nobody from the others.
func fileSnapshots(dir state.Dir) (all []*fileSnapshot, bad []*damaged, err error) {
	entries, err := os.ReadDir(recordDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, exit.Fail(exit.IOError, "cannot read the records: %w", err)
	}
	for _, entry := range entries {
		if !recordName().MatchString(entry.Name()) { // one being written, or a stranger
			continue
		}
		path := filepath.Join(recordDir(dir), entry.Name())
		if s, err := readRecord(path); err == nil {
			all = append(all, s)
		} else if _, gone := os.Lstat(path); gone == nil { // else removed just now
			bad = append(bad, &damaged{path, exit.Cause(err)})
		}
	}
	return all, bad, nil
}

func readRecord(path string) (*fileSnapshot, error) {
	text, err := durable.ReadSmall(path)
	if err != nil {
		return nil, err
	}
	s := &fileSnapshot{record: path}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, err
	}
	if !isFileName(s.Snapshot) {
		return nil, fmt.Errorf("%q is no name of a snapshot", s.Snapshot)
	}
	return s, nil
}
