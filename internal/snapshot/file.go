package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// fileSnapshot is a reflink copy of a file, beside it and hidden:
// .NAME.xb-snap-RUN. A record in the state directory stands for the tag and the
// owner that a logical volume has in its metadata. It is there before the copy
// and goes after it, so that no copy is ever without one.
type fileSnapshot struct {
	Snapshot string    `json:"snapshot"`
	Origin   string    `json:"origin"`
	Owner    Owner     `json:"owner"`
	Created  time.Time `json:"created"`
	Writable bool      `json:"writable,omitempty"`

	// Of XFS and btrfs alone, and of snapshots that are complete:
	Identity *blockdev.FileIdentity `json:"identity,omitempty"`
	Source   string                 `json:"source,omitempty"` // handle of the origin's file, which may get another name

	Point *Point `json:"point,omitempty"` // of a point in time

	CloneSeconds float64 `json:"clone_seconds,omitempty"` // how long the guest's writes may have waited
	Extents      int64   `json:"extents,omitempty"`       // 0: not counted

	dir    state.Dir
	record string // its path
	source *os.File
	clone  *os.File
}

const nameMax = 255 // bytes, of a file name

func newFile(source *os.File, run string, number int, order Order) (*fileSnapshot, error) {
	origin, err := realPath(source.Name())
	if err != nil {
		return nil, err
	}
	if info, err := source.Stat(); err != nil {
		return nil, exit.Fail(exit.IOError, "cannot look at the image: %w", err)
	} else if info.Size() == 0 { // its snapshot could not be told from one that was given up
		return nil, exit.Fail(exit.Config, "%s is empty: that is no disk", origin)
	}
	// What is printed is read line by line, and the record, in JSON, is UTF-8.
	if strings.ContainsFunc(origin, unicode.IsControl) || !utf8.ValidString(origin) {
		return nil, exit.Fail(exit.Config, "%q: no snapshots of files with such a name", origin)
	}
	return &fileSnapshot{
		Snapshot: snapshotPath(origin, run),
		Origin:   origin,
		Owner:    order.Owner,
		Created:  time.Now().Truncate(time.Second),
		dir:      order.State,
		Writable: order.Writable,
		record:   filepath.Join(recordDir(order.State), fmt.Sprintf("%s-%d.json", run, number)),
		source:   source,
	}, nil
}

// snapshotPath returns the path of a snapshot of a file.
func snapshotPath(origin, run string) string {
	suffix := ".xb-snap-" + run
	name := filepath.Base(origin)
	name = name[:min(len(name), nameMax-1-len(suffix))]
	return filepath.Join(filepath.Dir(origin), "."+strings.ToValidUTF8(name, "")+suffix) // it may be cut in a letter
}

// realPath returns a path without links, and absolute.
func realPath(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", exit.Fail(exit.NoInput, "cannot resolve the name: %w", err)
	}
	return path, nil
}

// mode returns the permissions of the copy.
func (s *fileSnapshot) mode() fs.FileMode {
	if s.Writable {
		return 0o600
	}
	return 0o400
}

func (s *fileSnapshot) prepare() error {
	if err := s.remember(); err != nil {
		return err
	}
	var err error
	s.clone, err = os.OpenFile(s.Snapshot, os.O_WRONLY|os.O_CREATE|os.O_EXCL, s.mode())
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the snapshot: %w", err)
	}
	s.mark()
	return nil
}

func (s *fileSnapshot) take() error {
	start := time.Now()
	err := blockdev.Clone(s.clone, s.source)
	s.CloneSeconds = time.Since(start).Round(time.Millisecond).Seconds()
	switch {
	case errors.Is(err, syscall.EXDEV):
		return exit.Fail(exit.CantCreate, "%s is not on the file system of its directory, "+
			"where its snapshot would have to be (a bind mount?): name it by its path on its own file system: %w", s.Origin, err)
	case errors.Is(err, errors.ErrUnsupported):
		return exit.Fail(exit.CantCreate, "%s: its file system can't share blocks between files (reflink): "+
			"put the image on btrfs, on XFS made with -m reflink=1, or on a logical volume: %w", s.Origin, err)
	case err != nil:
		return exit.Fail(exit.CantCreate, "cannot take a snapshot: %w", err)
	}
	return nil
}

// try takes the snapshot as a file without a name, which is gone when it is closed. Where
// there are no such files nothing can be found out.
func (s *fileSnapshot) try() error {
	var err error
	s.clone, err = os.OpenFile(filepath.Dir(s.Snapshot), os.O_WRONLY|unix.O_TMPFILE, s.mode())
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EISDIR) {
		return nil
	} else if err != nil {
		return exit.Fail(exit.CantCreate, "cannot create a snapshot: %w", err)
	}
	defer s.clone.Close()
	return s.take()
}

