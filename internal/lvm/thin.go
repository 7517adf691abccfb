package lvm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/program"
)

// thinLimit is how long thin_delta may read a pool's metadata, and how long the
// metadata snapshot of somebody else of ours is waited for.
const thinLimit = 30 * time.Minute

// thinChanges compares the mappings of two thin snapshots. Where both have the
// same block they have the same data, because neither is written to.
func thinChanges(a, b *device, dir string) (*extent.Set, error) {
	pool, err := a.poolDevice()
	if err != nil {
		return nil, err
	}
	metadata, err := pool.below(0)
	if err != nil {
		return nil, err
	}
	snap, err := reserve(pool, dir)
	if err != nil {
		return nil, err
	}
	e, err := thinDelta(metadata, a.param(1), b.param(1), b.size())
	return e, errors.Join(err, snap.release())
}

// thinDelta runs thin_delta(8) on the metadata snapshot of a pool.
func thinDelta(metadata, id1, id2 string, size int64) (*extent.Set, error) {
	r, w := io.Pipe()
	type result struct {
		e   *extent.Set
		err error
	}
	parsed := make(chan result, 1)
	go func() {
		e, err := parseDelta(r, size)
		r.CloseWithError(err)
		parsed <- result{e, err}
	}()
	// The reader gets the failure of thin_delta in place of the end. So its error is
	// that one only if it read all there was: else its own came first, and thin_delta
	// may have failed for want of a reader.
	failed := program.Run(thinLimit, w, "thin_delta", "--metadata-snap", "--snap1", id1, "--snap2", id2, metadata)
	w.CloseWithError(failed)
	answer := <-parsed
	switch {
	case answer.err == nil:
		return answer.e, nil
	case errors.Is(answer.err, failed):
		return nil, exit.Fail(exit.Unavailable, "cannot compare thin volumes: %w", failed)
	default:
		return nil, exit.Fail(exit.Unavailable, "cannot read what thin_delta printed: %w", answer.err)
	}
}

