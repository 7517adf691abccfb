package standby

import (
	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

// Memory is what is remembered of a target, and what can be said of it now.
type Memory struct {
	state.Fields
	Changed    *bool           `json:"changed_since,omitempty"` // nil: it can't be told
	DeviceSize int64           `json:"device_size"`             // now
	Sent       []*state.Record `json:"sent,omitempty"`          // as the source of syncs, a record for each peer
}

// State returns what is remembered of a target.
func State(o Options) (*Memory, error) {
	t, err := find(nil, o)
	if err != nil {
		return nil, err
	}
	record, err := t.device.Load()
	if err != nil {
		return nil, err
	}
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
	return &Memory{record.Fields(), t.changedSince(record), size, sent}, nil
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

// Record remembers that a peer has an image of a device, so that both hosts know their last
// common image when the roles change.
func Record(o Options, image stream.Image) error {
	t, err := find(nil, o)
	if err != nil {
		return err
	}
	return t.device.SaveSent(t.Peer, image)
}
