// Package move has a DomU go on on another Dom0, by a command on the one where it runs. It never runs twice, and is not
// left stopped: until the other Dom0 was asked to start it, whatever fails has it start here again; after that it is
// started here only if that Dom0 has said that it does not run there. Where that cannot be told both stay stopped, and an
// administrator has two commands to choose from.
//
// How far it has come is written down before each step (see state.Move). Killed
//
//	before          the DomU            the next move
//	stopping        runs here           begins anew
//	stopped         may be shut off     if it runs, begins anew; else copies and goes on
//	asked           is shut off here    copies and goes on
//	it has started  may run there       if it runs there: it is done; else copies and goes on, but starts it here no more
package move

import (
	"context"
	"fmt"
	"os"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Options are what a move is told.
type Options struct {
	DomU, To       string
	State          state.Dir
	Locator        *domain.Locator
	URI            string        // libvirt's
	Config         string        // xl's configuration file of the DomU; "": the usual one
	ConnectTimeout time.Duration // until the other Dom0 answers
	Patience       time.Duration // until the DomU has shut down

	Memory       bool // it is not shut down: its memory goes with it
	Undo, Finish bool // a move with memory that was interrupted
	OtherIsOff   bool // with Undo: the other Dom0 cannot be asked, and need not be
}

// User takes what is to be said, a line each, with its level: err, warning or info.
type User interface{ Say(level, text string) }

var nameForm = text.Pattern(`^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$`)

// mover is one move.
type mover struct {
	Options
	ctx     context.Context
	user    User
	control *domain.Control
	record  *state.Move
	next    *state.Move // that of the move that begins

	toolstack string // by which it runs
	through   bool   // the other Dom0 lets us start it there
	doubt     bool   // it may be on its way there since a move that was killed
	off       bool   // it is shut off here, or saved

	input *os.File // for the next program

	onSignal func() // takes back what a signal has us do
}

// onSignalDo says what a signal has us do from now on. If one has come it does not return: what that has us do is being
// done, and must not be done twice.
func (m *mover) onSignalDo(f func()) {
	before := m.onSignal
	m.onSignal = durable.OnSignal(f)
	before()
	durable.Wait()
}

// Move has the DomU run on the other Dom0: shut off here, copied for a last time, started there. Where that is for
// somebody to type there, it says so.
func Move(ctx context.Context, o Options, user User) error {
	for _, name := range []string{o.DomU, o.To} {
		if !nameForm().MatchString(name) {
			return exit.Fail(exit.Usage, "bad name: %q", name)
		}
	}
	release, err := o.State.LockMove(o.DomU)
	if err != nil {
		return err
	}
	defer release()
	m := &mover{Options: o, ctx: ctx, user: user, onSignal: func() {}, next: o.State.NewMove(o.DomU, o.To)}
	defer func() { m.onSignal() }()
	if err := m.remember(); err != nil {
		return err
	}
	if m.record != nil && m.record.Memory {
		if again, err := m.decide(); err != nil || !again {
			return err
		}
	} else if o.Undo || o.Finish {
		return exit.Fail(exit.No, "there is no move of DomU %s with its memory that was interrupted", o.DomU)
	}
	found, err := m.look()
	if err != nil {
		return err
	}
	if err := m.askLeave(); err != nil {
		return err
	}
	if !found {
		return m.goOnAfterKill()
	}
	if err := m.prepare(); err != nil {
		return err
	}
	if o.Memory {
		if err := m.saveMemory(); err != nil {
			return err
		}
		return m.handOverMemory()
	}
	if err := m.stop(); err != nil {
		return err
	}
	return m.handOver()
}

// remember reads what is known of a move that was interrupted. Where memory is on its way, an administrator has to say what
// becomes of it.
func (m *mover) remember() (err error) {
	if m.record, err = m.State.LoadMove(m.DomU); err != nil {
		return err
	}
	moves := &state.Moves{Dir: m.State}
	if m.record == nil || m.record.Phase == state.MoveOver || m.record.Phase == state.MoveArriving || !m.Undo && !m.Finish {
		if err := moves.Check(m.DomU); err != nil {
			return err
		}
	}
	m.Locator.Moves = moves
	switch {
	case m.record == nil:
	case m.record.Phase == state.MoveOver || m.record.Phase == state.MoveArriving:
		m.record = nil
	case m.record.Memory && m.record.Peer != m.To:
		return exit.Fail(exit.Busy, "a move of DomU %s with its memory to %s was interrupted\n%s", m.DomU, m.record.Peer, m.record.Choice())
	case m.record.Memory:
		moves.Ours = m.record.ID
		m.control, err = domain.NewControl(m.record.Toolstack, m.DomU, m.URI, m.Config)
	}
	return err
}

// begin writes down that the move begins.
func (m *mover) begin() error {
	autostart, err := m.control.Autostart(m.ctx)
	if err != nil {
		return err
	}
	m.record = m.next
	m.record.Toolstack, m.record.Autostart, m.record.Memory = m.toolstack, autostart, m.Memory
	m.Locator.Moves.Ours = m.record.ID
	return m.record.Reach(state.MoveStopping)
}

// look finds out whether the DomU runs here, and gets its control.
func (m *mover) look() (active bool, err error) {
	answer, err := m.Locator.Locate(m.ctx, m.DomU)
	toolstack := answer.Toolstack
	switch {
	case err == nil && m.record != nil: // it was started again
		err = m.forgetOld(toolstack)
	case exit.StatusOf(err) == exit.No && m.record != nil && m.record.Peer != m.To:
		return false, exit.Fail(exit.Busy, "%w: a move to %s was interrupted (%s): xen-failover move %s %s goes on with it", err,
			m.record.Peer, m.record.Phase, m.DomU, m.record.Peer)
	case exit.StatusOf(err) == exit.No && m.record != nil:
		m.doubt = m.record.Phase == state.MoveAsked
		toolstack, err = m.record.Toolstack, nil
	}
	if err != nil {
		return false, err
	}
	if m.Memory && toolstack == "virsh" && answer.Domain != nil && answer.Domain.Type == "xen" {
		return false, exit.Fail(exit.Config, "DomU %s still runs here: libvirt restores a guest of Xen only by the document that is in "+
			"its memory, which nobody has judged: move it without, or by xl", m.DomU)
	}
	m.toolstack = toolstack
	m.control, err = domain.NewControl(toolstack, m.DomU, m.URI, m.Config)
	return m.record == nil, err
}

// forgetOld ends a move that was interrupted, of a DomU that runs here since.
func (m *mover) forgetOld(toolstack string) error {
	control, err := domain.NewControl(toolstack, m.DomU, m.URI, m.Config)
	if err == nil && m.record.Autostart {
		err = control.SetAutostart(true)
	}
	if err == nil {
		err = m.record.Forget()
	}
	m.record = nil
	return err
}

// askLeave finds out whether the other Dom0 lets us start the DomU there.
func (m *mover) askLeave() error {
	const limit = time.Minute
	verb := "promote"
	if m.Memory {
		verb = "memory"
	}
	status, _ := m.there(limit, "xb-locate", "--may", verb, m.DomU)
	switch {
	case status == exit.OK:
		m.through = true
	case status == exit.Refused && m.Memory:
		return exit.Fail(exit.Refused, "Dom0 %s takes no memory of DomU %s from here", m.To, m.DomU)
	case status == exit.Refused:
		m.say(infoLevel, "## Dom0 %s lets nobody start DomU %s from here: that is to be typed there", m.To, m.DomU)
	default:
		return exit.Fail(exit.Unavailable, "Dom0 %s cannot be asked (status %d)", m.To, status)
	}
	return nil
}

// prepare does all that can fail while the DomU still runs: it has the standby brought up to date, so that the guest
// stands still only for what it writes meanwhile, and the other Dom0 say whether it would start it.
func (m *mover) prepare() error {
	if err := m.control.CheckStart(m.ctx); err != nil {
		return err
	}
	if m.Memory {
		if err := m.checkRoom(); err != nil {
			return err
		}
	}
	if status := m.copy(); status != exit.OK {
		return exit.Fail(exit.Partial, "DomU %s still runs here: its standby on %s cannot be brought up to date (status %d)",
			m.DomU, m.To, status)
	}
	if !m.through {
		return nil
	}
	// Whatever else could be wrong comes before the one thing that is: it runs here.
	var said []string
	keep := func(line string) { said = append(said, line) }
	words := []string{"xen-failover", "promote", "--dry-run"}
	if m.Memory {
		words = append(words, "--restore", m.next.ID)
	}
	if status, _ := m.on(m.To, promoteLimit, keep, append(words, m.DomU)...); status != exit.Elsewhere {
		for _, line := range said {
			m.say(warningLevel, "%s: %s", m.To, line)
		}
		return exit.Fail(reached(status), "DomU %s still runs here: Dom0 %s would not start it (status %d)", m.DomU, m.To, status)
	}
	return nil
}

// stop shuts the DomU down.
func (m *mover) stop() error {
	if err := m.begin(); err != nil {
		return err
	}
	m.say(infoLevel, "## DomU %s shuts down", m.DomU)
	m.onSignalDo(m.interrupted)
	if err := m.control.ShutDown(); err != nil {
		return m.goOnHere(err)
	}
	if err := m.waitUntilOff(); err != nil {
		return err
	}
	m.off = true
	return m.record.Reach(state.MoveStopped)
}

// waitUntilOff waits for the guest.
func (m *mover) waitUntilOff() error {
	for end := time.Now().Add(m.Patience); ; {
		active, err := m.Locator.IsActive(m.ctx, m.DomU)
		if err == nil && !active {
			return nil
		}
		if time.Now().After(end) {
			return exit.Fail(exit.Busy, "DomU %s did not shut down within %v. It was asked to, and may do so later: if it is to stay, %s",
				m.DomU, m.Patience, m.control.StartCommand())
		}
		time.Sleep(time.Second)
	}
}

// handOver copies the DomU that is shut off for a last time, and has it started on the other Dom0.
func (m *mover) handOver() error {
	if status := m.copy("--final"); status != exit.OK {
		return m.goOnHere(exit.Fail(exit.Partial, "DomU %s: its last copy to %s failed (status %d)", m.DomU, m.To, status))
	}
	if err := m.setAutostart(false); err != nil {
		return m.goOnHere(err)
	}
	if !m.through {
		m.say(infoLevel, "## DomU %s is shut off, and its standby on %s is clean. There: xen-failover promote %s", m.DomU, m.To, m.DomU)
		m.say(infoLevel, "## If it is to go on here: %s", m.control.StartCommand())
		return m.end()
	}
	if err := m.record.Reach(state.MoveAsked); err != nil {
		return m.goOnHere(err)
	}
	m.onSignalDo(m.sayChoice)
	status, _ := m.there(promoteLimit, "xen-failover", "promote", m.DomU)
	switch active, known := m.runsThere(); {
	case status == exit.OK || known && active:
		m.say(infoLevel, "## DomU %s runs on %s", m.DomU, m.To)
		return m.end()
	case known && ended(status) && !m.doubt:
		return m.goOnHere(exit.Fail(status, "Dom0 %s did not start DomU %s (status %d)", m.To, m.DomU, status))
	}
	return m.choose(fmt.Sprintf("it cannot be told whether it starts on %s (status %d)", m.To, status))
}

// goOnAfterKill goes on with a move that was killed when the DomU was shut off already, or nearly.
func (m *mover) goOnAfterKill() error {
	active, known := m.runsThere()
	switch {
	case !known:
		return m.choose(fmt.Sprintf("a move was interrupted, and it cannot be told whether it runs on %s", m.To))
	case active:
		m.say(infoLevel, "## DomU %s runs on %s: that was all that was left", m.DomU, m.To)
		return m.end()
	}
	m.say(infoLevel, "## DomU %s is shut off since a move that was interrupted: going on with it", m.DomU)
	m.off = true
	m.onSignalDo(m.interrupted)
	return m.handOver()
}

// end ends a move that has done what it should.
func (m *mover) end() error {
	if m.record.Autostart {
		m.say(infoLevel, "## DomU %s is no longer started when this Dom0 is booted; on %s: virsh autostart %s", m.DomU, m.To, m.DomU)
	}
	for _, link := range domain.XenAutostart(m.DomU) {
		m.say(warningLevel, "## %s starts DomU %s when this Dom0 is booted: remove it", link, m.DomU)
	}
	if m.record.Memory {
		return m.record.Reach(state.MoveOver) // libvirt goes on to tell that its memory was saved
	}
	return m.record.Forget()
}
