// Package snapshot takes snapshots of logical volumes, thick or thin, and of files on a
// file system with reflinks, and takes them away again.
//
// What it promises:
//
//   - Snapshots of several disks are taken all or none, whether a step fails or a signal
//     comes in between (batch).
//   - Each has an owner. It is a leftover when that is dead, and not before (Owner).
//   - Nothing is ever removed or emptied that this package has not made: a volume has two
//     tags and a name of ours, a file has a record in the state directory.
//   - No snapshot stops a guest. None is taken where the guests' writes might find no room
//     (demand), and the guard gives one up before they do.
//
// Files and volumes differ in what holds them (holder) and in how they come to be (member),
// and nowhere else.
package snapshot

import (
	"fmt"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/text"
)

// Words are for the user.
type Words interface {
	Warn(format string, args ...any)
	Info(format string, args ...any)
}

// Stillness is what keeps a guest from writing while its snapshots are taken.
type Stillness interface {
	Check() error // whether it could begin
	Begin() error
	// End lets the guest go on. An error says that the snapshots are not what was wanted.
	End() error
}

// restless lets guests write.
type restless struct{}

func (restless) Check() error { return nil }
func (restless) Begin() error { return nil }
func (restless) End() error   { return nil }

// Tell hands over the paths of snapshots, of which the user must know. An error says that
// nobody was told.
type Tell func(paths ...string) error

// Kinds of snapshots.
const (
	thick = "thick" // a logical volume with an exception store of its own
	thin  = "thin"  // a thin volume
	file  = "file"  // a reflink copy
)

// Snapshot is one that xb-snap took. Its fields are what list shows.
type Snapshot struct {
	Path    string    `json:"snapshot"`
	Origin  string    `json:"origin"`
	Kind    string    `json:"kind"`                   // thick, thin or file
	Size    int64     `json:"size"`                   // bytes: of a thick one what it may take, else of its image
	Used    *float64  `json:"used_percent,omitempty"` // of Size, of a thick one
	Valid   bool      `json:"valid"`
	Owner   Owner     `json:"owner"`
	Dead    bool      `json:"owner_dead"`
	Created time.Time `json:"created"`
	Peers   []string  `json:"peers,omitempty"` // whose base it is
	Point   *Point    `json:"point,omitempty"` // of what, if it is a point in time of a standby

	// Of files:
	CloneSeconds float64 `json:"clone_seconds,omitempty"` // how long the guest's writes may have waited for it
	Extents      int64   `json:"extents,omitempty"`       // that it had then; 0: not known

	holder
	givenUp bool
	foreign bool // another host, or state directory, has it: it is not ours to say that nobody needs it
}

// holder is what holds a snapshot's image: a file, or a volume. That a snapshot is gone
// already is an error with status NoInput.
type holder interface {
	remove() error
	// giveUp takes the image away, so that its room is free at once though somebody reads
	// it. What is left says so to everybody, and is still to be removed.
	giveUp() error
	// room returns what it shares with guests; nil if that is nothing, and then it is never
	// given up.
	room() (*blockdev.Room, error)
	// origin returns what it is a snapshot of, whatever that is called, once it is certain that it still is what was
	// taken.
	origin() (string, error)
	setOwner(Owner) error
}

// sharesRoom reports whether the snapshot takes room that guests could need.
func (s *Snapshot) sharesRoom() bool { return s.Kind != thick }

// String returns the line that list prints of it.
func (s *Snapshot) String() string {
	use := "-"
	switch {
	case s.givenUp:
		use = "given up"
	case !s.Valid:
		use = "invalid"
	case s.Used != nil:
		use = fmt.Sprintf("%.1f %%", *s.Used)
	}
	owner := s.Owner.String()
	if len(s.Peers) > 0 {
		owner = "base of " + strings.Join(s.Peers, ", ")
	}
	if s.foreign {
		owner += " of another host or state directory"
	}
	if s.Point != nil {
		owner = "point of " + s.Point.Taken.UTC().Format(time.RFC3339)
	}
	return strings.Join([]string{s.Path, s.Origin, s.Kind, text.FormatSize(s.Size), use, owner}, "\t")
}
