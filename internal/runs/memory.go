// Package runs remembers what every run left, good or failed, and tells what of it is safe: what is damaged, missing
// or not of this time never counts as a copy.
package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Copy is what is remembered of the copies of one disk of a DomU to one peer. Without a disk it is of what failed for
// the DomU before its disks were copied: on the way to that peer, or to all.
type Copy struct {
	Version  int       `json:"version"`
	Disk     string    `json:"disk"`           // DOMU/DISK, or DOMU
	Peer     string    `json:"peer,omitempty"` // "": all of them
	Source   string    `json:"source,omitempty"`
	Target   string    `json:"target,omitempty"`
	Success  *Success  `json:"success,omitempty"` // the last; nil: there was none
	Verified time.Time `json:"verified,omitzero"` // when it was last compared with its source
	Attempt  Attempt   `json:"attempt"`           // the last
	Failures int       `json:"failures"`          // in a row
}

// Success is a copy that was made.
type Success struct {
	Time    time.Time `json:"time"`           // when it was done
	Taken   time.Time `json:"taken,omitzero"` // when its snapshot was taken
	Seconds float64   `json:"seconds"`
	Read    int64     `json:"bytes_read"`
	Changed int64     `json:"bytes_changed"`
	Sent    int64     `json:"bytes_sent"`
	Set     string    `json:"set,omitempty"`
	Final   bool      `json:"final,omitempty"`   // the DomU was shut off
	Witness string    `json:"witness,omitempty"` // of the source, of a final copy
	Size    int64     `json:"image_size"`
}

// Of returns of when the copy is. What was written to the source later is not in it. One that was done before its snapshot
// was taken saw the clock set back.
func (s *Success) Of() time.Time {
	if !s.Taken.IsZero() && s.Taken.Before(s.Time) {
		return s.Taken
	}
	return s.Time.Add(-time.Duration(s.Seconds * float64(time.Second)))
}

// Attempt is how the last run ended.
type Attempt struct {
	Time   time.Time `json:"time"`
	Step   Step      `json:"step"`
	Status int       `json:"status"`
	Words  string    `json:"words,omitempty"`
}

// Failed reports whether it has failed.
func (a Attempt) Failed() bool { return a.Status != exit.OK }

// DomU returns whose disk it is.
func (c *Copy) DomU() string {
	domu, _, _ := strings.Cut(c.Disk, "/")
	return domu
}

// Name returns the disk's name in its DomU, "" if it is of the whole DomU.
func (c *Copy) Name() string {
	_, name, _ := strings.Cut(c.Disk, "/")
	return name
}

const version = 1

// all stands for "all peers" in names of files: no host has it.
const all = "-"

// check refuses what no program has written.
func (c *Copy) check(disk, peer string) error {
	switch {
	case c.Version != version:
		return fmt.Errorf("its version is %d, not %d", c.Version, version)
	case c.Disk != disk || c.Peer != peer:
		return fmt.Errorf("it is of %q and %q", c.Disk, c.Peer)
	case c.Attempt.Time.IsZero() || c.Success != nil && c.Success.Time.IsZero():
		return errors.New("it has no time")
	case c.Failures < 0 || c.Attempt.Failed() && c.Failures == 0:
		return errors.New("its failures do not add up")
	case c.Success != nil && (c.Success.Seconds < 0 || c.Success.Seconds > 1e9 || c.Success.Read < 0 || c.Success.Changed < 0 || c.Success.Sent < 0):
		return errors.New("its figures are none")
	}
	return nil
}

// directory is where a host keeps its copies' memory.
func directory(dir state.Dir) string { return filepath.Join(string(dir), "runs") }

func fileOf(dir state.Dir, disk, peer string) string {
	if peer == "" {
		peer = all
	}
	return filepath.Join(directory(dir), url.PathEscape(disk), url.PathEscape(peer)+".json")
}

