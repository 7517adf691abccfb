package main

import (
	"encoding/json"
	"io"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// printState is --state.
func (p *patcher) printState() error {
	if err := p.identify(); err != nil {
		return err
	}
	record, err := p.device.Load()
	if err != nil {
		return err
	}
	if record.Phase == state.None {
		record = p.device.LoadSeen()
	}
	sent, err := p.device.Sent()
	if err != nil {
		return err
	}
	size, err := blockdev.Size(p.target)
	if err != nil && !p.missing() {
		return err
	}
	text, err := json.Marshal(struct {
		*state.Record
		Changed    *bool           `json:"changed_since,omitempty"` // nil: it can't be told
		DeviceSize int64           `json:"device_size"`             // now
		Sent       []*state.Record `json:"sent,omitempty"`          // as the source of syncs, a record for each peer
	}{record, p.changedSince(record), size, sent})
	if err != nil {
		return exit.Fail(exit.Internal, "state: %w", err)
	}
	return p.env.Print(string(text) + "\n")
}

// changedSince tells whether the target was changed since its last sync, as far as its
// witness can tell.
func (p *patcher) changedSince(r *state.Record) *bool {
	if r.Phase != state.Clean || r.Witness == "" {
		return nil
	}
	file, err := blockdev.Open(p.target)
	if err != nil {
		return nil
	}
	defer file.Close()
	changed, known := blockdev.Changed(r.Witness, file.Witness(r.Size))
	if !known {
		return nil
	}
	return &changed
}

// recordSent is --record: it remembers which image of an origin a peer has, so
// that both hosts know their last common image when the roles change.
func (p *patcher) recordSent() error {
	if p.peer == "" {
		return exit.Fail(exit.Usage, "--record needs --peer HOST")
	}
	in, err := p.env.BinaryIn()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return err
	}
	var s cli.Summary
	if err := json.Unmarshal(text, &s); err != nil {
		return exit.Fail(exit.BadStream, "standard input is no summary of xb-delta: %w", err)
	}
	if s.Command != "xb-delta" || s.BytesSent == 0 {
		return exit.Fail(exit.BadStream, "standard input is no summary of an xb-delta that sent a delta")
	}
	if err := p.identify(); err != nil {
		return err
	}
	return p.device.SaveSent(p.peer, &state.Record{Size: s.ImageSize, BlockSize: s.BlockSize, Hash: s.Hash, Digest: s.Digest})
}
