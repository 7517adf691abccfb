package standby

import (
	"cmp"
	"slices"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// recoverSet finishes the set that a target has a part in: what is left of it for any disk. A disk that cannot be finished
// stays "applying"; the others are.
func recoverSet(t *target, changed *state.Change) (*rdiff.Delta, error) {
	c := newCommit(t.user, t.Options, changed.Set)
	defer c.close()
	if err := c.reopen(changed, t); err != nil || c.set == nil {
		return nil, err
	}
	if gone, err := c.rollBack(); gone || err != nil {
		return nil, err
	}
	var delta *rdiff.Delta
	err := c.resume()
	for _, m := range c.members {
		if m.identity == t.identity && m.delta.BlockSize > 0 {
			delta = &m.delta
		}
	}
	return delta, c.unfinished(err)
}

// reopen takes the locks of all disks of a change, and reads it again: another run may have finished it. t is the one
// whose path is known to be right.
func (c *commit) reopen(changed *state.Change, t *target) (err error) {
	for i := range changed.Deltas {
		h := &changed.Deltas[i]
		o := c.options
		if o.Target = h.Target; h.Identity == t.identity {
			o.Target = t.Target
		}
		m := c.add(&target{user: c.user, Options: o, identity: h.Identity, device: c.dir.Device(h.Identity, o.Target)})
		m.asHeld(h)
	}
	if err := c.lock(); err != nil {
		return err
	}
	if c.set, err = c.dir.LoadChange(c.id); err != nil {
		return err
	}
	if c.set == nil {
		c.user.Info("%s: another run has finished its set; nothing to recover", t.Target)
		return nil
	}
	for _, m := range c.members {
		if m.before, err = m.device.LoadOwn(); err != nil {
			return err
		}
		m.set, m.held = c.set.SetOf(), c.set.Delta(m.device)
	}
	return nil
}

// rollBack drops the change where one disk has gone on without it and none has reached it: then all are the old images.
func (c *commit) rollBack() (bool, error) {
	left := 0
	for _, m := range c.members {
		names, err := c.set.Names(m.device, m.before)
		if err != nil || m.before.HasReached(m.set) || m.before.IsReaching(m.set) {
			return false, err
		}
		if m.held != nil && !names {
			left++
		}
	}
	if left == 0 {
		return false, nil
	}
	c.user.Warn("set %s is given up, because not all of its disks are what they were: all of them stay the old images", c.id)
	return true, c.dir.RemoveChange(c.id)
}

// resume does what is left to be done.
func (c *commit) resume() error {
	var all failures
	for _, m := range c.members {
		unfinished, err := c.set.Unfinished(m.device)
		all.add(named(m, err))
		if unfinished && m.held != nil {
			c.todo = append(c.todo, m)
		}
	}
	c.begin()
	c.keep(&all, (*apply).reenter)
	c.keep(&all, (*apply).recordMember)
	all.add(c.finish())
	all.add(c.forget())
	return all.err()
}

// keep takes a step of each member, and goes on with those that could.
func (c *commit) keep(all *failures, do func(*apply) error) {
	c.todo = slices.DeleteFunc(c.todo, func(m *apply) bool {
		err := named(m, do(m))
		all.add(err)
		return err != nil
	})
}

// reenter makes a member of a set ready to be finished.
func (a *apply) reenter() error {
	if err := blockdev.Check(a.Target); err != nil && !(a.missing() && a.mayCreate()) {
		return err
	}
	if now, err := blockdev.Identity(a.Target); err != nil || now != a.identity {
		return cmp.Or(err, exit.Fail(exit.NoInput, "%s is another device now: %s, not %s", a.Target, now, a.identity))
	}
	if err := a.enter(); err != nil {
		return err
	}
	if a.before.IsReaching(a.set) {
		return walk(a, resuming)
	}
	return walk(a, retrying)
}

// abandonMember gives up a target alone, and takes it out of its set.
func abandonMember(t *target, changed *state.Change) error {
	c := newCommit(t.user, t.Options, changed.Set)
	defer c.close()
	if err := c.reopen(changed, t); err != nil || c.set == nil {
		return err
	}
	for _, m := range c.members {
		if m.identity == t.identity {
			return c.abandon(m)
		}
	}
	return nil
}

func (c *commit) abandon(m *apply) error {
	unfinished, err := c.set.Unfinished(m.device)
	if err != nil || !unfinished || m.held == nil {
		return err
	}
	spool := m.held.Spool
	c.set.GiveUp(m.device)
	finished, err := c.set.IsFinished(c.dir)
	switch {
	case err != nil:
		return err
	case finished:
		err = c.dir.RemoveChange(c.id)
	default:
		err = c.dir.SaveChange(c.set)
	}
	// From here on it is an apply that has nothing to do with others, or a delta that is held for no set.
	if err == nil && m.before.IsReaching(m.set) {
		err = m.remember(m.mix())
	} else if err == nil {
		c.user.Info("%s: nothing of the set was written to it; it stays the old image", m.Target)
	}
	if err != nil {
		return err
	}
	if spool != "" {
		removeDurably(spool)
	}
	return m.device.Unhold()
}
