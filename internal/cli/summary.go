package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

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

	// Of xb-delta alone (the first two), of its --check alone, and of xb-patch alone.
	Tracked         bool    `json:"tracked,omitempty"`       // the storage told what has changed
	Source          string  `json:"source,omitempty"`        // what was read: see blockdev.Identity
	FirstChanged    []int64 `json:"first_changed,omitempty"` // the bytes at which the first differences begin
	TargetBytesRead int64   `json:"target_bytes_read,omitempty"`
}

// NewSummary begins the summary of a run that began at start and led to that image.
func (e *Env) NewSummary(i stream.Image, start time.Time) *Summary {
	return &Summary{Command: e.Name, Version: Version, ImageSize: i.Size, BlockSize: i.BlockSize,
		Hash: i.Hash.String(), Digest: i.Digest(), Seconds: time.Since(start).Seconds()}
}

// CheckSummary tells before the run whether its summary can be written to a file:
// afterwards the answer would come too late. What is no regular file is not touched.
func CheckSummary(path string) error {
	if path == "-" {
		return exit.Fail(exit.Usage, "--summary wants a file; /dev/stdout is one")
	}
	if info, err := os.Lstat(path); path == "" || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	p, err := durable.CreatePending(path)
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
		return exit.Fail(exit.Internal, "summary: %w", err)
	}
	text = append(text, '\n')
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return writeTo(path, text)
	}
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := p.Write(text); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, exit.Cause(err))
	}
	return p.Commit()
}

// writeTo appends text to what is there, but never to a block device: that is an
// image.
func writeTo(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot write: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeType == os.ModeDevice {
		err = errors.New("it is a block device")
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, exit.Cause(err))
	}
	return nil
}

// Distinct refuses names of one file, of which one is to be written: an output in
// the place of an image would destroy the image. Empty names do not count.
func Distinct(names ...string) error {
	for i, a := range names {
		for _, b := range names[:i] {
			if a != "" && b != "" && sameFile(a, b) {
				return exit.Fail(exit.Usage, "%s and %s are one file, which would be overwritten", b, a)
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
