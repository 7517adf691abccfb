package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Guard watches the rooms in which an owner has snapshots and gives snapshots up
// before guests find none, until the owner is gone. It tells the paths of those that
// it gives up or removes.
func Guard(owner Owner, dir state.Dir, words Words, tell Tell) error {
	if owner == nobody {
		return exit.Fail(exit.Usage, "guard needs a process as owner: it ends with it")
	}
	g := &guardian{
		words: words, tell: tell, owner: owner, dir: dir,
		posts: make(map[string]*post), said: make(map[string]bool),
	}
	g.volumes.dir = dir
	// A signal waits for what is being given up: half of it helps nobody.
	defer durable.OnSignal(g.giving.Lock)()
	for !owner.dead() {
		before := g.trace()
		g.find()
		g.wait(before)
	}
	return g.leave()
}

// wait waits for a second, or until there may be another snapshot: a fast guest would
// have a second's start else.
func (g *guardian) wait(before string) {
	const often = 50 * time.Millisecond
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(often) {
		if now := g.trace(); now != before {
			return
		}
	}
}

// trace changes with what may be a new snapshot: a record, or a device.
func (g *guardian) trace() string {
	records, _ := os.ReadDir(recordDir(g.dir))
	devices, _ := os.ReadDir("/sys/block")
	return fmt.Sprint(records, devices)
}

// guardian is a guard at work.
type guardian struct {
	words Words
	tell  Tell
	owner Owner
	dir   state.Dir

	volumes volumeWatch
	posts   map[string]*post // by the room's ID
	giving  sync.RWMutex     // held for reading while a snapshot is being given up

	mutex sync.Mutex // of what follows
	said  map[string]bool
}

// sayOnce says what can't be done.
func (g *guardian) sayOnce(format string, args ...any) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if message := fmt.Sprintf(format, args...); !g.said[message] {
		g.said[message] = true
		g.words.Warn("%s", message)
	}
}

// find looks for the rooms in which the owner has snapshots, and has each of them
// watched. All snapshots there may be given up, but for those of others that live.
func (g *guardian) find() {
	files, err := takenFiles(g.dir)
	if err != nil {
		g.sayOnce("not all snapshots can be watched: %v", err)
	}
	files.warnOfDamaged(g.sayOnce)
	volumes, err := g.volumes.list()
	if err != nil {
		g.sayOnce("not all snapshots can be watched: %v", err)
	}
	found := make(map[string]*watched)
	for _, s := range slices.Concat(files.all, volumes) {
		if s.Valid && (s.Owner == g.owner || s.Owner == nobody || s.Owner.isBase() || s.Owner.isPoint() || s.Owner.dead()) {
			g.addTo(found, s)
		}
	}
	g.post(found)
}

// addTo adds a snapshot to the ones that are watched with its room.
func (g *guardian) addTo(found map[string]*watched, s *Snapshot) {
	room, err := s.room()
	switch {
	// Removed just now; device-mapper says of a device that has gone since it was found: ENXIO.
	case exit.StatusOf(err) == exit.NoInput || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO):
		return
	case err != nil:
		g.sayOnce("snapshot %s can't be watched: %v", s.Path, err)
		return
	case room == nil:
		return
	}
	w := found[room.ID]
	if w == nil {
		w = new(watched)
		found[room.ID] = w
	}
	w.room, w.snapshots, w.own = room, append(w.snapshots, s), w.own || s.Owner == g.owner
}

// watched is a room, and the snapshots in it that may be given up.
type watched struct {
	room      *blockdev.Room
	snapshots []*Snapshot
	own       bool // one of them is the owner's
}

// post has the rooms watched in which the owner has snapshots, or had some, as long as any can
// be given up there: that the owner's are given up helps no guest while others hold the same
// bytes.
func (g *guardian) post(found map[string]*watched) {
	for id, p := range g.posts {
		if found[id] == nil {
			p.Store(nil)
			delete(g.posts, id)
		}
	}
	for id, w := range found {
		p := g.posts[id]
		switch {
		case p != nil:
			p.Store(w)
		case w.own:
			p = new(post)
			p.Store(w)
			g.posts[id] = p
			go g.watch(p)
		}
	}
}

