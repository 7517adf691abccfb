// Package runs remembers what every run left, good or failed, and tells what of it is safe: what is damaged, missing
// or not of this time never counts as a copy.
package runs

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

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
	Since    time.Time `json:"since,omitzero"`    // when that was first done
	Verified time.Time `json:"verified,omitzero"` // when it was last compared with its source
	Compared time.Time `json:"compared,omitzero"` // of when the source was that all of it was last compared with
	Missed   *Missed   `json:"missed,omitempty"`  // what that has found last that runs had not copied; nil: nothing yet
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
	Tracked bool      `json:"tracked,omitempty"` // only what had changed was read
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

// Missed is what runs had not copied, though all that they remember of both sides was right.
type Missed struct {
	Time     time.Time `json:"time"`        // when it was mended, or found and not mended yet
	Of       time.Time `json:"of,omitzero"` // of when the source was by which it was found; zero: an older version found it
	Unmended bool      `json:"unmended,omitempty"`
	Unproved bool      `json:"unproved,omitempty"` // it was not compared and found right since it was mended
	Words    string    `json:"words"`
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
	case c.Missed != nil && c.Missed.Time.IsZero():
		return errors.New("what was missed has no time")
	case c.Failures < 0 || c.Attempt.Failed() && c.Failures == 0:
		return errors.New("its failures do not add up")
	case c.Success != nil && (c.Success.Seconds < 0 || c.Success.Seconds > 1e9 || c.Success.Read < 0 || c.Success.Changed < 0 || c.Success.Sent < 0):
		return errors.New("its figures are none")
	}
	return nil
}

// pairs is where a host keeps its copies' memory.
func pairs(dir state.Dir) state.Pairs {
	return state.Pairs{Dir: dir, Name: "runs", What: "what is remembered of runs"}
}

// named is a peer as a file is named.
func named(peer string) string { return cmp.Or(peer, all) }

func fileOf(dir state.Dir, disk, peer string) string { return pairs(dir).File(disk, named(peer)) }

// checkNames refuses what cannot be part of a file's name.
func checkNames(disk, peer string) error {
	if peer == all {
		return exit.Fail(exit.Usage, "bad name of a host: %q", peer)
	}
	return state.CheckPair(disk, named(peer))
}

// load returns what is remembered; nil if nothing is. Its errors have status Config if it cannot be understood.
func load(dir state.Dir, disk, peer string) (*Copy, error) {
	c := new(Copy)
	found, err := pairs(dir).Read(disk, named(peer), c, func(disk, _ string) error { return c.check(disk, peer) })
	if err != nil || !found {
		return nil, err
	}
	return c, nil
}

func save(dir state.Dir, c *Copy) error {
	c.Version = version
	return pairs(dir).Write(c.Disk, named(c.Peer), c)
}

// patience is how long another recorder is waited for. Each has the lock for a moment.
var patience = 30 * time.Second

// Damaged is what cannot be understood of what is remembered.
type Damaged struct {
	Disk, Peer string
	Err        error
}

// everything returns all that is remembered of these DomUs, or of all if none is named; in the order of their names.
func everything(dir state.Dir, domus []string) (copies []*Copy, damaged []Damaged, err error) {
	err = pairs(dir).Each(func(disk string) bool { return wanted(domus, disk) }, func(disk, peer string, err error) {
		if peer == all {
			peer = ""
		}
		var c *Copy
		if err == nil {
			c, err = load(dir, disk, peer)
		}
		if err != nil {
			damaged = append(damaged, Damaged{disk, peer, err})
		} else if c != nil {
			copies = append(copies, c)
		}
	})
	return copies, damaged, err
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