// checkNames refuses what cannot be part of a file's name.
func checkNames(disk, peer string) error {
	for _, name := range []string{disk, peer} {
		if strings.HasPrefix(name, ".") || len(url.PathEscape(name)) > 200 || peer == all {
			return exit.Fail(exit.Usage, "bad name of a disk or host: %q", name)
		}
	}
	return nil
}

// load returns what is remembered; nil if nothing is. Its errors have status Config if it cannot be understood.
func load(dir state.Dir, disk, peer string) (*Copy, error) {
	file := fileOf(dir, disk, peer)
	text, err := durable.ReadSmall(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, exit.Fail(exit.IOError, "cannot read what is remembered of runs: %w", err)
	}
	c := new(Copy)
	if err = json.Unmarshal(text, c); err == nil {
		err = c.check(disk, peer)
	}
	if err != nil {
		return nil, exit.Fail(exit.Config, "%s cannot be used: %w", file, err)
	}
	return c, nil
}

// save is durable, and never leaves a part.
func save(dir state.Dir, c *Copy) error {
	c.Version = version
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return exit.Fail(exit.Internal, "memory of runs: %w", err)
	}
	return durable.WriteFile(fileOf(dir, c.Disk, c.Peer), append(text, '\n'))
}

// forget removes what is remembered, durably.
func forget(dir state.Dir, disk, peer string) error {
	file := fileOf(dir, disk, peer)
	err := os.Remove(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return exit.Fail(exit.CantCreate, "cannot remove what is over: %w", err)
	}
	return durable.SyncDir(filepath.Dir(file))
}

// patience is how long another recorder is waited for. Each has the lock for a moment.
var patience = 30 * time.Second

// lock keeps other recorders away until it is released: what is counted is read before it is written.
func lock(dir state.Dir) (release func(), err error) {
	release, err = durable.LockFile(filepath.Join(directory(dir), ".lock"), patience)
	if err != nil {
		return nil, exit.Fail(exit.StatusOf(err), "cannot lock the memory of runs: %w", err)
	}
	return release, nil
}

// sweep removes what recorders left that were killed while they wrote. It needs the lock.
func sweep(dir state.Dir, disk string) {
	path := filepath.Dir(fileOf(dir, disk, ""))
	left, _ := os.ReadDir(path)
	for _, file := range left {
		if strings.HasPrefix(file.Name(), ".") {
			os.Remove(filepath.Join(path, file.Name()))
		}
	}
}

// Damaged is what cannot be understood of what is remembered.
type Damaged struct {
	Disk, Peer string
	Err        error
}

// everything returns all that is remembered of these DomUs, or of all if none is named; in the order of their names.
func everything(dir state.Dir, domus []string) (copies []*Copy, damaged []Damaged, err error) {
	names, err := os.ReadDir(directory(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, exit.Fail(exit.IOError, "cannot read what is remembered of runs: %w", err)
	}
	for _, name := range names {
		disk, err := url.PathUnescape(name.Name())
		if err != nil || !name.IsDir() || !wanted(domus, disk) {
			continue
		}
		files, err := os.ReadDir(filepath.Join(directory(dir), name.Name()))
		if err != nil {
			damaged = append(damaged, Damaged{disk, "", exit.Fail(exit.IOError, "cannot read what is remembered: %w", err)})
		}
		for _, file := range files {
			peer, isOne := strings.CutSuffix(file.Name(), ".json")
			peer, err := url.PathUnescape(peer)
			if err != nil || !isOne || strings.HasPrefix(peer, ".") {
				continue
			}
			if peer == all {
				peer = ""
			}
			c, err := load(dir, disk, peer)
			if err != nil {
				damaged = append(damaged, Damaged{disk, peer, err})
			} else if c != nil {
				copies = append(copies, c)
			}
		}
	}
	return copies, damaged, nil
}

// wanted reports whether a disk, or a whole DomU, is one of these.
func wanted(domus []string, disk string) bool {
	name, _, _ := strings.Cut(disk, "/")
	for _, domu := range domus {
		if domu == name {
			return true
		}
	}
	return len(domus) == 0
}
