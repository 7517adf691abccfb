package snapshot

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// heldBy is a holder of which only the giving up is of interest.
type heldBy struct{ err error }

func (h *heldBy) remove() error                 { return nil }
func (h *heldBy) room() (*blockdev.Room, error) { return nil, nil }
func (h *heldBy) origin() (string, error)       { return "", nil }
func (h *heldBy) setOwner(Owner) error          { return nil }

func (h *heldBy) giveUp() error {
	err := h.err
	h.err = exit.Fail(exit.NoInput, "given up already")
	return err
}

// spoken collects what a guard says.
type spoken []string

func (s *spoken) Warn(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }
func (s *spoken) Info(string, ...any)             {}

// TestGiveUpInOrder: what is missed the least goes first, and what somebody kept goes last.
func TestGiveUpInOrder(t *testing.T) {
	const owner = Owner("1.1.00000000") // whoever that is
	dir := t.TempDir()
	room, err := blockdev.FileRoom(dir)
	if err != nil {
		t.Fatal(err)
	}
	snapshotOf := func(name string, owner Owner, err error) *Snapshot {
		testkit.Write(t, filepath.Join(dir, name), "x")
		return &Snapshot{Path: filepath.Join(dir, name), Owner: owner, Kind: file, holder: &heldBy{err}}
	}
	all := []*Snapshot{
		snapshotOf("kept", nobody, nil), snapshotOf("read", owner, nil), snapshotOf("broken", owner, errors.New("no")),
		snapshotOf("waits", owner, nil), snapshotOf("younger base", "base:dom0b", nil), snapshotOf("base", "base:dom0c", nil),
		snapshotOf("leftover", "2.2.00000000", nil),
	}
	all[4].Created = time.Unix(1, 0)
	defer testkit.Hold(t, all[1].Path)()
	var said spoken
	var told []string
	g := &guardian{owner: owner, words: &said, said: make(map[string]bool), tell: func(paths ...string) error {
		told = append(told, filepath.Base(paths[0]))
		return errors.New("nobody reads it")
	}}
	for range all[1:] {
		if !g.giveUpOne(&watched{room: room, snapshots: all}) {
			t.Fatalf("given up after %s", told)
		}
	}
	if want := []string{"leftover", "base", "younger base", "waits", "read", "kept"}; !slices.Equal(told, want) {
		t.Errorf("%s, want %s", told, want)
	}
	if g.giveUpOne(&watched{room: room, snapshots: all}) {
		t.Error("more than there is was given up")
	}
	if text := strings.Join(said, "\n"); strings.Count(text, "broken: no") != 1 || len(said) != 7 {
		t.Errorf("it says %s", text)
	}
}

// TestPostIsKept: when the owner's snapshots are given up, others that hold the same bytes still
// can be, as long as there are any.
func TestPostIsKept(t *testing.T) {
	room, err := blockdev.FileRoom(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := &guardian{words: new(spoken), posts: make(map[string]*post), said: make(map[string]bool)}
	find := func(own bool) map[string]*watched { return map[string]*watched{room.ID: {room: room, own: own}} }
	g.post(find(false))
	if len(g.posts) != 0 {
		t.Error("a room is watched in which the owner has nothing")
	}
	g.post(find(true))
	p := g.posts[room.ID]
	g.post(find(false))
	if p == nil || p.Load() == nil || g.posts[room.ID] != p {
		t.Error("a room is left although a snapshot in it can be given up")
	}
	g.post(nil)
	if p.Load() != nil || len(g.posts) != 0 {
		t.Error("a room is still watched in which there is nothing")
	}
}

// TestPause: the nearer the floor, the sooner the next look.
func TestPause(t *testing.T) {
	for margin, want := range map[int64]time.Duration{
		1 << 40: time.Second, 2 << 30: time.Second, 1 << 30: time.Second / 2, 1 << 20: shortest, 0: shortest, -5: shortest,
	} {
		if got := pause(margin); got != want {
			t.Errorf("%d bytes left: %v, want %v", margin, got, want)
		}
	}
}
