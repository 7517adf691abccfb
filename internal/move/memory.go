package move

import (
	"fmt"
	"os"
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// With its memory the DomU is not shut down but saved, and goes on there: no reboot. It must not go on from one memory
// twice. So as long as the file with it is here, that is the one memory, and whatever is there is of no worth: it is
// restored there and stands still. Then the file here is removed, durably. From that moment on the DomU is the other host's
// and can only go on there. Killed
//
//	when it was  the memory is                        an administrator says
//	stopping     the guest's own, or whole in its file  --undo
//	stopped      here                                 --undo, or --finish
//	asked        here; there it may stand still       --undo, which destroys that first, or --finish
//	back         here, where it may stand still       --undo
//
// and when it was asked and the file is gone, it is there, where it stands still or goes on; any move has it go on.

// checkRoom demands that both hosts have room for the memory. It is looked for again when the memory has come there; by then
// the guest stands still.
func (m *mover) checkRoom() error {
	size, err := m.control.Memory(m.ctx)
	if err != nil {
		return err
	}
	size += margin
	if err := CheckRoom(m.State, m.DomU, size); err != nil {
		return exit.Fail(exit.StatusOf(err), "DomU %s still runs here: %w", m.DomU, err)
	}
	if status, _ := m.there(time.Minute, "xb-locate", "--may", "memory", "--size", fmt.Sprint(size), m.DomU); status != exit.OK {
		return exit.Fail(reached(status), "DomU %s still runs here: Dom0 %s does not take its memory (status %d)", m.DomU, m.To, status)
	}
	return nil
}

// saveMemory saves the DomU. If that fails it goes on, or was never stopped.
func (m *mover) saveMemory() error {
	if err := m.begin(); err != nil {
		return err
	}
	m.say(infoLevel, "## DomU %s: its memory is saved", m.DomU)
	m.onSignalDo(func() {
		m.user.Say(errLevel, fmt.Sprintf("DomU %s: interrupted while its memory is saved, which goes on\n%s", m.DomU, m.record.Choice()))
	})
	if cause := m.control.Save(m.record.File()); cause != nil {
		answer, active, err := m.Locator.Stands(m.ctx, m.DomU)
		if err != nil || !active || answer.IsPaused() { // that stands still: nobody knows whether the file is whole by now
			return m.choose(fmt.Sprintf("its memory cannot be saved: %v; and it does not run here (%s, %v)", cause, answer.String(), err))
		}
		if err = m.record.RemoveFile(); err == nil {
			err = m.record.Forget()
		}
		if err != nil {
			m.say(errLevel, "%v", err)
		}
		return exit.Fail(exit.StatusOf(cause), "%w\nDomU %s still runs here", cause, m.DomU)
	}
	m.off = true
	m.onSignalDo(m.interrupted)
	if err := m.record.Reach(state.MoveStopped); err != nil {
		return m.goOnHere(err)
	}
	return nil
}

// handOverMemory brings disks and memory to the other host, and has the DomU go on there.
func (m *mover) handOverMemory() error {
	if status := m.copy("--final"); status != exit.OK {
		return m.goOnHere(exit.Fail(exit.Partial, "DomU %s: its last copy to %s failed (status %d)", m.DomU, m.To, status))
	}
	if status, err := m.sendMemory(); err != nil || status != exit.OK {
		if err == nil {
			err = exit.Fail(reached(status), "DomU %s: its memory cannot be brought to %s (status %d)", m.DomU, m.To, status)
		}
		m.destroyThere() // nobody was asked to restore it: what is left there does no harm
		return m.goOnHere(err)
	}
	if err := m.setAutostart(false); err != nil {
		return m.goOnHere(err)
	}
	return m.restoreThere()
}

func (m *mover) sendMemory() (status int, err error) {
	f, err := os.Open(m.record.File())
	if err != nil {
		return 0, exit.Fail(exit.IOError, "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, exit.Fail(exit.IOError, "%w", err)
	}
	m.say(infoLevel, "## DomU %s: %d bytes of memory are sent to %s", m.DomU, info.Size(), m.To)
	m.input = f
	defer func() { m.input = nil }()
	status, _ = m.there(copyLimit, m.memoryWords("keep", "--size", fmt.Sprint(info.Size()))...)
	return status, nil
}

// memoryWords are a command about the memory on the other host.
func (m *mover) memoryWords(verb string, more ...string) []string {
	words := append([]string{"xb-locate", "--arrival", verb, "--moving", m.record.ID}, more...)
	return append(words, m.DomU)
}

// restoreThere has the other host restore the DomU, which stands still there, and lets it go on.
func (m *mover) restoreThere() error {
	if err := m.record.Reach(state.MoveAsked); err != nil {
		return m.goOnHere(err)
	}
	m.onSignalDo(m.sayChoice)
	status, _ := m.there(promoteLimit, "xen-failover", "promote", "--restore", m.record.ID, m.DomU)
	if status == exit.OK {
		return m.commit()
	}
	cause := exit.Fail(reached(status), "Dom0 %s did not restore DomU %s (status %d)", m.To, m.DomU, status)
	if !m.destroyThere() {
		return m.choose(fmt.Sprintf("%v, and it cannot be told whether it stands still there", cause))
	}
	return m.goOnHere(cause)
}

// destroyThere has the other host give up what it has of the move; after it nothing of that can go on there.
func (m *mover) destroyThere() bool {
	status, _ := m.there(promoteLimit, m.memoryWords("destroy")...)
	return status == exit.OK
}

// commit makes the DomU the other host's, where it stands still, and has it go on.
func (m *mover) commit() error {
	if err := m.record.RemoveFile(); err != nil {
		return m.choose(err.Error())
	}
	return m.resumeThere()
}

// resumeThere has it go on there: there alone it can.
func (m *mover) resumeThere() error {
	const tries = 3
	var status int
	for i := range tries {
		if status, _ = m.there(time.Minute, m.memoryWords("resume")...); status == exit.OK {
			m.say(infoLevel, "## DomU %s goes on on %s", m.DomU, m.To)
			return m.end()
		}
		if _, answer := m.there(time.Minute, m.memoryWords("tell")...); answer == Kept+"\n" {
			// That host has lost what it had restored, as by a crash, and not the memory. Had the guest gone on since, its disks
			// would tell, and the promote refuse.
			m.there(promoteLimit, "xen-failover", "promote", "--restore", m.record.ID, m.DomU)
		} else if i < tries-1 {
			time.Sleep(m.ConnectTimeout / 5)
		}
	}
	return exit.Fail(exit.Busy, "DomU %[1]s is on %[2]s, with its memory, but it cannot be told whether it goes on there (status %[3]d)\n"+
		"here: xen-failover move %[1]s %[2]s --finish\non %[2]s: xb-locate --arrival resume --moving %[4]s %[1]s", m.DomU, m.To, status,
		m.record.ID)
}

// restoreHere has the DomU go on here, in the same steps: it is restored and stands still; its memory is removed; it goes on.
func (m *mover) restoreHere() error {
	if m.record.Phase == state.MoveAsked { // else it is clear, and after a signal nothing is written any more
		if err := m.record.Reach(state.MoveBack); err != nil {
			return err
		}
	}
	if err := m.control.RestorePaused(m.record.File()); err != nil {
		return err
	}
	return m.goOnRestored()
}

func (m *mover) goOnRestored() error {
	if err := m.record.RemoveFile(); err != nil {
		return err
	}
	if err := m.control.Resume(); err != nil {
		return err
	}
	if err := m.setAutostart(true); err != nil {
		return err
	}
	return m.record.Forget()
}

// decide goes on with a move with memory that was interrupted: back, or there, as an administrator says. Where the memory is
// gone from here there is nothing to decide. It reports whether a new move may begin.
func (m *mover) decide() (again bool, err error) {
	has, err := m.record.HasFile()
	if err != nil {
		return false, err
	}
	answer, active, err := m.Locator.Stands(m.ctx, m.DomU)
	if err != nil {
		return false, err
	}
	m.off = !active
	if !has && m.record.Phase != state.MoveAsked {
		again = active && !m.Undo && !m.Finish
		return again, m.forgetSaved(answer, active)
	}
	return false, m.goOnDecided(answer, active, has)
}

func (m *mover) goOnDecided(answer domain.Answer, active, has bool) error {
	switch phase := m.record.Phase; {
	case !has && active:
		return exit.Fail(exit.Busy, "DomU %[1]s runs here, and is on %[2]s with its memory. To give that up, there: xb-locate --arrival "+
			"destroy --moving %[3]s %[1]s; then here: rm %[4]s", m.DomU, m.To, m.record.ID, strings.TrimSuffix(m.record.File(), ".memory")+".json")
	case !has:
		return m.resumeThere()
	case m.Undo && active && (phase == state.MoveBack || phase == state.MoveStopped) && answer.IsPaused():
		// libvirt lists what it restores as paused, from the first moment on: it may be half restored, or not for much longer.
		if err := m.control.Destroy(); err != nil {
			return err
		}
		return m.undo()
	case m.Undo && active && phase == state.MoveStopping && !answer.IsPaused(): // it was never saved
		if err := m.record.RemoveFile(); err != nil {
			return err
		}
		return m.record.Forget()
	case active:
		return exit.Fail(exit.Busy, "DomU %s is here (%s), and so is memory of it, %s: either that is being saved or restored just now, "+
			"or somebody has started it since, and the file is to be removed", m.DomU, answer.String(), m.record.File())
	case m.Undo:
		if !m.destroyThere() && phase == state.MoveAsked && !m.OtherIsOff {
			return exit.Fail(exit.Busy, "Dom0 %s does not say that DomU %s is not there. Where that is off, and what it has of it is "+
				"removed before it comes back: xen-failover move %s %s --undo --the-other-host-is-off", m.To, m.DomU, m.DomU, m.To)
		}
		return m.undo()
	}
	return m.finish()
}

func (m *mover) undo() error {
	if err := m.restoreHere(); err != nil {
		return err
	}
	m.say(infoLevel, "## DomU %s goes on here", m.DomU)
	return nil
}

// finish goes on with a move whose memory is here.
func (m *mover) finish() error {
	m.onSignalDo(m.sayChoice)
	if m.record.Phase != state.MoveAsked {
		return m.handOverAgain()
	}
	switch status, answer := m.there(time.Minute, m.memoryWords("tell")...); {
	case status != exit.OK:
		return m.choose(fmt.Sprintf("Dom0 %s does not tell how far it has come (status %d)", m.To, status))
	case answer == Paused+"\n":
		return m.commit()
	case answer == Kept+"\n":
		return m.restoreThere()
	case answer == None+"\n":
		return m.handOverMemory()
	case answer == Half+"\n":
		return m.handOverAgain()
	}
	return m.choose(fmt.Sprintf("it runs on %s, as that says", m.To))
}

// handOverAgain hands over what may have come there in part, which would be in the way of the last copy.
func (m *mover) handOverAgain() error {
	if !m.destroyThere() {
		return m.choose("Dom0 " + m.To + " does not give up what it has of the move")
	}
	return m.handOverMemory()
}

// forgetSaved ends what is remembered of a move that has no memory here any more: it came to nothing, or was undone.
func (m *mover) forgetSaved(answer domain.Answer, active bool) error {
	if active && m.record.Phase != state.MoveStopping && answer.IsPaused() {
		err := m.goOnRestored()
		m.record = nil
		return err
	}
	err := m.record.Forget()
	m.record = nil
	if err == nil && !active {
		err = exit.Fail(exit.No, "DomU %s is not active here", m.DomU)
	}
	return err
}
