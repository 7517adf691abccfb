package standby

import (
	"cmp"
	"slices"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
)

// recoverSet finishes the set that a target has a part in: what is left of it for any disk.
func recoverSet(t *target, changed *state.Change) (*rdiff.Delta, error) {
	c := reopenCommit(t, changed)
	defer c.close()
	defer durable.OnSignal(c.interrupted)()
	err := c.walk(recovering)
	if m := c.member(t); m != nil && m.delta.BlockSize > 0 {
		return &m.delta, err
	}
	return nil, err
}

// reopenCommit returns the commit that has made a change. t is the one of its targets whose path is known to be right.
func reopenCommit(t *target, changed *state.Change) *commit {
	c := newCommit(t.user, t.Options, changed.Set)
	for i := range changed.Deltas {
		h := &changed.Deltas[i]
		o := c.options
		if o.Target = h.Target; h.Identity == t.identity {
			o.Target = t.Target
		}
		m := c.add(&target{user: c.user, Options: o, identity: h.Identity, device: c.dir.Device(h.Identity, o.Target)})
		m.asHeld(h)
	}
	return c
}

// member returns the member of the commit that a target is; nil if it is none.
func (c *commit) member(t *target) *apply {
	for _, m := range c.members {
		if m.identity == t.identity {
			return m
		}
	}
	return nil
}

// reload reads the change again, now that nobody else can do anything about it, and what is remembered of its disks.
func (c *commit) reload() (err error) {
	if c.set, err = c.dir.LoadChange(c.id); err != nil {
		return err
	}
	if c.set == nil {
		c.user.Info("set %s: another run has finished it", c.id)
		c.done = true
		return nil
	}
	for _, m := range c.members {
		if m.before, err = m.device.LoadOwn(); err != nil {
			return err
		}
		m.set, m.held = c.set.SetOf(), c.set.Delta(m.device)
		unfinished, err := c.set.Unfinished(m.device)
		if err != nil {
			return err
		}
		if unfinished && m.held != nil {
			c.todo = append(c.todo, m)
		}
	}
	return nil
}

// judge drops the change where one disk has gone on without it and none has reached it: then all are the old images, and
// stay so.
func (c *commit) judge() error {
	left := false
	for _, m := range c.members {
		names, err := c.set.Names(m.device, m.before)
		if err != nil || m.before.HasReached(m.set) || m.before.IsReaching(m.set) {
			return err
		}
		left = left || m.held != nil && !names
	}
	if !left {
		return nil
	}
	c.user.Warn("set %s is given up, because one of its disks has got another image meanwhile: none of them gets a new one by it", c.id)
	c.done = true
	return c.dir.RemoveChange(c.id)
}

// reenterAll makes ready what can be finished.
func (c *commit) reenterAll() error {
	c.begin()
	c.try((*apply).reenter)
	return nil
}

// recordAgain is record, of those that it had not come to.
func (c *commit) recordAgain() error {
	c.try((*apply).recordMember)
	return nil
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
	c := reopenCommit(t, changed)
	defer c.close()
	if err := walk(c, recovering[:2]); err != nil || c.done {
		return err
	}
	if m := c.member(t); slices.Contains(c.todo, m) {
		return c.abandon(m)
	}
	return nil
}

func (c *commit) abandon(m *apply) error {
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
		c.user.Info("%s: it is out of set %s, and stays what it was: %s", m.Target, c.id, m.before.Phase)
	}
	if err != nil {
		return err
	}
	if spool != "" {
		removeDurably(spool)
	}
	return m.device.Unhold()
}
