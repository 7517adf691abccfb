package snapshot

import (
	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// rooms are the file systems and thin pools that new snapshots share with guests. With
// a snapshot, each block that a guest rewrites takes a new one there.
type rooms struct {
	size int64 // as --size: what is written to a disk while it has a snapshot
	byID map[string]*demand
}

// demand is what the guests may take of a room on account of snapshots.
type demand struct {
	*blockdev.Room
	need int64
}

func newRooms(size int64) *rooms { return &rooms{size, make(map[string]*demand)} }

// add counts a source.
func (r *rooms) add(disk *blockdev.File) error {
	parts, need, err := r.of(disk)
	for _, part := range parts {
		if r.byID[part.ID] == nil {
			r.byID[part.ID] = &demand{Room: part}
		}
		r.byID[part.ID].need += need
	}
	return err
}

// of returns the rooms that a disk takes from, and how much of its content can be
// rewritten: no more than it has.
func (r *rooms) of(disk *blockdev.File) (parts []*blockdev.Room, need int64, err error) {
	room, err := disk.Room()
	if exit.StatusOf(err) == exit.BadSnapshot { // a pool that has failed: nothing is lost yet
		return nil, 0, exit.Fail(exit.CantCreate, "%w", err)
	}
	if err != nil || room == nil {
		return nil, 0, err
	}
	allocated, err := disk.Allocated()
	return append(room.Below, room), min(r.size, allocated), err
}

// check finds out whether there is room for all: for the disks that were added, which are
// sources, and for those of which there is a snapshot already. (A second one of the
// same disk costs nothing more: a block that is rewritten takes a new one once. And bases and points give way to the guests.)
func (r *rooms) check(sources map[string]string, volumes *lvm.Volumes, dir state.Dir) error {
	if len(r.byID) == 0 {
		return nil
	}
	held := make(map[string]bool)
	for _, s := range known(volumes, dir) {
		if s.sharesRoom() && !s.givenUp && !s.Owner.isBase() && !s.Owner.isPoint() && sources[s.Origin] == "" && !held[s.Origin] {
			held[s.Origin] = true
			r.addHeld(s.Origin)
		}
	}
	for _, d := range r.byID {
		if err := d.check(); err != nil {
			return err
		}
	}
	return nil
}

// known returns all snapshots that are known without asking LVM. A record that can't be read is somebody else's error.
func known(volumes *lvm.Volumes, dir state.Dir) []*Snapshot {
	found, _ := takenFiles(dir)
	if volumes != nil {
		found.all = append(found.all, takenVolumes(volumes, dir)...)
	}
	return found.all
}

// addHeld counts a disk that has a snapshot, where it shares a room with the sources.
// Whatever keeps it from being looked at, the new snapshots are not at fault.
func (r *rooms) addHeld(origin string) {
	disk, err := blockdev.Open(origin)
	if err != nil {
		return
	}
	defer disk.Close()
	parts, need, err := r.of(disk)
	for _, part := range parts {
		if d := r.byID[part.ID]; d != nil && err == nil {
			d.need += need
		}
	}
}

func (d *demand) check() error {
	if d.Free-d.Floor() <= d.need {
		return exit.Fail(exit.CantCreate, "%s has only %s free: %s are for the guests, and while there are snapshots "+
			"their writes may take %s more: make room there, or expect less with --size",
			d.Name, text.FormatSize(d.Free), text.FormatSize(d.Floor()), text.FormatSize(d.need))
	}
	if d.MetaSize > 0 && d.MetaFree <= d.MetaFloor() {
		return exit.Fail(exit.CantCreate, "%s has only %s of its metadata free, and %s are for the guests: "+
			"extend it (lvextend --poolmetadatasize +SIZE VG/POOL)",
			d.Name, text.FormatSize(d.MetaFree), text.FormatSize(d.MetaFloor()))
	}
	return nil
}