func (s *fileSnapshot) finish() error {
	err := errors.Join(s.clone.Sync(), s.identify())
	if s.Point == nil { // else no guest waits for clones of it
		s.Extents, _ = blockdev.CountExtents(s.clone, countLimit)
	}
	err = errors.Join(err, s.clone.Close(), durable.SyncDir(filepath.Dir(s.Snapshot)))
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot make the snapshot durable: %w", err)
	}
	if s.Point == nil {
		if err := s.rememberClone(s.dir); err != nil {
			return err
		}
	}
	// If its owner died meanwhile, somebody may have removed the record before there
	// was a file: nobody would ever find this one. Or after, and the record is not to be
	// written again for a file that is gone.
	_, err = os.Stat(s.record)
	if err == nil {
		err = s.remember()
	}
	if err == nil {
		_, err = os.Stat(s.Snapshot)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return exit.Fail(exit.CantCreate, "the snapshot of %s was removed while it was taken: %w", s.Origin, err)
	}
	return err
}

// identify finds out by what the finished snapshot will be known, where its file system tells.
func (s *fileSnapshot) identify() error {
	id, err := blockdev.IdentityOf(s.clone)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	} else if err != nil {
		return err
	}
	s.Identity = &id
	s.Source, err = blockdev.HandleOf(s.source)
	return err
}

func (s *fileSnapshot) undo() error {
	if s.clone == nil { // then the file of that name, if there is one, is not ours
		return s.forget()
	}
	s.clone.Close()
	return s.remove()
}

func (s *fileSnapshot) path() string { return s.Snapshot }

// remove removes the snapshot and then the record of it. The status is NoInput if
// the snapshot is gone already; then only the record is removed. But if the origin
// is not there either, their file system may just not be mounted: then the record
// stays.
func (s *fileSnapshot) remove() error {
	gone := os.Remove(s.Snapshot)
	if gone != nil {
		if !errors.Is(gone, fs.ErrNotExist) {
			return exit.Fail(exit.IOError, "cannot remove the snapshot: %w", gone)
		}
		if _, err := os.Stat(s.Origin); err != nil {
			return exit.Fail(exit.IOError, "%s is gone, and its image too: mount their file system, or, "+
				"if both were deleted, remove the record %s", s.Snapshot, s.record)
		}
	} else if err := durable.SyncDir(filepath.Dir(s.Snapshot)); err != nil {
		return err
	}
	if err := s.forget(); err != nil {
		return err
	}
	if gone != nil {
		os.Remove(s.Snapshot) // one that was made just now, unless its maker misses the record
		return exit.Fail(exit.NoInput, "%s is gone already", s.Snapshot)
	}
	return nil
}

// giveUp empties the file: to unlink it would free no room while somebody reads it. By the
// empty file, which stays until it is removed, everybody sees what became of the snapshot.
func (s *fileSnapshot) giveUp() error {
	f, err := os.OpenFile(s.Snapshot, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return exit.OpenFailed(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !s.isIts(info) {
		return exit.Fail(exit.NotMade, "%s was replaced or changed: it is not emptied", s.Snapshot)
	}
	if info.Size() == 0 {
		return exit.Fail(exit.NoInput, "%s was given up already", s.Snapshot)
	}
	return blockdev.Empty(f)
}

// origin demands that nobody wrote to the snapshot since it was taken.
func (s *fileSnapshot) origin() (string, error) {
	f, err := s.openFrozen()
	if err != nil {
		return "", err
	}
	defer f.Close()
	return s.Identity.FileSystem + " " + s.Source, nil
}

func (s *fileSnapshot) setOwner(o Owner) error {
	s.Owner = o
	if err := s.remember(); err != nil {
		return err
	}
	if _, err := os.Lstat(s.Snapshot); errors.Is(err, fs.ErrNotExist) { // somebody removed both just now
		return errors.Join(s.forget(), exit.Fail(exit.NoInput, "%s is gone", s.Snapshot))
	}
	return nil
}

func (s *fileSnapshot) room() (*blockdev.Room, error) { return blockdev.FileRoom(s.Snapshot) }

// snapshot returns what list shows of it.
func (s *fileSnapshot) snapshot() *Snapshot {
	shown := &Snapshot{
		Path: s.Snapshot, Origin: s.Origin, Kind: file,
		Owner: s.Owner, Dead: s.Owner.dead(), Created: s.Created, Point: s.Point, CloneSeconds: s.CloneSeconds, Extents: s.Extents,
		holder: s,
	}
	if info, err := os.Stat(s.Snapshot); err == nil {
		shown.Size, shown.givenUp = info.Size(), info.Size() == 0
		shown.Valid = !shown.givenUp
	}
	return shown
}

// checkFile describes the snapshot of a file; "" if path is not a file.
func checkFile(path string, dir state.Dir) (string, error) {
	is, err := isFile(path)
	if !is || err != nil {
		return "", err
	}
	s, err := findFile(path, dir)
	if err != nil {
		return "", err
	}
	size, err := blockdev.Size(s.Snapshot)
	if size == 0 && err == nil {
		err = blockdev.GivenUp(s.Snapshot)
	}
	return "file of " + text.FormatSize(size), err
}
