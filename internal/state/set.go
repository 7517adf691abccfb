package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// The disks of a DomU become new images together. Each delta is held: received and proved, and noted beside the state of
// its device. When all are, one file is made by a rename, the change of the set: that is the moment at which the DomU is
// the new one. From then on each of its devices is "applying" until it has the image.

// Set is the set that an image came in.
type Set struct {
	ID      string
	Taken   time.Time // when the source took its snapshots
	Members []Member  // all disks of the DomU; none: it was not committed
}

// Member is a disk of a set.
type Member struct {
	Disk     string `json:"disk"`     // DOMU/DISK
	Identity string `json:"identity"` // of the device that is its standby
}

// SetFields are a Set as it stands in a file, among other fields.
type SetFields struct {
	Set     string    `json:"set,omitempty"`
	Taken   time.Time `json:"taken,omitzero"`
	Members []Member  `json:"members,omitempty"`
}

func (s *Set) fields() SetFields {
	if s == nil {
		return SetFields{}
	}
	return SetFields{s.ID, s.Taken, s.Members}
}

func (f SetFields) set() *Set {
	if f.Set == "" {
		return nil
	}
	return &Set{f.Set, f.Taken, f.Members}
}

// is reports whether the record's image came in that set, as a member of it.
func (r *Record) is(s *Set) bool {
	return r.Set != nil && r.Set.ID == s.ID && slices.Equal(r.Set.Members, s.Members)
}

// HasReached reports whether the record's image is that of the set, as a member of it.
func (r *Record) HasReached(s *Set) bool { return r.Phase == Clean && r.is(s) }

// IsReaching reports whether the record is that of an unfinished apply of the set.
func (r *Record) IsReaching(s *Set) bool { return r.Phase == Applying && r.is(s) }

var setForm = text.Pattern(`^[a-z2-7]{26}$`)

// CheckSet refuses what is no name of a set: 128 random bits in base32.
func CheckSet(id string) error {
	if !setForm().MatchString(id) {
		return exit.Fail(exit.Usage, "%q is no set: want 26 letters a-z and digits 2-7", id)
	}
	return nil
}

// Held is a delta that was received and proved, and waits for its set: all that is needed to apply it.
type Held struct {
	Version   int          `json:"version"`
	Set       string       `json:"set"`
	Taken     time.Time    `json:"taken"`
	Peer      string       `json:"peer"`
	Disk      string       `json:"disk"`
	UUID      string       `json:"uuid,omitempty"`
	Identity  string       `json:"identity"`
	Target    string       `json:"target"`          // an absolute path
	Spool     string       `json:"spool,omitempty"` // the delta; none: the device has the image already
	Checksum  string       `json:"checksum,omitempty"`
	Basis     stream.Image `json:"basis"`
	Source    stream.Image `json:"source"`
	Phase     Phase        `json:"phase"`             // of the device when the delta was proved,
	Before    stream.Image `json:"before"`            // what was remembered of it,
	Witness   string       `json:"witness,omitempty"` // and of what it held
	Forced    bool         `json:"forced,omitempty"`  // it may have diverged
	Missing   bool         `json:"missing,omitempty"` // a file that is to be created,
	Owner     string       `json:"owner,omitempty"`   // whose,
	Mode      fs.FileMode  `json:"mode,omitempty"`    // and with which permissions
	Toolstack string       `json:"toolstack,omitempty"`
	Keep      *Keep        `json:"keep,omitempty"` // which points in time the source wants; nil: it does not say
}

func (d *Device) heldFile() string { return d.file(".held") }

// Hold notes a delta that is held, durably.
func (d *Device) Hold(h *Held) error {
	if !utf8.ValidString(h.Spool + h.Target) {
		return exit.Fail(exit.CantCreate, "the note of what is held cannot have the names %q and %q: they are not UTF-8", h.Spool, h.Target)
	}
	h.Version, h.Identity = version, d.identity
	return d.note(d.heldFile(), h)
}

// note makes v the content of a file beside the state, durably.
func (d *Device) note(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return exit.Fail(exit.Internal, "state: %w", err)
	}
	if err := d.dir.Make(); err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'))
}

