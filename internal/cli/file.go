package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
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
		return nil, Fail(CantCreate, "cannot create %s: it exists and is no regular file", path)
	}
	p := &PendingFile{path: path}
	p.cancel, err = Create(func() (remove func(), err error) {
		p.File, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
		return func() { os.Remove(p.Name()) }, err
	})
	if err != nil {
		return nil, Fail(CantCreate, "cannot create %s: %w", path, cause(err))
	}
	return p, nil
}

// Commit makes the file durable under its name: after it returns nil, a crash
// cannot take it away again. It needs all three steps: without the first fsync
// the name may come to stand for an empty file, without the last one the rename
// itself may be lost.
func (p *PendingFile) Commit() error {
	defer p.Discard()
	if err := errors.Join(p.Sync(), p.Close()); err != nil {
		return Fail(CantCreate, "cannot write %s: %w", p.path, cause(err))
	}
	if err := os.Rename(p.Name(), p.path); err != nil {
		return Fail(CantCreate, "cannot create %s: %w", p.path, err)
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

// Distinct refuses names of one file, of which one is to be written: an output in
// the place of an image would destroy the image. Empty names do not count.
func Distinct(names ...string) error {
	for i, a := range names {
		for _, b := range names[:i] {
			if a != "" && b != "" && sameFile(a, b) {
				return Fail(Usage, "%s and %s are one file, which would be overwritten", b, a)
			}
		}
	}
	return nil
}

func sameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// MakeDir creates a directory for its owner only, and those above it, unless they
// exist. They stay, also after a crash, together with what is made in them.
func MakeDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = MakeDir(filepath.Dir(path)); err == nil {
			err = os.Mkdir(path, 0o700)
		}
	}
	if err == nil {
		return SyncDir(filepath.Dir(path))
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Summary is what --summary writes: the figures of one run. Sizes are in bytes.
type Summary struct {
	Command       string  `json:"command"`
	Version       string  `json:"version"`
	ImageSize     int64   `json:"image_size"`
	BlockSize     int     `json:"block_size"`
	Hash          string  `json:"hash"`
	Digest        string  `json:"digest"`
	BytesRead     int64   `json:"bytes_read"`
	BytesChanged  int64   `json:"bytes_changed"`
	BytesSent     int64   `json:"bytes_sent"`
	BlocksChanged int64   `json:"blocks_changed"`
	Seconds       float64 `json:"seconds"`
}

// CheckSummary tells before the run whether its summary can be written to a file:
// afterwards the answer would come too late. What is no regular file is not touched.
func CheckSummary(path string) error {
	if path == "-" {
		return Fail(Usage, "--summary wants a file; /dev/stdout is one")
	}
	if info, err := os.Lstat(path); path == "" || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	p, err := CreatePending(path)
	if err == nil {
		p.Discard()
	}
	return err
}

// Write stores the summary in a file, replacing what is there only by a whole
// one; "" writes nothing. A pipe, a character device, or what a link such as
// /dev/stderr leads to, is written to as it is.
func (s *Summary) Write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return Fail(Internal, "summary: %w", err)
	}
	text = append(text, '\n')
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return writeTo(path, text)
	}
	p, err := CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := p.Write(text); err != nil {
		return Fail(CantCreate, "cannot write %s: %w", path, cause(err))
	}
	return p.Commit()
}

// writeTo appends text to what is there, but never to a block device: that is an
// image.
func writeTo(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return Fail(CantCreate, "cannot write: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeType == os.ModeDevice {
		err = errors.New("it is a block device")
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return Fail(CantCreate, "cannot write %s: %w", path, cause(err))
	}
	return nil
}
