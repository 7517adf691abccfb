package standby

import (
	"fmt"
	"os"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

const (
	setA = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	setB = "bbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var taken = time.Date(2026, 11, 26, 23, 47, 28, 0, time.UTC)

// machine is a DomU's standby disks.
type machine struct {
	*testing.T
	options Options
	disks   []*scene
}

// newMachine makes standbys of old images, of these kinds, that came in one set.
func newMachine(t *testing.T, after string, kinds ...string) *machine {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	m := &machine{T: t, options: Options{StateDir: t.TempDir(), Peer: "dom0a", Toolstack: "virsh"}}
	for i, kind := range kinds {
		s := newScene(t, kind, after)
		s.options.StateDir, s.options.Peer, s.options.Toolstack = m.options.StateDir, m.options.Peer, m.options.Toolstack
		s.options.Disk = fmt.Sprintf("domu1/xvd%c", 'a'+i)
		m.disks = append(m.disks, s)
	}
	var old []string // a disk that is missing is a new one
	for _, s := range m.disks {
		if s.old != nil {
			m.must(s.hold(setB, s.old))
			old = append(old, s.options.Target)
		}
	}
	if len(old) > 0 {
		_, err := Commit(new(quiet), m.options, setB, old)
		m.must(err)
	}
	return m
}

func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// hold holds the delta to an image.
func (s *scene) hold(set string, image []byte) error {
	o := s.options
	o.Set, o.Taken = set, taken
	_, err := Patch(s.user, o, s.deltaTo(image))
	return err
}

func (m *machine) hold(set string) {
	m.Helper()
	for _, s := range m.disks {
		m.must(s.hold(set, s.source()))
	}
}

func (m *machine) targets() (targets []string) {
	for _, s := range m.disks {
		targets = append(targets, s.options.Target)
	}
	return targets
}

func (m *machine) commit(set string) error {
	_, err := Commit(new(quiet), m.options, set, m.targets())
	return err
}

// memory is --state of a disk; nil if there is no such target.
func (s *scene) memory() *Memory {
	m, err := State(s.options)
	if exit.StatusOf(err) == exit.NoInput {
		return nil
	}
	if err != nil {
		s.Fatal(err)
	}
	return m
}

// wantNewSet demands that all disks are of that set, and that nothing is left of the way there.
func (m *machine) wantNewSet(set string) {
	m.Helper()
	for _, s := range m.disks {
		s.wantNew()
		is := s.memory()
		if is.Set != set || is.WholeSet == nil || !*is.WholeSet || len(is.Members) != len(m.disks) || is.Held != nil {
			s.Errorf("%s: the state is %+v", s.options.Disk, is)
		}
	}
	if left, err := os.ReadDir(m.options.StateDir + "/sets"); err != nil || len(left) > 0 {
		m.Errorf("left of sets: %v, %v", left, err)
	}
}

// wantOldSet demands that all disks are the old images.
func (m *machine) wantOldSet() {
	m.Helper()
	for _, s := range m.disks {
		s.wantTarget(row{target: "old"})
		if r := s.record(); s.old != nil && (r.Phase != state.Clean || r.Set.ID != setB) || s.old == nil && r.Phase != state.None {
			s.Errorf("%s: the state is %+v", s.options.Disk, r)
		}
	}
}

func TestSet(t *testing.T) {
	for _, kinds := range [][]string{{file, file}, {file, loopDevice, largerFile}, {missingFile, missingFile}, {missingFile, loopDevice}} {
		t.Run(fmt.Sprint(kinds), func(t *testing.T) {
			m := newMachine(t, "", kinds...)
			m.hold(setA)
			m.wantOldSet()
			for _, s := range m.disks {
				if held := s.memory().Held; held == nil || held.Set != setA || held.Disk != s.options.Disk {
					t.Errorf("held: %+v", held)
				}
			}
			m.must(m.commit(setA))
			m.wantNewSet(setA)
			m.must(m.commit(setA)) // its answer was lost
			m.wantNewSet(setA)
		})
	}
}
