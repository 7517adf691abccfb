package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// PendingFile is a file that appears under its name only when it is complete:
// it is written under a temporary name beside it and renamed by Commit.
// Until then Discard, or a signal, removes it.
type PendingFile struct {
	*os.File
	path   string
	cancel func()
}

// CreatePending begins a file that will be called path, readable by its owner
// only. Its errors have status CantCreate. Only a regular file is replaced: a
// rename would make one of /dev/null, or of the link that is a volume's name.
func CreatePending(path string) (*PendingFile, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, exit.Fail(exit.CantCreate, "cannot create %s: it exists and is no regular file", path)
	}
	p := &PendingFile{path: path}
	p.cancel, err = Create(func() (remove func(), err error) {
		p.File, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
		return func() { os.Remove(p.Name()) }, err
	})
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot create %s: %w", path, exit.Cause(err))
	}
	return p, nil
}

// WriteFile makes a text the content of a file, durably, with its directory if that is not there. Its errors have status
// CantCreate.
func WriteFile(path string, text []byte) error {
	if err := MakeDir(filepath.Dir(path)); err != nil {
		return exit.Fail(exit.CantCreate, "cannot create a directory: %w", err)
	}
	p, err := CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := p.Write(text); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, exit.Cause(err))
	}
	return p.Commit()
}

// ReadSmall reads a file of a few lines whole. What is no regular file is an error, and nothing is waited for: a pipe
// in its place would have no end, nor a device.
func ReadSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const limit = 1 << 20
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > limit) {
		err = errors.New(path + " is no file of a few lines")
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// Commit makes the file durable under its name: after it returns nil, a crash
// cannot take it away again. It needs all three steps: without the first fsync
// the name may come to stand for an empty file, without the last one the rename
// itself may be lost.
func (p *PendingFile) Commit() error {
	defer p.Discard()
	if err := errors.Join(p.Sync(), p.Close()); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", p.path, exit.Cause(err))
	}
	if err := os.Rename(p.Name(), p.path); err != nil {
		return exit.Fail(exit.CantCreate, "cannot create %s: %w", p.path, err)
	}
	p.cancel()
	p.path = ""
	return SyncDir(filepath.Dir(p.Name()))
}

// Discard removes the file unless it was committed; it may be deferred.
func (p *PendingFile) Discard() {
	if p.path == "" {
		return
	}
	p.path = ""
	p.Close()
	os.Remove(p.Name())
	p.cancel()
}
