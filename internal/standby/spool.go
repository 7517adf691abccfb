package standby

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// spool is a delta that was received whole before any of it is applied.
type spool struct {
	*os.File
	path   string        // when it is complete
	kept   bool          // it has that name
	sum    xxhash.Digest // of what was spooled
	cancel func()
}

// createSpool begins the spool of a device. While it fills it has another name,
// always the same, so that a killed run leaves at most one such file.
func createSpool(device *state.Device, dir string, in io.Reader) (*spool, error) {
	path := device.SpoolFile(dir)
	if dir == "" {
		dir = device.SpoolDir()
		if err := durable.MakeDir(dir); err != nil {
			return nil, exit.Fail(exit.CantCreate, "cannot create the spool directory: %w", err)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "spool: %w", err)
	}
	if err := checkRoom(dir, in); err != nil {
		return nil, err
	}
	s := &spool{path: path}
	s.sum.Reset()
	s.cancel, err = durable.Create(func() (remove func(), err error) {
		// What is left of a killed run goes; what somebody puts there, in a directory that
		// others may write to, is not followed, and does not become the spool.
		os.Remove(path + ".part")
		s.File, err = os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		return func() { os.Remove(path + ".part") }, err
	})
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot create the spool (see --spool, and SPOOL_DIR in "+state.HostConf+"): %w", err)
	}
	return s, nil
}

// openSpool opens the spool of an unfinished apply.
func openSpool(path string) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO is no spool to wait for
	if err != nil {
		return nil, err
	}
	s := &spool{File: f, path: path, kept: true, cancel: func() {}}
	s.sum.Reset()
	return s, nil
}

// checkRoom refuses a delta that comes from a file and can't fit.
func checkRoom(dir string, in io.Reader) error {
	f, ok := in.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	var fs unix.Statfs_t
	if err != nil || unix.Statfs(dir, &fs) != nil {
		return nil
	}
	if need, room := info.Size()-at, int64(fs.Bavail)*fs.Bsize; need > room {
		return noRoom(dir, fmt.Sprintf("it needs %s, there are %s", text.FormatSize(need), text.FormatSize(room)))
	}
	return nil
}

func noRoom(dir, what string) error {
	return exit.Fail(exit.CantCreate,
		"no room for the spool in %s: %s; make room, or name another directory: SPOOL_DIR in %s, or --spool",
		dir, what, state.HostConf)
}

// tee returns a reader that passes on what it reads from in and spools it.
func (s *spool) tee(in io.Reader) io.Reader { return &spooler{in: in, s: s} }

type spooler struct {
	in       io.Reader
	s        *spool
	n, begun int64 // bytes written, and those on their way to the disk
}

// writeback is of how many bytes the kernel is told to begin to write them to the disk,
// so that little is left to do when the delta is complete.
const writeback = 8 << 20

func (t *spooler) Read(b []byte) (int, error) {
	n, err := t.in.Read(b)
	if n == 0 {
		return n, err
	}
	m, writeErr := t.s.Write(b[:n])
	t.n += int64(m)
	t.s.sum.Write(b[:m])
	if t.n-t.begun >= writeback {
		unix.SyncFileRange(int(t.s.Fd()), t.begun, t.n-t.begun, unix.SYNC_FILE_RANGE_WRITE)
		t.begun = t.n
	}
	if errors.Is(writeErr, syscall.ENOSPC) || errors.Is(writeErr, syscall.EDQUOT) || errors.Is(writeErr, syscall.EFBIG) {
		return 0, noRoom(filepath.Dir(t.s.path),
			fmt.Sprintf("it needs more than the %s that fitted, up to about the size of what changed", text.FormatSize(t.n)))
	}
	if writeErr != nil {
		return 0, exit.Fail(exit.CantCreate, "cannot write the spool: %w", writeErr)
	}
	return n, err
}

// reader returns a reader of the whole spool, apart from other readers.
func (s *spool) reader() io.Reader { return io.NewSectionReader(s.File, 0, 1<<62) }

// keep makes the spool durable under its final name.
func (s *spool) keep() error {
	err := s.Sync()
	if err == nil {
		err = os.Rename(s.path+".part", s.path)
	}
	if err == nil {
		if err = durable.SyncDir(filepath.Dir(s.path)); err != nil {
			os.Remove(s.path)
		}
	}
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot keep the spool: %w", err)
	}
	s.kept = true
	s.cancel()
	return nil
}

// discard closes the spool, and removes it unless it was kept.
func (s *spool) discard() {
	if !s.kept {
		os.Remove(s.path + ".part")
		s.cancel()
	}
	s.Close()
}

// remove removes a kept spool that is not needed any more.
func (s *spool) remove() { removeDurably(s.path) }
