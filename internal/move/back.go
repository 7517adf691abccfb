package move

import (
	"fmt"

	"xen-backup/internal/exit"
)

// What a move does that has failed or was interrupted: it has the DomU go on here, or leaves the choice to an administrator.

// goOnHere starts the DomU here again after something has failed, unless it may run elsewhere since a move that was
// killed.
func (m *mover) goOnHere(cause error) error {
	m.onSignalDo(func() {
		m.user.Say(errLevel, fmt.Sprintf("interrupted: DomU %s was about to run here again; if it does not: %s", m.DomU, m.startCommand()))
	})
	if m.doubt {
		m.say(errLevel, "%v", cause)
		return m.choose(fmt.Sprintf("a move was interrupted when %s was to start it, which may still be under way", m.To))
	}
	if active, failed := m.Locator.IsActive(m.ctx, m.DomU); failed == nil && active && !m.record.Memory {
		if failed := m.record.Forget(); failed != nil {
			m.say(errLevel, "%v", failed)
		}
		return exit.Fail(exit.StatusOf(cause), "%w\nDomU %s still runs here", cause, m.DomU)
	}
	if failed := m.startHere(); failed != nil {
		return exit.Fail(exit.StatusOf(cause), "%w\nDomU %s does not run, and does not start here again: %w; mend that, then: %s", cause,
			m.DomU, failed, m.startCommand())
	}
	return exit.Fail(exit.StatusOf(cause), "%w\nDomU %s runs here again", cause, m.DomU)
}

func (m *mover) startHere() error {
	if m.record.Memory {
		return m.restoreHere()
	}
	err := m.control.Start()
	if err == nil {
		err = m.setAutostart(true)
	}
	if err == nil {
		err = m.record.Forget()
	}
	return err
}

// startCommand is what an administrator types to have it run here.
func (m *mover) startCommand() string {
	if m.record.Memory {
		return fmt.Sprintf("xen-failover move %s %s --undo", m.DomU, m.To)
	}
	return m.control.StartCommand()
}

// setAutostart takes from libvirt that it starts the DomU when this host is booted, or gives it back: its disks are old
// here by then.
func (m *mover) setAutostart(on bool) error {
	if !m.record.Autostart {
		return nil
	}
	return m.control.SetAutostart(on)
}

// choose leaves it to an administrator.
func (m *mover) choose(why string) error {
	return exit.Fail(exit.Busy, "DomU %s: %s. It does not run here. One of both:\n%s", m.DomU, why, m.choice())
}

func (m *mover) choice() string {
	if m.record.Memory {
		return m.record.Choice()
	}
	return fmt.Sprintf("on %s, if it does not run there yet: xen-failover promote %s\n"+
		"here, if it certainly does not run there and nobody starts it: %s", m.To, m.DomU, m.control.StartCommand())
}

// interrupted is what a signal leaves to do before anybody else was asked to start the DomU.
func (m *mover) interrupted() {
	if !m.off { // nobody can be asked any more whether it is by now
		m.user.Say(warningLevel, fmt.Sprintf("## interrupted: DomU %s was asked to shut down here, and may do so", m.DomU))
	} else if m.doubt {
		m.sayChoice()
	} else if failed := m.startHere(); failed != nil {
		m.user.Say(errLevel, fmt.Sprintf("DomU %s does not run, and does not start here again: %v: %s", m.DomU, failed,
			m.startCommand()))
	} else {
		m.user.Say(infoLevel, fmt.Sprintf("## interrupted: DomU %s runs here again", m.DomU))
	}
}

func (m *mover) sayChoice() {
	m.user.Say(errLevel, fmt.Sprintf("DomU %s: interrupted when %s was to start it. One of both:\n%s", m.DomU, m.To, m.choice()))
}
