package snapshot

import (
	"crypto/rand"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// The tags of a logical volume that xb-snap made. Only a snapshot that has both
// and a name as lvm.Order gives it is ever removed.
const (
	tag      = "xen-backup"
	ownerTag = "xen-backup.owner="
)

// A run has an id of eight characters, in the name of each of its snapshots.
func newRunID() string { return strings.ToLower(rand.Text()[:8]) }

var volumeName = regexp.MustCompile(`^xb-.+-[a-z2-7]{8}$`)

// DefaultSize is what a disk's guest is expected to write while it has a snapshot.
const DefaultSize = 1 << 30

// snapshot is one to be taken. The methods are called in this order, each for all
// snapshots before the next one; undo may come after any of them.
type snapshot interface {
	prepare() error // all that need not happen at the moment that counts
	take() error
	finish() error // now it is durable and can be opened
	undo() error
	path() string
}

// Order is what somebody wants of snapshots.
type Order struct {
	Size   int64 // bytes that may be written to a disk while it has a snapshot
	Owner  Owner
	State  state.Dir // where records are kept
	DryRun bool      // take none, and find out whether it could be done
}

// Create takes one of each source, one right after another, and tells their paths. All or
// nothing: none remains if one fails, if nobody could be told, or if a signal comes.
func Create(sources []string, order Order, words Words, tell Tell) error {
	snapshots, err := plan(sources, order.Size, order.Owner, order.State)
	defer closeSources(snapshots)
	if err != nil {
		return err
	}
	if order.DryRun {
		return try(snapshots)
	}
	b := new(batch)
	defer durable.OnSignal(func() {
		if err := b.undo(); err != nil {
			words.Warn("%v", err)
		}
	})()
	span, err := b.takeAll(snapshots)
	if err == nil {
		if slices.ContainsFunc(snapshots, isVolume) && lvm.SeesGuests() {
			words.Warn("LVM looks for volume groups inside of volumes, where a guest may have made one of any name: " +
				"set devices/scan_lvs=0 in lvm.conf")
		}
		err = tell(paths(snapshots)...)
	}
	if err != nil {
		return errors.Join(err, b.undo())
	}
	words.Info("all snapshots taken within %.1f s", span.Seconds())
	return nil
}

// try finds out what only the file systems know: whether their files can share blocks.
func try(snapshots []snapshot) error {
	for _, s := range snapshots {
		if file, is := s.(*fileSnapshot); is {
			if err := file.try(); err != nil {
				return err
			}
		}
	}
	return nil
}

func paths(snapshots []snapshot) (all []string) {
	for _, s := range snapshots {
		all = append(all, s.path())
	}
	return all
}

func closeSources(snapshots []snapshot) {
	for _, s := range snapshots {
		if file, is := s.(*fileSnapshot); is {
			file.source.Close()
		}
	}
}

// plan finds out what each source is and checks all that can be checked. Even with an
// error, the sources of what it returns are open.
func plan(sources []string, size int64, owner Owner, dir state.Dir) ([]snapshot, error) {
	run := newRunID()
	snapshots := make([]snapshot, len(sources))
	rooms := newRooms(size)
	var origins []*lvm.Volume
	var places []int // of the volumes among the sources
	var volumes *lvm.Volumes
	seen := make(map[string]string)
	for i, source := range sources {
		f, err := blockdev.Open(source)
		if err != nil {
			return snapshots, err
		}
		var origin string
		if err := rooms.add(f); err != nil {
			f.Close()
			return snapshots, err
		}
		if f.IsBlock() {
			f.Close()
			if volumes == nil {
				if volumes, err = lvm.List(); err != nil {
					return snapshots, err
				}
			}
			v, err := volumes.Find(source)
			if err != nil {
				return snapshots, err
			}
			origins, places = append(origins, v), append(places, i)
			origin = v.Path()
		} else {
			s, err := newFileSnapshot(f.OS(), run, i, owner, dir)
			if err != nil {
				f.Close()
				return snapshots, err
			}
			snapshots[i] = s
			origin = s.Origin
		}
		if seen[origin] != "" {
			return snapshots, exit.Fail(exit.Usage, "%s and %s are the same disk", seen[origin], source)
		}
		seen[origin] = source
	}
	if err := rooms.check(seen, volumes, dir); err != nil {
		return snapshots, err
	}
	if len(origins) == 0 {
		return snapshots, nil
	}
	orders, err := volumes.Order(origins, size, run, []string{tag, ownerTag + string(owner)})
	if err != nil {
		return snapshots, err
	}
	for i, o := range orders {
		snapshots[places[i]] = volumeSnapshot{o}
	}
	return snapshots, nil
}

// volumeSnapshot is one of a logical volume.
type volumeSnapshot struct{ order *lvm.Order }

func isVolume(s snapshot) bool { _, is := s.(volumeSnapshot); return is }

func (s volumeSnapshot) prepare() error { return nil }
func (s volumeSnapshot) take() error    { return s.order.Create() }
func (s volumeSnapshot) finish() error  { return s.order.WaitForDevice() }
func (s volumeSnapshot) undo() error    { return s.order.Undo() }
func (s volumeSnapshot) path() string   { return s.order.Path() }

// batch is all or nothing, whether a step fails or a signal comes in between.
type batch struct {
	sync.Mutex
	begun  []snapshot
	undone bool
}

// takeAll takes the snapshots and returns the time between the beginning of the
// first one's and the end of the last one's.
func (b *batch) takeAll(snapshots []snapshot) (span time.Duration, err error) {
	for _, s := range snapshots {
		if err := b.step(s, s.prepare); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for _, s := range snapshots {
		if err := b.step(s, s.take); err != nil {
			return 0, err
		}
	}
	span = time.Since(start)
	for _, s := range snapshots {
		if err := b.step(s, s.finish); err != nil {
			return 0, err
		}
	}
	return span, nil
}

// step holds the lock, so that a signal waits for a snapshot that is just being
// taken: else it would appear after everything was undone.
func (b *batch) step(s snapshot, do func() error) error {
	b.Lock()
	defer b.Unlock()
	if b.undone {
		return exit.Fail(exit.Internal, "interrupted")
	}
	if !slices.Contains(b.begun, s) {
		b.begun = append(b.begun, s)
	}
	return do()
}

// undo removes every snapshot that was begun, newest first. It also closes the
// batch.
func (b *batch) undo() error {
	b.Lock()
	defer b.Unlock()
	b.undone = true
	var errs []error
	for i := len(b.begun) - 1; i >= 0; i-- {
		errs = append(errs, b.begun[i].undo())
	}
	b.begun = nil
	return errors.Join(errs...)
}
