package state

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
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

	Memory   bool `json:"memory,omitempty"`   // it was not shut down: its memory is saved
	Restored bool `json:"restored,omitempty"` // on the other host: what stands still there was restored to its end

	dir Dir
}

// MovePhase tells how far a move has come. Each is written down before what it is named after is done.
type MovePhase string

const (
	MoveStopping MovePhase = "stopping" // it may run here still
	MoveStopped  MovePhase = "stopped"  // it does not, and nobody was asked to start it
	MoveAsked    MovePhase = "asked"    // the other host was asked to start it, and may have

	// With its memory: as long as there is the file of that here, it is the one memory. The file on the other host is of no
	// worth before this one is gone, and that is the moment at which the DomU is the other host's.
	MoveBack     MovePhase = "back"     // it is to go on here, from the memory here
	MoveOver     MovePhase = "over"     // its memory is gone from here, or it never was saved
	MoveArriving MovePhase = "arriving" // on the other host
)

var movePhases = []MovePhase{MoveStopping, MoveStopped, MoveAsked, MoveBack, MoveOver, MoveArriving}

// NewMove returns what is remembered of a move that begins.
func (d Dir) NewMove(domu, peer string) *Move {
	return &Move{Version: version, ID: strings.ToLower(rand.Text()), DomU: domu, Peer: peer, dir: d}
}

// MoveDir is where what is remembered of moves is, and the memory.
func (d Dir) MoveDir() string { return filepath.Join(string(d), "move") }

func (d Dir) moveFile(domu, suffix string) string {
	return filepath.Join(d.MoveDir(), url.PathEscape(domu)+suffix)
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

// File is where the DomU's memory is on this host.
func (m *Move) File() string { return m.dir.moveFile(m.DomU, ".memory") }

// HasFile reports whether it is there.
func (m *Move) HasFile() (bool, error) { return exists(m.File()) }

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		err = exit.Fail(exit.IOError, "%w", err)
	}
	return err == nil, err
}

// RemoveFile removes the memory, durably: after it no crash brings it back.
func (m *Move) RemoveFile() error { return remove(m.File()) }

// Moves are all that this host has a part in.
type Moves struct {
	Dir  Dir
	Ours string // the move that is asking: what is its own is in nobody's way
}

// Check refuses to do anything with a DomU of whose memory there is a file here.
func (m *Moves) Check(domu string) error {
	if m == nil {
		return nil
	}
	file := m.Dir.moveFile(domu, ".memory")
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return exit.Fail(exit.IOError, "%w", err)
	}
	move, err := m.Dir.LoadMove(domu)
	switch {
	case err != nil:
		return err
	case move == nil:
		return exit.Fail(exit.Busy, "there is memory of %s in %s, and nothing tells of which move", domu, file)
	case m.Ours == move.ID:
		return nil
	}
	return exit.Fail(exit.Busy, "%w\n%s", move.unfinished(), move.Choice())
}

func (m *Move) unfinished() error {
	where := "to " + m.Peer
	if m.Phase == MoveArriving {
		where = "from " + cmp.Or(m.Peer, "another host")
	}
	return fmt.Errorf("the memory of %s is in %s, of a move %s that is not over", m.DomU, m.File(), where)
}

// Choice are the commands by which an administrator decides where the DomU goes on.
func (m *Move) Choice() string {
	if m.Phase == MoveArriving {
		return fmt.Sprintf("where it comes from: xen-failover move %[1]s THIS-HOST --finish, or --undo\n"+
			"or here, if that host is lost with the memory that it has: xb-locate --arrival resume --moving %[2]s %[1]s", m.DomU, m.ID)
	}
	return fmt.Sprintf("to go on there: xen-failover move %[1]s %[2]s --finish\nto go on here: xen-failover move %[1]s %[2]s --undo",
		m.DomU, m.Peer)
}

// WasMoved reports whether it is known what became of memory that was saved here: a move has it, or has taken it away.
func (m *Moves) WasMoved(domu string) bool {
	if m == nil {
		return false
	}
	move, err := m.Dir.LoadMove(domu)
	return err == nil && move != nil && move.Memory && (move.Phase == MoveOver || move.ID == m.Ours)
}

// Runs is told that the DomU runs here by other means: what was known of memory that was moved away is of an earlier one.
func (m *Moves) Runs(domu string) error {
	if m == nil {
		return nil
	}
	move, err := m.Dir.LoadMove(domu)
	if err != nil || move == nil || move.Phase != MoveOver {
		return err
	}
	return move.Forget()
}

// Forget ends a move.
func (m *Move) Forget() error { return remove(m.dir.moveFile(m.DomU, ".json")) }
