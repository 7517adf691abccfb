package standby

import (
	"os"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// TestOlderRecovery has an xen-backup that knows no sets finish the apply of one disk of a set.
func TestOlderRecovery(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.hold(setA)
	dir := state.Dir(m.options.StateDir)
	change := &state.Change{Peer: "dom0a", SetFields: state.SetFields{Set: setA, Taken: taken}}
	var devices []*state.Device
	for _, s := range m.disks {
		identity, err := blockdev.Identity(s.options.Target)
		m.must(err)
		devices = append(devices, dir.Device(identity, s.options.Target))
		held, err := devices[len(devices)-1].Held()
		m.must(err)
		change.Deltas = append(change.Deltas, *held)
		change.Members = append(change.Members, state.Member{Disk: s.options.Disk, Identity: identity})
	}
	m.must(dir.SaveChange(change)) // and there it was killed

	first := m.disks[0]
	m.must(os.WriteFile(first.options.Target, first.new, 0o600))
	m.must(devices[0].Save(&state.Record{Phase: state.Clean, Disk: first.options.Disk, Image: first.image, Peer: "dom0a",
		Time: time.Now()}))
	m.must(os.Remove(change.Deltas[0].Spool))

	_, err := Recover(new(quiet), m.disks[1].options)
	m.must(err)
	m.wantNewSet(setA)
}

// TestFinishedByAnOlderProgram: one that knows no sets recovers a disk as it always did, and so does it for the set.
func TestFinishedByAnOlderProgram(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.hold(setA)
	m.kill(doomed{Run: aCommit, After: "recorded"}, m.disks[0])
	s := m.disks[0]
	device := m.device(0)
	r, err := device.LoadOwn()
	m.must(err)
	m.must(os.WriteFile(s.options.Target, s.new, 0o600))
	m.must(os.Remove(r.Spool))
	r.Phase, r.Spool, r.Set = state.Clean, "", nil
	m.must(device.Save(r))
	_, err = Recover(new(quiet), s.options)
	m.must(err)
	m.wantNewSet(setA)
}

// TestCrashAbandonedByAnOlderProgram: one that knows no sets gives up the apply of a disk that was written to. Nobody may
// call that the old image.
func TestCrashAbandonedByAnOlderProgram(t *testing.T) {
	m := newMachine(t, halfWritten, file, loopDevice)
	m.hold(setA)
	m.kill(doomed{Run: aCommit, After: halfWritten}, m.disks[0])
	mix, other := m.disks[0], m.disks[1]
	device := m.device(0)
	r, err := device.LoadOwn()
	m.must(err)
	m.must(os.Remove(r.Spool))
	m.must(device.Save(&state.Record{Phase: state.Incomplete, Disk: r.Disk, Peer: r.Peer}))

	_, err = Recover(new(quiet), mix.options)
	if exit.StatusOf(err) != exit.Unfinished || !strings.Contains(err.Error(), "--abandon-apply") ||
		strings.Contains(err.Error(), "old image there") {
		t.Errorf("a recovery says %v", err)
	}
	other.wantTarget(row{target: "new"})
	if is := other.memory(); is.Phase != state.Clean || *is.WholeSet {
		t.Errorf("the other disk is %+v", is)
	}
	m.must(Abandon(new(quiet), mix.options))
	if is := mix.memory(); is.Phase != state.Incomplete {
		t.Errorf("the disk that was given up is %+v", is)
	}
	m.hold(setC)
	m.must(m.commit(setC))
	m.wantNewSet(setC)
}
