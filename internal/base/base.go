// Package base remembers in which snapshots the images of the peers still are here. A record is of the peer's own image
// or it is not used: what a run sends is pending until the peer is known to have it, and what nobody knows for sure
// stays beside it.
package base

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// Status tells whether a peer has an image.
type Status string

const (
	Sent    Status = "sent"    // it said so
	Pending Status = "pending" // it is being sent, or the answer was lost
)

// Record is of a snapshot that has an image which a peer has, or may have: its base.
type Record struct {
	Peer     string    `json:"peer"`
	Disk     string    `json:"disk"`     // DOMU/DISK
	Source   string    `json:"source"`   // the path of what the snapshot is of
	Origin   string    `json:"origin"`   // what is at that path: another one may have it by now
	Snapshot string    `json:"snapshot"` // its path
	Identity string    `json:"identity"` // see snapshot.Identity
	Status   Status    `json:"status"`
	Image    string    `json:"image"` // HASH:BLOCKSIZE:SIZE:DIGEST
	Taken    time.Time `json:"taken"`
	Lost     string    `json:"lost,omitempty"` // why there is no such snapshot any more
}

// Parse reads a record as JSON has it, and refuses what nobody has written.
func Parse(text []byte) (*Record, error) {
	r := new(Record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, err
	}
	return r, r.check()
}

func (r *Record) check() error {
	switch _, err := stream.ParseImage(r.Image); {
	case err != nil:
		return err
	case r.Status != Sent && r.Status != Pending:
		return fmt.Errorf("its status is %q", r.Status)
	case r.Peer == "" || r.Disk == "" || r.Source == "" || r.Origin == "" || r.Identity == "" || r.Taken.IsZero():
		return errors.New("it does not say all")
	case !filepath.IsAbs(r.Snapshot):
		return fmt.Errorf("its snapshot is %q", r.Snapshot)
	}
	return nil
}

// Chain is what is remembered of one disk and peer. There are two records where nobody knows which image the peer has.
type Chain struct {
	Version int     `json:"version"`
	Disk    string  `json:"disk"`
	Peer    string  `json:"peer"`
	Sent    *Record `json:"sent,omitempty"`
	Pending *Record `json:"pending,omitempty"`
	Refused string  `json:"refused,omitempty"` // why the last run kept no base, as it was said
}

const version = 1

// Records returns those that there are, the latest last.
func (c *Chain) Records() []*Record {
	return slices.DeleteFunc([]*Record{c.Sent, c.Pending}, func(r *Record) bool { return r == nil })
}

// DomU returns whose disk it is.
func (c *Chain) DomU() string {
	domu, _, _ := strings.Cut(c.Disk, "/")
	return domu
}

func (c *Chain) check(disk, peer string) error {
	switch {
	case c.Version != version:
		return fmt.Errorf("its version is %d, not %d", c.Version, version)
	case c.Disk != disk || c.Peer != peer:
		return fmt.Errorf("it is of %q and %q", c.Disk, c.Peer)
	}
	for _, r := range c.Records() {
		status := Sent
		if r == c.Pending {
			status = Pending
		}
		if err := r.check(); err != nil {
			return err
		}
		if r.Disk != disk || r.Peer != peer || r.Status != status {
			return fmt.Errorf("a record in it is of %q and %q and %s", r.Disk, r.Peer, r.Status)
		}
	}
	return nil
}

// settle has the chain know which image the peer has. Of two records of one image the later one is kept: less differs
// from it.
func (c *Chain) settle(image string) {
	switch {
	case c.Pending != nil && c.Pending.Image == image && c.Pending.Lost == "":
		c.Sent = c.Pending
		c.Sent.Status = Sent
	case c.Sent != nil && c.Sent.Image == image:
	default:
		c.Sent = nil
	}
	c.Pending = nil
}

func (c *Chain) forget() { c.Sent, c.Pending, c.Refused = nil, nil, "" }

// Store is what a host remembers of all bases. Its methods are called by who has its lock.
type Store struct {
	dir     state.Dir
	release func()
}

// patience is how long another one who has the lock is waited for: LVM may be at work under it.
var patience = 2 * time.Minute

// Open waits for the lock.
func Open(dir state.Dir) (*Store, error) {
	release, err := pairs(dir).Lock(patience)
	if err != nil {
		return nil, err
	}
	return &Store{dir, release}, nil
}

// Close releases the lock.
func (s *Store) Close() { s.release() }

