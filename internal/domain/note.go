package domain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// Note is what is kept of an answer: the run of the domain, and its disks. Between the
// answer and the snapshots of these disks a minute may pass, in which the domain may end,
// begin again, or go on on other disks (a blockcopy that is pivoted).
type Note struct {
	Domain string      `json:"domain"`
	UUID   string      `json:"uuid"`
	ID     string      `json:"id"` // of its run: a domain that is started again has another one
	Disks  []notedDisk `json:"disks"`
}

type notedDisk struct {
	Target string `json:"target"`
	Source string `json:"source"`
	Is     string `json:"is"` // what it is under that name
}

// newNote returns a note of those disks among the entries that are to be copied.
func newNote(d *Domain, entries []Entry) (*Note, error) {
	n := &Note{Domain: d.Name, UUID: d.UUID, ID: d.ID}
	for _, e := range entries {
		if e.Skip != "" {
			continue
		}
		is, err := blockdev.WhatIs(e.Source)
		if err != nil {
			return nil, err
		}
		n.Disks = append(n.Disks, notedDisk{e.Target, e.Source, is})
	}
	return n, nil
}

func (n *Note) write(path string) error {
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	if err := json.NewEncoder(p).Encode(n); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, err)
	}
	return p.Commit()
}

// ReadNote reads what List.Note has kept. The error's status is NoInput if it cannot be read,
// BadStream if it is no note.
func ReadNote(path string) (*Note, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, exit.Fail(exit.NoInput, "cannot read the note: %w", err)
	}
	n := new(Note)
	if err := json.Unmarshal(text, n); err != nil {
		return nil, exit.Fail(exit.BadStream, "%s was not written by --note: %w", path, err)
	}
	return n, nil
}

// changed says what is not as it was; "" if all is.
func (n *Note) changed(now *Note) string {
	switch {
	case now.UUID != n.UUID || now.Domain != n.Domain:
		return fmt.Sprintf("it is another domain (UUID %s, was %s)", now.UUID, n.UUID)
	case now.ID != n.ID:
		return fmt.Sprintf("it was started again (id %s, was %s)", now.ID, n.ID)
	}
	for _, d := range n.Disks {
		other := now.disk(d.Target)
		switch {
		case other == nil:
			return fmt.Sprintf("its disk %s is gone, or is not to be copied any more", d.Target)
		case other.Source != d.Source:
			return fmt.Sprintf("its disk %s is %s, and was %s", d.Target, other.Source, d.Source)
		case other.Is != d.Is:
			return fmt.Sprintf("its disk %s, %s, is another one under that name", d.Target, d.Source)
		}
	}
	for _, d := range now.Disks {
		if n.disk(d.Target) == nil {
			return fmt.Sprintf("it has a new disk %s, %s", d.Target, d.Source)
		}
	}
	return ""
}

func (n *Note) disk(target string) *notedDisk {
	for i, d := range n.Disks {
		if d.Target == target {
			return &n.Disks[i]
		}
	}
	return nil
}

// Still asks about the domain again and returns an error with status Busy if the answer is
// not what was noted.
func (l *Locator) Still(ctx context.Context, judge *Judge, name string, before *Note) error {
	answer, err := l.Locate(ctx, name)
	if s := exit.StatusOf(err); s == exit.No || s == exit.Busy {
		return notStill(name, err.Error())
	} else if err != nil {
		return err
	}
	entries := judge.Disks(answer.Domain)
	for _, e := range entries {
		if e.Failed {
			return notStill(name, fmt.Sprintf("its disk %s cannot be copied: %s", e.Target, e.Skip))
		}
	}
	now, err := newNote(answer.Domain, entries)
	if err != nil {
		return notStill(name, err.Error())
	}
	if why := before.changed(now); why != "" {
		return notStill(name, why)
	}
	return nil
}

func notStill(name, why string) error {
	return exit.Fail(exit.Busy, "%s is not what it was when its disks were looked for: %w", name, errors.New(why))
}
