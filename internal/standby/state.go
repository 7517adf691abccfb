package standby

import (
	"cmp"
	"os"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/domain"
	"xen-backup/internal/state"
)

// Memory is what is remembered of a target, and what can be said of it now.
type Memory struct {
	state.Fields
	Changed    *bool           `json:"changed_since,omitempty"` // nil: it can't be told
	DeviceSize int64           `json:"device_size"`             // now
	Sent       []*state.Record `json:"sent,omitempty"`          // as the source of syncs, a record for each peer

	Members     []string `json:"members,omitempty"`      // of its set, DOMU/DISK
	WholeSet    *bool    `json:"whole_set,omitempty"`    // all members have the image of this set; nil: it is of none
	Held        *held    `json:"held,omitempty"`         // a delta that waits for its set
	DocumentSet string   `json:"document_set,omitempty"` // that the stored document of its DomU is of

	Consent *consent `json:"consent,omitempty"` // to lose the changes on it
}

// held is what is told of a delta that is held.
type held struct {
	Set   string    `json:"set"`
	Peer  string    `json:"peer"`
	Disk  string    `json:"disk"`
	Taken time.Time `json:"taken"`
	Spool string    `json:"spool"`
}

// State returns what is remembered of a target.
func State(o Options) (*Memory, error) {
	o.Create = true // so that what is held for a missing file is shown
	t, err := find(nil, o)
	if err != nil {
		return nil, err
	}
	h, err := t.device.Held()
	if err != nil && !state.IsUnusable(err) { // that note is worth nothing, and goes with the next delta
		return nil, err
	}
	record, err := t.device.Load()
	if err != nil {
		return nil, err
	}
	// A file that is to be created may be missing, and one that was created by an apply. None that is clean may.
	expected := record.Phase == state.Applying || h != nil && record.Phase != state.Clean
	if missing := blockdev.Check(t.Target); missing != nil && !expected {
		return nil, missing
	}
	consent := t.validConsent(record)
	if record.Phase == state.None {
		record = t.device.LoadSeen()
	}
	sent, err := t.device.Sent()
	if err != nil {
		return nil, err
	}
	size, err := blockdev.Size(t.Target)
	if err != nil && !t.missing() {
		return nil, err
	}
	m := &Memory{Fields: record.Fields(), Changed: t.changedSince(record), DeviceSize: size, Sent: sent, Consent: consent}
	if h != nil {
		m.Held = &held{h.Set, h.Peer, h.Disk, h.Taken, h.Spool}
	}
	return m, m.addSet(state.Dir(o.StateDir), record)
}

// addSet tells of the set that the image came in, and of that which the DomU's document is of.
func (m *Memory) addSet(dir state.Dir, r *state.Record) error {
	disk := r.Disk
	if m.Held != nil {
		disk = cmp.Or(disk, m.Held.Disk)
	}
	if name, _, _ := strings.Cut(disk, "/"); name != "" {
		m.DocumentSet = documentSet(dir, domain.Moment{Name: name, Of: r.Of()})
	}
	if r.Set == nil || len(r.Set.Members) == 0 {
		return nil
	}
	for _, member := range r.Set.Members {
		m.Members = append(m.Members, member.Disk)
	}
	whole, err := r.Set.IsWhole(dir)
	m.WholeSet = &whole
	return err
}

// documentSet returns the set that is named in the document from which a DomU would be started here.
func documentSet(dir state.Dir, m domain.Moment) string {
	path, _ := m.Document(dir)
	for _, suffix := range []string{".xml", ".cfg"} {
		text, err := os.ReadFile(path + suffix)
		if err != nil {
			continue
		}
		if set := domain.SetOf(text); set.Name != "" {
			return set.Name
		}
	}
	return ""
}

// changedSince reports whether the target was changed since its last sync, as far as its
// witness can tell.
func (t *target) changedSince(r *state.Record) *bool {
	if r.Phase != state.Clean || r.Witness == "" {
		return nil
	}
	file, err := blockdev.Open(t.Target)
	if err != nil {
		return nil
	}
	defer file.Close()
	changed, known := blockdev.Changed(r.Witness, file.Witness(r.Image.Size))
	if !known {
		return nil
	}
	return &changed
}
