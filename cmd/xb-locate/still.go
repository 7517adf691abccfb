package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// note is what --note keeps of an answer: the run of the domain, and its disks. Between the
// answer and the snapshots of these disks a minute may pass, in which the domain may end,
// begin again, or go on on other disks (a blockcopy that is pivoted).
type note struct {
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

func newNote(d *domain.Domain, entries []domain.Entry) (*note, error) {
	n := &note{Domain: d.Name, UUID: d.UUID, ID: d.ID}
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

func (n *note) write(path string) error {
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

func readNote(path string) (*note, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, exit.Fail(exit.NoInput, "cannot read the note: %w", err)
	}
	n := new(note)
	if err := json.Unmarshal(text, n); err != nil {
		return nil, exit.Fail(exit.BadStream, "%s was not written by --note: %w", path, err)
	}
	return n, nil
}

// changed says what is not as it was; "" if all is.
func (n *note) changed(now *note) string {
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

func (n *note) disk(target string) *notedDisk {
	for i, d := range n.Disks {
		if d.Target == target {
			return &n.Disks[i]
		}
	}
	return nil
}

// tellStill says whether the answer to DOMAIN still is what --note has kept.
func tellStill(ctx context.Context, _ *cli.Env, o *options, operands []string) error {
	name, err := oneName(operands)
	if err != nil {
		return err
	}
	before, err := readNote(o.still)
	if err != nil {
		return err
	}
	judge := newJudge(ctx, o)
	l, err := newLocator(o, judge)
	if err != nil {
		return err
	}
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
