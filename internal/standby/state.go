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
	p := &patcher{Options: o}
	if err := p.identify(); err != nil {
		return nil, err
	}
	record, err := p.device.Load()
	if err != nil {
		return nil, err
	}
	if record.Phase == state.None {
		record = p.device.LoadSeen()
	}
	sent, err := p.device.Sent()
	if err != nil {
		return nil, err
	}
	size, err := blockdev.Size(p.Target)
	if err != nil && !p.missing() {
		return nil, err
	}
	return &Memory{record.Fields(), p.changedSince(record), size, sent}, nil
}

// changedSince tells whether the target was changed since its last sync, as far as its
// witness can tell.
func (p *patcher) changedSince(r *state.Record) *bool {
	if r.Phase != state.Clean || r.Witness == "" {
		return nil
	}
	file, err := blockdev.Open(p.Target)
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
	p := &patcher{Options: o}
	if err := p.identify(); err != nil {
		return err
	}
	return p.device.SaveSent(p.Peer, image)
}
