package state

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// Move is a DomU on its way to another host, as each of the two remembers it until it is over.
type Move struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"` // as a set's
	DomU      string    `json:"domu"`
	Peer      string    `json:"peer"` // the other host
	Phase     MovePhase `json:"phase"`
	Toolstack string    `json:"toolstack,omitempty"` // that it ran by
	Autostart bool      `json:"autostart,omitempty"` // this host started it when it was booted

	dir Dir
}

// MovePhase tells how far a move has come. Each is written down before what it is named after is done.
type MovePhase string

const (
	MoveStopping MovePhase = "stopping" // it may run here still
	MoveStopped  MovePhase = "stopped"  // it does not, and nobody was asked to start it
	MoveAsked    MovePhase = "asked"    // the other host was asked to start it, and may have
)

var movePhases = []MovePhase{MoveStopping, MoveStopped, MoveAsked}

// NewMove returns what is remembered of a move that begins.
func (d Dir) NewMove(domu, peer string) *Move {
	return &Move{Version: version, ID: strings.ToLower(rand.Text()), DomU: domu, Peer: peer, dir: d}
}

func (d Dir) moveFile(domu, suffix string) string {
	return filepath.Join(string(d), "move", url.PathEscape(domu)+suffix)
}

// LockMove lets nobody else move a DomU from here or to here, until it is released or the process ends.
func (d Dir) LockMove(domu string) (release func(), err error) {
	release, err = durable.LockFile(d.moveFile(domu, ".lock"), 0)
	if exit.StatusOf(err) == exit.Busy {
		return nil, exit.Fail(exit.Busy, "%s is being moved by another process", domu)
	}
	return release, err
}

// LoadMove returns what is remembered of a DomU's move; nil if nothing is.
func (d Dir) LoadMove(domu string) (*Move, error) {
	path := d.moveFile(domu, ".json")
	text, err := durable.ReadSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, exit.Fail(exit.IOError, "cannot read how far a move has come: %w", err)
	}
	m := &Move{dir: d}
	if err = json.Unmarshal(text, m); err == nil && (m.Version != version || m.DomU != domu || CheckSet(m.ID) != nil ||
		!slices.Contains(movePhases, m.Phase)) {
		err = fmt.Errorf("version %d, DomU %q, phase %q", m.Version, m.DomU, m.Phase)
	}
	if err != nil {
		return nil, exit.Fail(exit.Config, "%s cannot be used: %w", path, err)
	}
	return m, nil
}

// Reach writes down that the move has come so far.
func (m *Move) Reach(phase MovePhase) error {
	m.Phase = phase
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return exit.Fail(exit.Internal, "move: %w", err)
	}
	return durable.WriteFile(m.dir.moveFile(m.DomU, ".json"), append(text, '\n'))
}

// Forget ends a move.
func (m *Move) Forget() error { return remove(m.dir.moveFile(m.DomU, ".json")) }