// Held returns the delta that is held for the device, nil if none is. Only who has the lock may rely on it.
func (d *Device) Held() (*Held, error) {
	var h Held
	found, err := read(d.heldFile(), &h)
	if err == nil && found {
		if err = d.checkHeld(&h); err != nil {
			err = unusable(d.heldFile(), err)
		}
	}
	if err != nil || !found {
		return nil, err
	}
	return &h, nil
}

func (d *Device) checkHeld(h *Held) error {
	switch {
	case h.Version != version:
		return fmt.Errorf("its version is %d, not %d", h.Version, version)
	case h.Identity != d.identity:
		return fmt.Errorf("it is that of %q", h.Identity)
	case !setForm().MatchString(h.Set):
		return fmt.Errorf("its set is %q", h.Set)
	case h.Spool != "" && filepath.Base(h.Spool) != d.base+".delta":
		return fmt.Errorf("its spool is %q", h.Spool)
	case !filepath.IsAbs(h.Target) || h.Source == (stream.Image{}):
		return errors.New("it names no target or no image")
	}
	return nil
}

// Unhold forgets the delta that is held, durably.
func (d *Device) Unhold() error { return remove(d.heldFile()) }

// Change is a set that is the new image of its devices.
type Change struct {
	Version int    `json:"version"`
	Peer    string `json:"peer"`
	SetFields
	Deltas []Held `json:"deltas"` // of those members that have not been given up
}

// The changes of sets have a directory of their own.
const setsDir = "sets"

func (d Dir) changeFile(set string) string { return filepath.Join(string(d), setsDir, set+".json") }

// SetOf returns the set itself.
func (c *Change) SetOf() *Set { return c.set() }

// Device returns the device of one of a change's deltas.
func (d Dir) deviceOf(h *Held) *Device { return d.Device(h.Identity, h.Target) }

// SaveChange makes a set the new image of its devices: all locks must be held.
func (d Dir) SaveChange(c *Change) error {
	c.Version = version
	for i := range c.Deltas {
		c.Deltas[i].Version = version
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return exit.Fail(exit.Internal, "state: %w", err)
	}
	file := d.changeFile(c.Set)
	if err := makeDir(filepath.Dir(file)); err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'))
}

// LoadChange returns the change of a set; nil if there is none.
func (d Dir) LoadChange(set string) (*Change, error) {
	var c Change
	file := d.changeFile(set)
	found, err := read(file, &c)
	if err == nil && found {
		if err = d.checkChange(&c, set); err != nil {
			err = unusable(file, err)
		}
	}
	if err != nil || !found {
		return nil, err
	}
	return &c, nil
}

func (d Dir) checkChange(c *Change, set string) error {
	switch {
	case c.Version != version:
		return fmt.Errorf("its version is %d, not %d", c.Version, version)
	case c.Set != set || !setForm().MatchString(set):
		return fmt.Errorf("it is that of set %q", c.Set)
	}
	seen := make(map[string]bool)
	for i := range c.Deltas {
		h := &c.Deltas[i]
		if err := d.deviceOf(h).checkHeld(h); err != nil {
			return err
		}
		if seen[h.Identity] {
			return fmt.Errorf("it has %q twice", h.Identity)
		}
		seen[h.Identity] = true
	}
	return nil
}

// RemoveChange forgets a change that is finished, or given up; all locks must be held.
func (d Dir) RemoveChange(set string) error { return remove(d.changeFile(set)) }

// Change returns the change by which the device gets, and has not got yet, a new image; nil if there is none.
func (d *Device) Change() (*Change, error) {
	changes, err := d.changes()
	for _, c := range changes {
		if unfinished, err := c.Unfinished(d); err != nil || unfinished {
			return c, err
		}
	}
	return nil, err
}

// ChangeOf returns a change that the device had or has a part in, and that is not finished for all; nil if there is none.
func (d *Device) ChangeOf() (*Change, error) {
	own, err := d.LoadOwn()
	if err != nil {
		return nil, err
	}
	changes, err := d.changes()
	for _, c := range changes {
		if unfinished, err := c.Unfinished(d); err != nil || unfinished || own.is(c.set()) {
			return c, err
		}
	}
	return nil, err
}

