package standby

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// commit makes the disks of a set the new images, all of them or none: see the lists of steps. One file, the change of
// the set, is made by a rename; SQLite commits a transaction over several files in the same way, by removing one (its
// super-journal). Before it nothing of any target is touched, after it each delta is on this host, proved, and is
// applied, whatever interrupts that.
type commit struct {
	user    User
	options Options
	id      string
	dir     state.Dir
	set     *state.Change
	members []*apply
	todo    []*apply // those of them for which something is to be done
	failed  failures // what is not done
	points  pointing // what was made of what was there
	done    bool     // there is nothing to do (any more)
}

// Commit makes the targets that are held for a set the new images together, and returns their deltas.
func Commit(user User, o Options, id string, targets []string) ([]rdiff.Delta, error) {
	c := newCommit(user, o, id)
	defer c.close()
	o.Managed = true
	for _, path := range targets {
		o.Target, o.Create = path, true
		t, err := find(user, o)
		if err != nil {
			return nil, err
		}
		for _, m := range c.members {
			if m.identity == t.identity {
				return nil, exit.Fail(exit.Usage, "%s and %s are the same", m.Target, path)
			}
		}
		c.add(t)
	}
	c.todo = c.members
	defer durable.OnSignal(c.interrupted)()
	if err := c.walk(committing); err != nil || c.done {
		return nil, err
	}
	c.points.prune()
	var deltas []rdiff.Delta
	for _, m := range c.members {
		deltas = append(deltas, m.delta)
	}
	return deltas, nil
}

// walk takes one step after another, as long as there is something to do.
func (c *commit) walk(steps []step[*commit]) error {
	for _, s := range steps {
		if err := s.do(c); err != nil {
			return c.unfinished(err)
		}
		if c.done {
			return nil
		}
	}
	return c.unfinished(c.failed.err())
}

func newCommit(user User, o Options, id string) *commit {
	return &commit{user: user, options: o, id: id, dir: state.Dir(o.StateDir)}
}

func (c *commit) add(t *target) *apply {
	m := &apply{change: &change{target: t}}
	c.members = append(c.members, m)
	return m
}

func (c *commit) close() {
	for _, m := range c.members {
		m.close()
		m.target.close()
	}
}

// each takes a step of each member, up to the first error, and says whose it is.
func (c *commit) each(do func(*apply) error) error {
	for _, m := range c.todo {
		if err := do(m); err != nil {
			return named(m, err)
		}
	}
	return nil
}

// named adds to an error the disk that it is of.
func named(m *apply, err error) error {
	if err == nil || m.Disk == "" {
		return err
	}
	return exit.Fail(exit.StatusOf(err), "%s: %w", m.Disk, err)
}

// lock takes all locks.
func (c *commit) lock() error {
	var devices []*state.Device
	for _, m := range c.members {
		devices = append(devices, m.device)
	}
	locks, err := state.LockAll(devices, state.Run{Peer: c.options.Peer, Session: c.options.Session})
	for _, m := range c.members {
		if m.lock = locks[m.device]; m.lock != nil && m.lock.Ended != "" {
			c.user.Warn("%s: ended %s", m.Target, m.lock.Ended)
		}
	}
	return err
}

// check demands that each target is held for the set, and that its delta may be applied; or, of one that has the
// image of the set already, that it still has it.
func (c *commit) check() error {
	finished := 0
	for _, m := range c.members {
		if err := c.take(m); err != nil {
			return named(m, err)
		}
	}
	set := c.whole()
	for _, m := range c.members {
		// One that has the image of the set may be held for it once more, where that has proved wrong.
		if m.set = set; m.before.HasReached(set) && m.before.Image == m.held.Source {
			finished++
		}
	}
	c.begin()
	if c.done = finished == len(c.members); c.done {
		return nil
	}
	return c.each((*apply).readyToChange)
}

// take finds out what is to become of a member.
func (c *commit) take(m *apply) (err error) {
	if m.before, err = m.device.Load(); err != nil {
		return err
	}
	if m.before.Phase == state.Applying {
		return m.checkRecord()
	}
	if m.held, err = m.device.Held(); err != nil {
		return err
	}
	if m.held == nil || m.held.Set != c.id {
		if m.held, err = m.there(c.id); err != nil {
			return err
		}
	}
	if m.held == nil || m.held.Peer != c.options.Peer {
		return exit.Fail(exit.Busy, "%s: nothing is held for it of set %s from %s (any more): "+
			"another run has come between; copy again", m.Target, c.id, c.options.Peer)
	}
	m.asHeld(m.held)
	if first := c.members[0].held; !m.held.Taken.Equal(first.Taken) {
		return exit.Fail(exit.Busy, "%s: its snapshot was taken at %s, and that of %s at %s: copy again",
			m.Target, m.held.Taken.Format(time.RFC3339), first.Disk, first.Taken.Format(time.RFC3339))
	}
	return nil
}

// there returns what is as good as held: the target has the image of the set already, by a first copy in place.
func (a *apply) there(set string) (*state.Held, error) {
	r := a.before
	if r.Phase != state.Clean || r.Set == nil || r.Set.ID != set {
		return nil, nil
	}
	path, err := filepath.Abs(a.Target)
	return &state.Held{Set: set, Taken: r.Set.Taken, Peer: r.Peer, Disk: r.Disk, UUID: r.UUID, Identity: r.Identity, Target: path,
		Basis: r.Image, Source: r.Image, Phase: r.Phase, Before: r.Image, Witness: r.Witness, Toolstack: a.Toolstack}, err
}