// parseDelta reads thin_delta's XML:
//
//	<superblock ... data_block_size="SECTORS" ...>
//	  <diff left="ID" right="ID">
//	    <same begin="BLOCK" length="BLOCKS"/>
//	    <different .../> <left_only .../> <right_only .../>
//	  </diff>
//	</superblock>
//
// A block that only one of the two has was discarded or written in between. An
// unknown element may mean a difference, so it is an error.
func parseDelta(r io.Reader, size int64) (*extent.Set, error) {
	d := xml.NewDecoder(r)
	var e *extent.Set
	var block int64 // bytes of what is counted here; the set's own unit may grow
	diffs := 0
	for {
		token, err := d.Token()
		if err == io.EOF && diffs == 1 && e != nil {
			return e, nil
		} else if err == io.EOF {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch name := element.Name.Local; {
		case name == "superblock" && e == nil:
			sectors, err := number(element, "data_block_size", 1<<31)
			if err != nil || sectors == 0 {
				return nil, errors.Join(errors.New("no data_block_size"), err)
			}
			block = sectors * sectorSize
			e = extent.NewSet(block, size)
		case name == "diff" && e != nil:
			diffs++
		case name == "same" && diffs == 1:
		case (name == "different" || name == "left_only" || name == "right_only") && diffs == 1:
			begin, err1 := number(element, "begin", 1<<40)
			length, err2 := number(element, "length", 1<<40)
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			if begin < (size+block-1)/block {
				e.Add(begin*block, min(length, size/block+1)*block)
			}
		default:
			return nil, fmt.Errorf("unexpected element <%s>", name)
		}
	}
}

// number returns an attribute that must be a number from 0 to limit.
func number(element xml.StartElement, name string, limit int64) (int64, error) {
	for _, a := range element.Attr {
		if a.Name.Local == name {
			n, err := strconv.ParseInt(a.Value, 10, 64)
			if err != nil || n < 0 || n > limit {
				return 0, fmt.Errorf("<%s %s=%q>", element.Name.Local, name, a.Value)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("<%s> without %s", element.Name.Local, name)
}

// metadataSnap is a pool's metadata snapshot, of which there is one at most. One
// that is never released keeps the pool from reusing metadata blocks, even after a
// reboot, so it must not be forgotten: while it is held, the lock file says which
// one it is.
type metadataSnap struct {
	mutex  sync.Mutex
	pool   *device
	lock   *os.File // flocked; nil once released
	held   string   // which one, as reserved tells it; "" if none of ours
	cancel func()
}

// reserve takes the metadata snapshot of a pool.
func reserve(pool *device, dir string) (*metadataSnap, error) {
	lock, err := lockFile(lockName(pool, dir))
	if err != nil {
		return nil, err
	}
	s := &metadataSnap{pool: pool, lock: lock}
	s.cancel = durable.OnSignal(func() { s.drop() })
	s.mutex.Lock()
	err = s.take()
	s.mutex.Unlock()
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// lockName names the file that tells of a pool's metadata snapshot.
func lockName(pool *device, dir string) string {
	return filepath.Join(dir, "thin-pool-"+pool.UUID+".lock")
}

// take is called with the lock on the file, so the metadata snapshot that the file
// tells of was left by a run that was killed. One that it does not tell of may be
// another program's, which perhaps reads it just now. (A run that is killed between
// reserving one and writing it down leaves one that nobody can tell from those.)
func (s *metadataSnap) take() error {
	now, err := s.reserved()
	if err != nil {
		return err
	}
	if now != "" {
		ours, err := os.ReadFile(s.lock.Name())
		if err != nil {
			return exit.Fail(exit.IOError, "cannot read the lock: %w", err)
		}
		if now != string(ours) {
			return exit.Fail(exit.Busy, "another program has reserved the metadata snapshot of pool %s; "+
				"if none is running, release it: dmsetup message %s 0 release_metadata_snap", s.pool.Name, s.pool.Name)
		}
		if err := s.message("release_metadata_snap"); err != nil {
			return err
		}
	}
	// If somebody was quicker, this fails, and that one is not ours to release.
	if err := s.message("reserve_metadata_snap"); err != nil {
		return err
	}
	if s.held, err = s.reserved(); err != nil {
		return errors.Join(err, s.message("release_metadata_snap"))
	}
	return s.writeDown(s.held)
}

// reserved returns which metadata snapshot the pool has, "" if it has none: the number
// of its root block, which is status word 3 after the transaction and the two uses, and
// a hash of that block, a copy of the superblock as it was. The number alone might be
// given to another one later.
func (s *metadataSnap) reserved() (string, error) {
	pool, err := lookAt(s.pool.path)
	if err != nil {
		return "", err
	}
	words := strings.Fields(pool.status())
	switch {
	case len(words) < 5:
		return "", exit.Fail(exit.Unavailable, "pool %s does not work: its status is %q", pool.Name, pool.status())
	case words[3] == "-":
		return "", nil
	}
	root, err := strconv.ParseInt(words[3], 10, 32)
	if err != nil {
		return "", exit.Fail(exit.Unavailable, "pool %s: cannot read its status %q", pool.Name, pool.status())
	}
	path, err := pool.below(0)
	if err != nil {
		return "", err
	}
	metadata, err := blockdev.Open(path)
	if err != nil {
		return "", err
	}
	defer metadata.Close()
	block := blockdev.Buffer(metadataBlock)
	if _, err := metadata.ReadAt(block, root*metadataBlock); err != nil {
		return "", exit.Fail(exit.IOError, "metadata of pool %s: %w", pool.Name, err)
	}
	return fmt.Sprintf("%d %016x\n", root, xxhash.Sum64(block)), nil
}

// metadataBlock is the size of a block of a pool's metadata, in bytes
// (THIN_METADATA_BLOCK_SIZE).
const metadataBlock = 4096

// release gives the metadata snapshot back. It may be called twice.
func (s *metadataSnap) release() error {
	err := s.drop()
	s.cancel()
	return err
}

func (s *metadataSnap) drop() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.lock == nil {
		return nil
	}
	defer func() { s.lock.Close(); s.lock = nil }()
	if s.held == "" {
		return nil
	}
	now, err := s.reserved()
	if err != nil {
		return err // the file goes on telling of it: the next run tries again
	}
	if now != s.held {
		return errors.Join(s.writeDown(""), exit.Fail(exit.Busy,
			"somebody else has released the metadata snapshot of pool %s while it was read: try again", s.pool.Name))
	}
	if err := s.message("release_metadata_snap"); err != nil {
		return err
	}
	return s.writeDown("")
}

func (s *metadataSnap) message(text string) error {
	if err := program.Run(patience, nil, "dmsetup", "message", s.pool.Name, "0", text); err != nil {
		return exit.Fail(exit.Unavailable, "pool %s: %w", s.pool.Name, err)
	}
	return nil
}

// writeDown makes the file tell of the metadata snapshot that is held.
func (s *metadataSnap) writeDown(held string) error {
	err := s.lock.Truncate(0)
	if err == nil {
		_, err = s.lock.WriteAt([]byte(held), 0)
	}
	if err = errors.Join(err, s.lock.Sync()); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write down which metadata snapshot is held: %w", err)
	}
	return nil
}

// lockFile opens and locks a file, which stays: a lock on a file that somebody
// may remove is none.
func lockFile(path string) (*os.File, error) {
	if err := durable.MakeDir(filepath.Dir(path)); err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot create the state directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot create a lock: %w", err)
	}
	for deadline := time.Now().Add(thinLimit); ; time.Sleep(100 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) || err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, exit.Fail(exit.Busy, "another run holds %s: %w", path, err)
		}
	}
}
