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
	"syscall"
	"time"

	"xen-backup/internal/cli"
)

// thinLimit is how long thin_delta may read a pool's metadata, and how long the
// metadata snapshot of somebody else of ours is waited for.
const thinLimit = 30 * time.Minute

// thinChanges compares the mappings of two thin snapshots. Where both have the
// same block they have the same data, because neither is written to.
func thinChanges(a, b *device, dir string) (*Extents, error) {
	pool, err := a.pool()
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
	if err := errors.Join(err, snap.release()); err != nil {
		return nil, err
	}
	if grown := b.size() - a.size(); grown > 0 {
		e.add(a.size(), grown)
	}
	return e, nil
}

// thinDelta runs thin_delta(8) on the metadata snapshot of a pool.
func thinDelta(metadata, id1, id2 string, size int64) (*Extents, error) {
	r, w := io.Pipe()
	type result struct {
		e   *Extents
		err error
	}
	parsed := make(chan result, 1)
	go func() {
		e, err := parseDelta(r, size)
		r.CloseWithError(err)
		parsed <- result{e, err}
	}()
	err := run(thinLimit, w, "thin_delta", "--metadata-snap", "--snap1", id1, "--snap2", id2, metadata)
	w.Close()
	answer := <-parsed
	switch {
	case err != nil: // and then what it printed is worth nothing
		return nil, cli.Fail(cli.Unavailable, "cannot compare thin volumes: %w", err)
	case answer.err != nil:
		return nil, cli.Fail(cli.Unavailable, "cannot read what thin_delta printed: %w", answer.err)
	}
	return answer.e, nil
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
func parseDelta(r io.Reader, size int64) (*Extents, error) {
	d := xml.NewDecoder(r)
	var e *Extents
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
			e = newExtents(sectors*sectorSize, size)
		case name == "diff" && e != nil:
			diffs++
		case name == "same" && diffs == 1:
		case (name == "different" || name == "left_only" || name == "right_only") && diffs == 1:
			begin, err1 := number(element, "begin", 1<<40)
			length, err2 := number(element, "length", 1<<40)
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			if begin < (e.size+e.unit-1)/e.unit {
				e.add(begin*e.unit, min(length, e.size/e.unit+1)*e.unit)
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
// reboot, so it must not be forgotten: while it is held, the lock file is not empty.
type metadataSnap struct {
	mutex  sync.Mutex
	pool   string   // its device-mapper name
	lock   *os.File // flocked; nil once released
	cancel func()
}

// reserve takes the metadata snapshot of a pool.
func reserve(pool *device, dir string) (*metadataSnap, error) {
	lock, err := lockFile(filepath.Join(dir, "thin-pool-"+pool.dm.UUID+".lock"))
	if err != nil {
		return nil, err
	}
	s := &metadataSnap{pool: pool.dm.Name, lock: lock}
	s.cancel = cli.OnSignal(func() { s.drop() })
	s.mutex.Lock()
	err = s.take(pool)
	s.mutex.Unlock()
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// take is called with the lock on the file, so a metadata snapshot that the file
// tells of was left by a run that was killed.
func (s *metadataSnap) take(pool *device) error {
	ours, err := isHeld(s.lock)
	if err != nil {
		return err
	}
	pool, err = lookAt(pool.path)
	if err != nil {
		return err
	}
	// Status word 3, after the transaction and the two uses, is the held root.
	words := strings.Fields(pool.status())
	switch {
	case len(words) < 5:
		return cli.Fail(cli.Unavailable, "pool %s does not work: its status is %q", s.pool, pool.status())
	case words[3] == "-":
	case !ours:
		return cli.Fail(cli.Busy, "another program has reserved the metadata snapshot of pool %s; "+
			"if none is running, release it: dmsetup message %s 0 release_metadata_snap", s.pool, s.pool)
	default:
		if err := s.message("release_metadata_snap"); err != nil {
			return err
		}
	}
	if err := setHeld(s.lock, true); err != nil {
		return err
	}
	if err := s.message("reserve_metadata_snap"); err != nil {
		// Somebody was quicker: that one is not ours to release.
		return errors.Join(err, setHeld(s.lock, false))
	}
	return nil
}

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
	held, err := isHeld(s.lock)
	if err != nil || !held {
		return err
	}
	if err := s.message("release_metadata_snap"); err != nil {
		return err // the file goes on telling of it: the next run tries again
	}
	return setHeld(s.lock, false)
}

func (s *metadataSnap) message(text string) error {
	if err := run(patience, io.Discard, "dmsetup", "message", s.pool, "0", text); err != nil {
		return cli.Fail(cli.Unavailable, "pool %s: %w", s.pool, err)
	}
	return nil
}

// lockFile opens and locks a file, which stays: a lock on a file that somebody
// may remove is none.
func lockFile(path string) (*os.File, error) {
	if err := cli.MakeDir(filepath.Dir(path)); err != nil {
		return nil, cli.Fail(cli.CantCreate, "cannot create the state directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, cli.Fail(cli.CantCreate, "cannot create a lock: %w", err)
	}
	for deadline := time.Now().Add(thinLimit); ; time.Sleep(100 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, cli.Fail(cli.Busy, "another run holds %s: %w", path, err)
		}
	}
}

func isHeld(lock *os.File) (bool, error) {
	info, err := lock.Stat()
	return err == nil && info.Size() > 0, err
}

// setHeld writes down that a metadata snapshot is held, before it is.
func setHeld(lock *os.File, held bool) error {
	size := int64(0)
	if held {
		size = 1
	}
	return errors.Join(lock.Truncate(size), lock.Sync())
}