// changes returns those that have a delta for the device.
func (d *Device) changes() (changes []*Change, err error) {
	names, err := filepath.Glob(filepath.Join(globEscape(string(d.dir)), setsDir, "*.json"))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	for _, name := range names {
		if !setForm().MatchString(nameOf(name)) {
			continue // it is nothing of ours
		}
		c, err := d.dir.LoadChange(nameOf(name))
		if err != nil {
			return nil, err
		}
		if c != nil && c.Delta(d) != nil {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func nameOf(file string) string {
	name := filepath.Base(file)
	return name[:len(name)-len(".json")]
}

// Delta returns the change's delta for a device; nil if it has none.
func (c *Change) Delta(d *Device) *Held {
	for i := range c.Deltas {
		if c.Deltas[i].Identity == d.identity {
			return &c.Deltas[i]
		}
	}
	return nil
}

// Names reports whether the device still has a part in the change: its own state or what is held for it says so. It has
// none any more where an xen-backup that knows no sets has gone on with it, or somebody has moved its state away.
func (c *Change) Names(d *Device, own *Record) (bool, error) {
	if own.Set != nil && own.Set.ID == c.Set {
		return true, nil
	}
	h, err := d.Held()
	if IsUnusable(err) {
		return true, nil // nobody has gone on, and what the note had to say is in the change
	}
	return h != nil && h.Set == c.Set, err
}

// Unfinished reports whether the device gets, and has not got yet, its image by the change.
func (c *Change) Unfinished(d *Device) (bool, error) {
	own, err := d.LoadOwn()
	if err != nil || own.HasReached(c.set()) {
		return false, err
	}
	return c.Names(d, own)
}

// IsFinished reports whether no device gets anything by the change any more.
func (c *Change) IsFinished(dir Dir) (bool, error) {
	for i := range c.Deltas {
		if unfinished, err := c.Unfinished(dir.deviceOf(&c.Deltas[i])); err != nil || unfinished {
			return false, err
		}
	}
	return true, nil
}

// Devices returns the devices of its deltas.
func (c *Change) Devices(dir Dir) (devices []*Device) {
	for i := range c.Deltas {
		devices = append(devices, dir.deviceOf(&c.Deltas[i]))
	}
	return devices
}

// GiveUp takes a device out of the change: nothing else is finished by it then.
func (c *Change) GiveUp(d *Device) {
	c.Deltas = slices.DeleteFunc(c.Deltas, func(h Held) bool { return h.Identity == d.identity })
}

// overlay returns what is true of a device that has a part in the change and has not got its image.
func (c *Change) overlay(d *Device, own *Record) (*Record, error) {
	if own.IsReaching(c.set()) {
		return own, nil
	}
	h := c.Delta(d)
	r := &Record{Phase: Applying, Identity: d.identity, Device: h.Target, Disk: h.Disk, UUID: h.UUID, Image: h.Source,
		Time: own.Time, Peer: h.Peer, Spool: h.Spool, Set: c.set()}
	r.After(own)
	return r, nil
}

// IsWhole reports whether all members of the set have the image of this set, each on the device that it was.
func (s *Set) IsWhole(dir Dir) (bool, error) {
	for _, m := range s.Members {
		r, err := dir.Device(m.Identity, m.Identity).Load()
		if err != nil || r.Phase != Clean || r.Set == nil || r.Set.ID != s.ID {
			return false, err
		}
	}
	return len(s.Members) > 0, nil
}

// read reads a file of JSON.
func read(path string, v any) (found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, exit.Fail(exit.IOError, "cannot read %s: %w", path, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err = decoder.Decode(v); err == nil && decoder.More() {
		err = errors.New("there is something behind it")
	}
	if err != nil {
		return false, unusable(path, err)
	}
	return true, nil
}

func unusable(path string, why error) error {
	return exit.Fail(exit.Config, "%s cannot be used: %w\nit is of disks that become new images together; "+
		"if it is lost for good, move it away, and look at all of them with xb-patch --state", path, why)
}

// IsUnusable reports whether an error is that a note or a change is damaged, or another version's.
func IsUnusable(err error) bool { return exit.StatusOf(err) == exit.Config }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return exit.Fail(exit.IOError, "cannot remove %s: %w", path, err)
	}
	return durable.SyncDir(filepath.Dir(path))
}
