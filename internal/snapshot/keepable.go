package snapshot

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// A base is a debt of the guest's storage: until it is removed, each block that the guest rewrites takes a new one. It
// is kept only where that can always be paid, or somebody is there who removes bases in time.

// refusal is why no base is kept: in words, and in one that is the same as long as the reason is.
type refusal struct {
	reason string // "": it was to be expected
	words  string
}

// refusal returns why a snapshot, one of all, is not to be a base; nil if nothing is against it.
func (o *KeepOrder) refusal(s *Snapshot, all []*Snapshot) (*refusal, error) {
	if o.Auto && s.Kind == thick {
		return &refusal{"", "on a thick volume it slows down the guest's first write to each chunk"}, nil
	}
	if slow := slowClonesOf(o.State, s.Origin); s.Kind == file && slow.InARow >= 2 {
		return &refusal{"slow clones", slow.String()}, nil
	}
	room, err := s.room()
	if err != nil || room == nil {
		return nil, err
	}
	if use, what := room.Use(); use > float64(o.Limit) {
		return &refusal{"above the limit", fmt.Sprintf("%s is %.1f %% full, and above %d %% bases give way (POOL_LIMIT)", what, use, o.Limit)}, nil
	}
	if guarded(o.State) {
		return nil, nil
	}
	if s.Kind == file && len(room.Below) > 0 { // where volumes take from, too
		found, err := taken(o.State)
		if err != nil {
			return nil, err
		}
		all = found.all
	}
	return o.tooLittleRoom(s, room, all)
}

// tooLittleRoom refuses where the disks with bases could take more than there is: every block of each of them once.
func (o *KeepOrder) tooLittleRoom(s *Snapshot, room *blockdev.Room, all []*Snapshot) (*refusal, error) {
	for _, part := range append(room.Below, room) {
		var counted []string
		need := int64(0)
		for _, other := range all {
			if other.Path != s.Path && !other.Owner.isBase() || slices.Contains(counted, other.Origin) || !other.liesIn(part) {
				continue
			}
			size, err := blockdev.Size(other.Origin)
			if err != nil && other.Path == s.Path {
				return nil, err
			}
			counted, need = append(counted, other.Origin), need+size
		}
		if part.Takes() <= need {
			has := "only %s free"
			if part.Takes() < part.Free { // who looks at what is free in the pool would not believe it
				has = "metadata for only %s more"
			}
			return &refusal{"no room", fmt.Sprintf("%s has "+has+", and with bases its guests may take %s: make room there, or have "+
				"\"xb-snap guard --bases --once\" run every minute, which removes bases in time", part.Name,
				text.FormatSize(part.Takes()), text.FormatSize(need))}, nil
		}
	}
	return nil, nil
}

// liesIn reports whether a snapshot takes from a room.
func (s *Snapshot) liesIn(part *blockdev.Room) bool {
	room, err := s.room()
	return err == nil && room != nil &&
		slices.ContainsFunc(append(room.Below, room), func(r *blockdev.Room) bool { return r.ID == part.ID })
}

// runDir is emptied by a boot.
var runDir = "/run"

// guardStamp is a file that is as old as the last look of a guard at all bases of a state directory.
func guardStamp(dir state.Dir) string {
	return filepath.Join(runDir, fmt.Sprintf("xb-snap-guard.%.8x", sha256.Sum256([]byte(absolute(dir)))))
}

// guardInterval is how old the stamp may be: a guard that runs every minute may be late once.
const guardInterval = 3 * time.Minute

// guarded reports whether bases are looked after.
func guarded(dir state.Dir) bool {
	info, err := os.Lstat(guardStamp(dir))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	age := time.Since(info.ModTime())
	return 0 <= age && age < guardInterval
}

func renewStamp(dir state.Dir) error {
	p, err := durable.CreatePending(guardStamp(dir))
	if err == nil {
		err = p.Commit()
	}
	if err != nil {
		return exit.Fail(exit.CantCreate, "nobody is told that bases are looked after: %w", err)
	}
	return nil
}