// whole returns the set with all of its members.
func (c *commit) whole() *state.Set {
	set := &state.Set{ID: c.id, Taken: c.members[0].held.Taken}
	for _, m := range c.members {
		set.Members = append(set.Members, state.Member{Disk: m.Disk, Identity: m.identity})
	}
	slices.SortFunc(set.Members, func(a, b state.Member) int { return strings.Compare(a.Disk, b.Disk) })
	return set
}

// begin shows the members to the user.
func (c *commit) begin() {
	var moved []func() bool
	for _, m := range c.todo {
		moved = append(moved, m.movement())
	}
	progress := c.user.Begin(func() (any bool) {
		for _, m := range moved {
			any = m() || any
		}
		return any
	})
	promised := newPromises()
	for _, m := range c.todo {
		m.progress, m.promised = progress, promised
	}
}

// readyToChange opens a member's target, and proves that its delta may be applied.
func (a *apply) readyToChange() error {
	if err := a.enter(); err != nil {
		return err
	}
	return walk(a, proving)
}

// enter opens the target, if it exists, and demands that it is this disk's standby.
func (a *apply) enter() error {
	if !a.missing() {
		if err := a.openFile(); err != nil {
			return err
		}
	}
	return a.checkOwner()
}

// prepare takes the last steps before the first write of any target. An error takes all of them back.
func (c *commit) prepare() error {
	if err := c.checkApart(); err != nil {
		return c.points.takeBack(err)
	}
	// Whoever finds it so from here on can finish it: it goes on whether anybody still listens or not.
	c.user.Commit()
	if err := c.each(func(m *apply) error { return walk(m, preparing) }); err != nil {
		return c.takeBack(err)
	}
	return nil
}

// checkApart demands that no two members are one file or device by two names.
func (c *commit) checkApart() error {
	for i, m := range c.members {
		for _, o := range c.members[:i] {
			if m.file != nil && o.file != nil && (m.file.Is(o.Target) || m.file.LiesOn(o.Target) || o.file.LiesOn(m.Target)) {
				return exit.Fail(exit.NotBasis, "%s, held for %s, is the same as %s, held for %s\nnothing was written; "+
					"give one of them another place", m.Target, m.Disk, o.Target, o.Disk)
			}
		}
	}
	return nil
}

func (c *commit) takeBack(err error) error {
	for _, m := range c.members {
		err = m.leave(err)
	}
	return c.points.takeBack(err)
}

// point makes a point in time of all disks together, as they are before they become the new ones.
func (c *commit) point() (err error) {
	c.points, err = pointOf(c.members)
	return err
}

// change is the moment at which the DomU becomes the new one.
func (c *commit) change() error {
	set := &state.Change{Peer: c.options.Peer, SetFields: state.SetFields{Set: c.id, Taken: c.members[0].set.Taken,
		Members: c.members[0].set.Members}}
	for _, m := range c.members {
		set.Deltas = append(set.Deltas, *m.held)
	}
	err := c.dir.SaveChange(set)
	if err == nil {
		c.set = set
		return nil
	}
	// Where only its directory could not be synced, it is there all the same.
	if found, loadErr := c.dir.LoadChange(c.id); found == nil && loadErr == nil {
		return c.takeBack(err)
	}
	c.set = set
	return err
}

// record has the state of each member say "applying", before the first byte of any is written: what does not know
// of sets must not take one for the old image.
func (c *commit) record() error {
	return c.each((*apply).recordMember)
}

func (a *apply) recordMember() error {
	if a.spool == nil || a.before.IsReaching(a.set) {
		return nil
	}
	return a.record()
}

// finish takes each member to its end. What one can't reach is no reason to leave the others behind.
func (c *commit) finish() error {
	c.try((*apply).finish)
	return nil
}

// try takes a step of each member, and goes on with those that could.
func (c *commit) try(do func(*apply) error) {
	var able []*apply
	for _, m := range c.todo {
		if err := do(m); err != nil {
			c.failed = append(c.failed, named(m, err))
		} else {
			able = append(able, m)
		}
	}
	c.todo = able
}

func (a *apply) finish() error {
	if a.spool != nil {
		return walk(a, finishing)
	}
	if err := a.setClean(); err != nil {
		return err
	}
	return a.removeSpool()
}

// forget removes the change when nothing is to be done by it any more.
func (c *commit) forget() error {
	finished, err := c.set.IsFinished(c.dir)
	if err == nil && finished {
		err = c.dir.RemoveChange(c.id)
	}
	return err
}

// interrupted says what is left to do when a signal ends the run.
func (c *commit) interrupted() {
	err := errors.New("interrupted")
	if cured := c.unfinished(err); cured != err {
		c.user.Warn("%v", cured)
	}
}

// unfinished adds to an error that there are disks which are neither the old image nor the new one, and the cure.
func (c *commit) unfinished(err error) error {
	if changed, loadErr := c.dir.LoadChange(c.id); err == nil || changed == nil && loadErr == nil {
		return err
	}
	for _, m := range c.members {
		if m.phase() == state.Applying {
			return exit.Fail(exit.StatusOf(err), "%w\nthe disks of set %s may be neither the old images nor the new ones now; "+
				"finish them with: xb-patch --recover %s", err, c.id, text.Operand(m.Target))
		}
	}
	return err
}

// failures are errors of several disks: the first one's status is that of all.
type failures []error

func (f failures) err() error {
	if len(f) == 0 {
		return nil
	}
	return exit.Fail(exit.StatusOf(f[0]), "%w", errors.Join(f...))
}
