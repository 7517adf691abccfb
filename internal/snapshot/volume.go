package snapshot

import (
	"strings"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// newVolume is a snapshot of a logical volume that is to be taken.
type newVolume struct{ order *lvm.Order }

func (n newVolume) prepare() error { return nil }
func (n newVolume) take() error    { return n.order.Create() }
func (n newVolume) finish() error  { return n.order.WaitForDevice() }
func (n newVolume) undo() error    { return n.order.Undo() }
func (n newVolume) path() string   { return n.order.Path() }

func isVolume(m member) bool { _, is := m.(newVolume); return is }

// volume is one that was taken.
type volume struct {
	*lvm.Volume
	dir state.Dir
}

func (v volume) remove() error { return lvm.Remove(v.Volume, tag) }
func (v volume) giveUp() error { return lvm.GiveUp(v.Volume, string(v.dir)) }

func (v volume) room() (*blockdev.Room, error) {
	if !v.Thin() {
		return nil, nil
	}
	return lvm.Room(v.Path())
}

// origin has no more than the kernel's word that nobody can write to it: it is made so when it is taken.
func (v volume) origin() (string, error) { return lvm.OriginOf(v.Path()) }

func (v volume) setOwner(o Owner) error {
	return lvm.ChangeTag(v.Volume, tag, ownerTag+string(v.owner()), ownerTag+string(o))
}

func (v volume) owner() (o Owner) {
	for _, t := range v.Tags {
		if word, ok := strings.CutPrefix(t, ownerTag); ok {
			o = Owner(word)
		}
	}
	return o
}

// takenVolumes returns those snapshots among the volumes that xb-snap took.
func takenVolumes(volumes *lvm.Volumes, dir state.Dir) (all []*Snapshot) {
	for _, v := range volumes.Tagged(tag) {
		if isOurs(v) {
			all = append(all, volume{v, dir}.snapshot())
		}
	}
	return all
}

func (v volume) snapshot() *Snapshot {
	s := &Snapshot{
		Path: v.Path(), Origin: "/dev/" + v.VG + "/" + v.Origin, Kind: thick,
		Size: v.Size, Valid: !v.Invalid(), Created: v.Created, holder: v,
	}
	if v.Thin() {
		s.Kind, s.givenUp = thin, lvm.GivenUp(v.Volume)
		s.Valid = !s.givenUp
	} else {
		s.Used = &v.DataUsed
	}
	s.Owner = v.owner()
	if s.Owner.isPoint() {
		s.Point = pointOfTags(v.Tags)
	}
	s.Dead = s.Owner.dead()
	s.foreign = isForeign(v.Tags, v.dir)
	return s
}