// Keep remembers that an image is about to be sent from a snapshot. basis is the image that the peer said it has, the
// zero one if it did not.
func (s *Store) Keep(r Record, basis stream.Image) error {
	r.Status = Pending
	if err := r.check(); err != nil {
		return exit.Fail(exit.Internal, "record of a base: %w", err)
	}
	c, err := s.load(r.Disk, r.Peer)
	if err != nil {
		return err
	}
	if basis != (stream.Image{}) {
		c.settle(basis.Text())
	}
	c.Pending, c.Refused = &r, ""
	return s.save(c)
}

// Refuse remembers why no base is kept, and reports whether that is news.
func (s *Store) Refuse(disk, peer, why string) (news bool, err error) {
	c, err := s.load(disk, peer)
	if err != nil || c.Refused == why {
		return false, err
	}
	c.Refused = why
	return true, s.save(c)
}

// Settle remembers that a peer has an image now.
func Settle(dir state.Dir, disk, peer string, image stream.Image) error {
	return change(dir, disk, peer, func(c *Chain) { c.settle(image.Text()) })
}

// Drop forgets what is remembered of a disk and a peer.
func Drop(dir state.Dir, disk, peer string) error { return change(dir, disk, peer, (*Chain).forget) }

// DropOthers forgets what is remembered of the disks of a DomU and a peer that are none of these: nobody copies them any
// more, so nobody else would.
func DropOthers(dir state.Dir, domu, peer string, disks []string) error {
	var errs []error
	other := func(disk string) bool { return strings.HasPrefix(disk, domu+"/") && !slices.Contains(disks, disk) }
	err := pairs(dir).Each(other, func(disk, of string, err error) {
		if err == nil && of == peer {
			err = Drop(dir, disk, peer)
		}
		errs = append(errs, err)
	})
	return errors.Join(append(errs, err)...)
}

// change changes what is remembered, if anything is.
func change(dir state.Dir, disk, peer string, do func(*Chain)) error {
	if _, err := os.Lstat(pairs(dir).File(disk, peer)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, err := Open(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.load(disk, peer)
	if err != nil {
		return err
	}
	do(c)
	return s.save(c)
}

// Lose remembers why a snapshot is gone that records name.
func (s *Store) Lose(snapshot, why string) error {
	chains, err := All(s.dir)
	errs := []error{err}
	for _, c := range chains {
		changed := false
		for _, r := range c.Records() {
			if r.Snapshot == snapshot && r.Lost == "" {
				r.Lost, changed = why, true
			}
		}
		if changed {
			errs = append(errs, s.save(c))
		}
	}
	return errors.Join(errs...)
}

// Forget removes what is remembered.
func (s *Store) Forget(c *Chain) error {
	c.forget()
	return s.save(c)
}

// pairs is where the records are.
func pairs(dir state.Dir) state.Pairs {
	return state.Pairs{Dir: dir, Name: "bases", What: "the records of bases"}
}

// load returns what is to be changed. What cannot be understood is replaced: it is no base of anything.
func (s *Store) load(disk, peer string) (*Chain, error) {
	c, err := read(s.dir, disk, peer)
	if exit.StatusOf(err) == exit.Config || c == nil && err == nil {
		return &Chain{Disk: disk, Peer: peer}, nil
	}
	return c, err
}

// read returns a chain, nil if there is none. Its errors have status Config if it cannot be understood.
func read(dir state.Dir, disk, peer string) (*Chain, error) {
	c := new(Chain)
	found, err := pairs(dir).Read(disk, peer, c, c.check)
	if err != nil || !found {
		return nil, err
	}
	return c, nil
}

// save makes a chain what is remembered; one that says nothing is removed.
func (s *Store) save(c *Chain) error {
	if c.Sent == nil && c.Pending == nil && c.Refused == "" {
		return pairs(s.dir).Remove(c.Disk, c.Peer)
	}
	c.Version = version
	return pairs(s.dir).Write(c.Disk, c.Peer, c)
}

// All returns the chains of all disks and peers, in the order of their names. Even with an error, those that it returns
// are there; that of one that cannot be understood has status Config.
func All(dir state.Dir) (all []*Chain, err error) {
	var errs []error
	err = pairs(dir).Each(func(string) bool { return true }, func(disk, peer string, err error) {
		var c *Chain
		if err == nil {
			c, err = read(dir, disk, peer)
		}
		if err != nil {
			errs = append(errs, err)
		} else if c != nil {
			all = append(all, c)
		}
	})
	return all, errors.Join(append(errs, err)...)
}
