// Package state keeps what a host remembers of its devices between runs: one small
// JSON file a device, written so that a crash leaves the old one or the new one.
package state

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// Dir is a state directory.
type Dir string

// Make creates the directory if it is missing.
func (d Dir) Make() error { return makeDir(string(d)) }

func makeDir(path string) error {
	if err := durable.MakeDir(path); err != nil {
		return exit.Fail(exit.CantCreate, "cannot create the state directory (see --state-dir): %w", err)
	}
	return nil
}

// Device is the state of one device in a directory.
type Device struct {
	dir      Dir
	identity string
	path     string // as the user named it
	base     string // of its files' names
}

// Device returns the state of the device with that identity, which the user
// calls path.
func (d Dir) Device(identity, path string) *Device {
	base := url.PathEscape(identity)
	if len(base) > 200 { // a name in a file system has at most 255 bytes
		base = fmt.Sprintf("%.120s-%x", base, sha256.Sum256([]byte(identity)))
	}
	// JSON has no bytes that are not UTF-8; base tells names apart that have some.
	return &Device{d, strings.ToValidUTF8(identity, "\uFFFD"), path, base}
}

func (d *Device) file(suffix string) string { return filepath.Join(string(d.dir), d.base+suffix) }

// SpoolFile returns the name of the device's spool in a directory, by default one
// below the state directory.
func (d *Device) SpoolFile(dir string) string {
	if dir == "" {
		dir = d.SpoolDir()
	}
	return filepath.Join(dir, d.base+".delta")
}

// SpoolDir returns the default directory of spools.
func (d *Device) SpoolDir() string { return filepath.Join(string(d.dir), "spool") }

// Load returns what is remembered; a record with phase None if nothing is. A file
// that can't be understood is an error with status Config: to take it for "none"
// would forget an unfinished apply. From the moment at which a set is the new image
// of its devices, each that it has not reached yet is "applying": see Change.
func (d *Device) Load() (*Record, error) {
	own, err := d.LoadOwn()
	if err != nil {
		return nil, err
	}
	c, err := d.Change()
	if err != nil || c == nil {
		return own, err
	}
	return c.overlay(d, own)
}

// LoadOwn returns what the device's own file says.
func (d *Device) LoadOwn() (*Record, error) { return d.load(d.file(".json")) }

func (d *Device) load(path string) (*Record, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Record{Phase: None}, nil
	}
	if err != nil {
		return nil, exit.Fail(exit.IOError, "cannot read the state of %s (see --state-dir): %w", d.path, err)
	}
	var f Fields
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, d.unreadable(path, err.Error())
	}
	switch {
	case f.Version != version:
		return nil, d.unreadable(path, fmt.Sprintf("its version is %d, not %d", f.Version, version))
	case f.Identity != d.identity:
		return nil, d.unreadable(path, fmt.Sprintf("it is that of %q", f.Identity))
	}
	r, noImage := f.record()
	if err := d.check(r, noImage); err != nil {
		return nil, d.unreadable(path, err.Error())
	}
	return r, nil
}

// check refuses values that no command has written: digests that nothing can equal
// would pass for divergence, and a spool of another name for one to be removed.
func (d *Device) check(r *Record, noImage error) error {
	if r.Set != nil && CheckSet(r.Set.ID) != nil {
		return fmt.Errorf("its set is %q", r.Set.ID)
	}
	switch r.Phase {
	case Incomplete:
		return nil
	case Applying:
		if filepath.Base(r.Spool) != d.base+".delta" {
			return fmt.Errorf("its spool is %q", r.Spool)
		}
	case Seen, Clean:
	default:
		return fmt.Errorf("its phase is %q", r.Phase)
	}
	return noImage
}

func (d *Device) unreadable(path, why string) error {
	cure := "if it is lost for good, move it away: the next sync is a first contact and reads the whole target"
	if spool := d.SpoolFile(""); fileExists(spool) {
		cure = "an apply may be unfinished, which only its spool can finish, " + spool + ": keep it; " + cure
	}
	return exit.Fail(exit.Config, "the state of %s cannot be used: %s: %s\n%s", d.path, path, why, cure)
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Records returns what is remembered of all devices in the directory, as far as it
// can be understood.
func (d Dir) Records() ([]*Record, error) {
	names, err := filepath.Glob(filepath.Join(globEscape(string(d)), "*.json"))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	var records []*Record
	for _, name := range names {
		var f Fields
		if text, err := os.ReadFile(name); err == nil && json.Unmarshal(text, &f) == nil && f.Version == version {
			r, _ := f.record()
			records = append(records, r)
		}
	}
	return records, nil
}

// Save makes r what is remembered, durably.
func (d *Device) Save(r *Record) error { return d.save(d.file(".json"), r) }

func (d *Device) save(path string, r *Record) error {
	text, err := d.encode(path, r)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text)
}

// encode completes a record and makes the directory that its file goes to.
func (d *Device) encode(path string, r *Record) ([]byte, error) {
	if !utf8.ValidString(r.Spool) {
		return nil, exit.Fail(exit.CantCreate, "the state cannot hold the name of the spool, %s: it is not UTF-8", r.Spool)
	}
	r.Identity = d.identity
	if r.Time.IsZero() { // else it is the record of a sync before this one
		r.Time = time.Now().UTC().Truncate(time.Second)
	}
	if abs, err := filepath.Abs(d.path); err == nil {
		r.Device = abs
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// What xb-sig saw is kept in a file of its own: xb-sig takes no lock, and must not
// write to the file that xb-patch is changing. Its name can't be that of any state,
// not even of a device called "x.seen".

func (d *Device) seenFile() string { return d.file(".seen") }

// LoadSeen returns what xb-sig recorded of the device; phase None if nothing, or
// if it can't be read: it only ever saves work.
func (d *Device) LoadSeen() *Record {
	r, err := d.load(d.seenFile())
	if err != nil {
		return &Record{Phase: None}
	}
	return r
}

// SaveSeen records what xb-sig found.
func (d *Device) SaveSeen(r *Record) error {
	r.Phase = Seen
	text, err := d.encode(d.seenFile(), r)
	if err != nil {
		return err
	}
	// Neither whole nor durable if it is cut short: then it is ignored, and nothing
	// is left behind that nobody may remove.
	return os.WriteFile(d.seenFile(), text, 0o600)
}

// As the source of syncs, a device has a record for each peer that got its image.

func (d *Device) sentFile(peer string) string {
	return filepath.Join(string(d.dir), "sent", d.base, url.PathEscape(peer)+".json")
}

// SaveSent records that peer now has that image of this device.
func (d *Device) SaveSent(peer string, image stream.Image) error {
	if strings.Trim(peer, ".") == "" {
		return exit.Fail(exit.Usage, "bad peer %q", peer)
	}
	return d.save(d.sentFile(peer), &Record{Phase: Clean, Image: image, Peer: peer})
}

// Sent returns the records of all peers.
func (d *Device) Sent() ([]*Record, error) {
	names, err := filepath.Glob(filepath.Join(globEscape(filepath.Join(string(d.dir), "sent", d.base)), "*.json"))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	var records []*Record
	for _, name := range names {
		r, err := d.load(name)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// globEscape keeps Glob from taking a name for a pattern.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}
