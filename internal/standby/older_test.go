package standby

import (
	"os"
	"testing"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
)

// TestOlderRecovery has an xen-backup that knows no sets finish the apply of one disk of a set.
func TestOlderRecovery(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.hold(setA)
	dir := state.Find(m.options.StateDir)
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
