package lvm

import (
	"fmt"
	"strconv"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
)

// Changes returns the extents in which the images of two snapshots of one origin
// may differ, from the storage's own records. They can be more than what differs,
// but never less. Of an image that was made larger, all that was added counts as
// different.
//
// What it needs to keep track of a reservation in a thin pool is below the
// directory dir. The error's status is BadSnapshot if a snapshot is invalid, now
// or after the records were read; Usage if the two can't be compared; Busy if
// somebody else reads the pool's records.
func Changes(older, newer, dir string) (*extent.Set, error) {
	a, err := lookAt(older)
	if err != nil {
		return nil, err
	}
	b, err := lookAt(newer)
	if err != nil {
		return nil, err
	}
	if err := checkPair(a, b); err != nil {
		return nil, err
	}
	var e *extent.Set
	if a.kind() == "thin" {
		e, err = thinChanges(a, b, dir)
	} else {
		e, err = thickChanges(a, b)
	}
	// Asked before err is looked at: a store that can't be read most likely belongs
	// to a snapshot that has just overflowed.
	for _, d := range []*device{a, b} {
		if err := d.still(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	// No record has what the older one never had.
	e.Add(a.size(), b.size()-a.size())
	return e, nil
}

func checkPair(a, b *device) error {
	for _, d := range []*device{a, b} {
		if err := d.check(); err != nil {
			return err
		}
		// The kernel knows no origins of thin volumes. A writable one is no
		// snapshot of ours, and what is written to it while the pool's records are
		// being read would be missed.
		if d.kind() == "thin" && !d.ReadOnly {
			return exit.Fail(exit.Usage,
				"%s is a writable thin volume: only read-only snapshots, as xb-snap makes them, can be compared", d.path)
		}
	}
	switch {
	case a.Name == b.Name:
		return exit.Fail(exit.Usage, "%s and %s are the same snapshot", a.path, b.path)
	case a.kind() != b.kind():
		return exit.Fail(exit.Usage, "%s is a thick snapshot and %s a thin one, or the other way round", a.path, b.path)
	case a.param(0) != b.param(0) && a.kind() == "thin":
		return exit.Fail(exit.Usage, "%s and %s are in different thin pools", a.path, b.path)
	case a.param(0) != b.param(0):
		return exit.Fail(exit.Usage, "%s and %s are snapshots of different origins", a.path, b.path)
	}
	return nil
}

// still reports whether the device is what it was, and valid.
func (d *device) still() error {
	now, err := lookAt(d.path)
	if err != nil {
		return err
	}
	if now.GivenUp() {
		return now.check()
	}
	if now.UUID != d.UUID || now.kind() != d.kind() || now.size() != d.size() ||
		now.Targets[0].Params != d.Targets[0].Params {
		return exit.Fail(exit.Busy, "%s was changed meanwhile: try again", d.path)
	}
	return now.check()
}

// thickChanges: what the origin's writers changed between the two snapshots is in
// the store of the older one, because every chunk changed since then is. What was
// written to a snapshot itself is in its own store. So both stores together cover
// every difference in what both have (and, what can't be told apart, the origin's
// changes since the newer one). The order of the two does not matter.
func thickChanges(a, b *device) (*extent.Set, error) {
	chunk := [2]int64{}
	for i, d := range []*device{a, b} {
		sectors, err := strconv.ParseInt(d.param(3), 10, 32)
		if err != nil || d.param(2) != "P" && d.param(2) != "PO" {
			return nil, exit.Fail(exit.Usage, "%s keeps no list of its exceptions that could be read: %q", d.path,
				d.Targets[0].Params)
		}
		chunk[i] = sectors * sectorSize
	}
	e := extent.NewSet(min(chunk[0], chunk[1]), b.size())
	for i, d := range []*device{a, b} {
		if err := d.readStore(chunk[i], e); err != nil {
			return nil, fmt.Errorf("%s: %w", d.path, err)
		}
	}
	return e, nil
}

func (d *device) readStore(chunk int64, e *extent.Set) error {
	path, err := d.below(1)
	if err != nil {
		return err
	}
	store, err := blockdev.Open(path)
	if err != nil {
		return err
	}
	defer store.Close()
	return readStore(store, chunk, func(off, n int64) error {
		if off >= d.size() {
			return exit.Fail(exit.IOError, "exception store is damaged: it lists byte %d of an origin of %d", off, d.size())
		}
		e.Add(off, n)
		return nil
	})
}