// post is where a room is watched; nil ends that.
type post struct{ atomic.Pointer[watched] }

// A room is looked at once a second, and more often the nearer its floor is: not even
// at 2 GiB/s does anybody get far below it unseen.
const (
	fastest  = 2 << 30 // bytes a second
	shortest = 20 * time.Millisecond
)

func pause(margin int64) time.Duration {
	seconds := min(1, float64(margin)/fastest)
	return max(shortest, time.Duration(seconds*float64(time.Second)))
}

// watch watches a room until its post is given up.
func (g *guardian) watch(p *post) {
	for w := p.Load(); w != nil; w = p.Load() {
		err := w.room.Update()
		switch {
		case errors.Is(err, fs.ErrNotExist): // by this name: there is another room in a moment
			time.Sleep(shortest)
		case err != nil:
			g.sayOnce("cannot watch %s: %v", w.room.Name, err)
			time.Sleep(time.Second)
		case w.room.Margin() > 0 || !g.giveUpOne(w):
			time.Sleep(pause(w.room.Margin()))
		}
	}
}

// giveUpOne gives up the snapshot that is missed the least, and reports whether it could.
func (g *guardian) giveUpOne(w *watched) bool {
	var order [missedMost + 1][]*Snapshot
	oldestFirst := func(a, b *Snapshot) int { return a.Created.Compare(b.Created) }
	for _, s := range slices.SortedStableFunc(slices.Values(w.snapshots), oldestFirst) {
		how := g.missed(s)
		order[how] = append(order[how], s)
	}
	for _, s := range slices.Concat(order[:]...) {
		if g.giveUp(s, w.room) {
			return true
		}
	}
	return false
}

const missedMost = 5

// missed returns how much a snapshot is missed: a leftover, a base, without which the next run reads all, one that waits
// for its turn, one that is being read, a point in time, which nobody can make again, and one that somebody wanted to keep.
func (g *guardian) missed(s *Snapshot) int {
	switch {
	case s.Owner == nobody:
		return missedMost
	case s.Owner.isBase():
		return 1
	case s.Owner.isPoint():
		return 4
	case s.Owner != g.owner:
		return 0
	}
	if open, err := inuse.IsOpen(s.Path); open && err == nil {
		return 3
	}
	return 2
}

// lack says what there is too little of.
func lack(r *blockdev.Room) string {
	r = r.Tightest()
	if r.Free > r.Floor() {
		return fmt.Sprintf("%s has only %s of its metadata free", r.Name, text.FormatSize(r.MetaFree))
	}
	return fmt.Sprintf("%s has only %s free", r.Name, text.FormatSize(r.Free))
}

func (g *guardian) giveUp(s *Snapshot, room *blockdev.Room) bool {
	g.giving.RLock()
	defer g.giving.RUnlock()
	full := lack(room)
	err := s.giveUp()
	switch {
	case exit.StatusOf(err) == exit.NoInput: // it is gone already
	case err != nil:
		g.sayOnce("cannot give up snapshot %s: %v", s.Path, err)
	default:
		g.words.Warn("snapshot %s given up: %s, which the guests need", s.Path, full)
		g.tell(s.Path) // whether or not it is read, the watch goes on
	}
	return err == nil
}

// leave removes what the owner has left: nobody would watch it any more. If the owner
// was killed there may be readers that go on, but nobody will hear of their success.
func (g *guardian) leave() error {
	found, err := taken(g.dir)
	errs := []error{err}
	for _, s := range found.all {
		if s.Owner == g.owner && s.sharesRoom() {
			errs = append(errs, g.removeLeft(s))
		}
	}
	return errors.Join(errs...)
}

func (g *guardian) removeLeft(s *Snapshot) error {
	g.giving.RLock()
	defer g.giving.RUnlock()
	if err := s.giveUp(); err != nil && exit.StatusOf(err) != exit.NoInput {
		return err
	}
	err := s.remove()
	if exit.StatusOf(err) == exit.NoInput { // somebody else was quicker
		return nil
	}
	if err == nil {
		g.words.Warn("snapshot %s removed: its owner is gone", s.Path)
		err = g.tell(s.Path)
	}
	return err
}
