package standby

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

const (
	setA = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	setB = "bbbbbbbbbbbbbbbbbbbbbbbbbb"
	setC = "cccccccccccccccccccccccccc"
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

// TestRefusedCommit: one refusal, and all disks stay the old images.
// TestMended has one disk held again for the set that all have, because the set has proved wrong.
func TestMended(t *testing.T) {
	for _, after := range []string{"", "changed", "recorded"} {
		t.Run(after, func(t *testing.T) {
			m := newMachine(t, "", file, loopDevice, file)
			wrong := m.disks[1]
			m.must(m.disks[0].hold(setA, m.disks[0].source()))
			m.must(wrong.hold(setA, wrong.old))
			m.must(m.disks[2].hold(setA, m.disks[2].source()))
			m.must(m.commit(setA))
			m.must(wrong.hold(setA, wrong.source()))
			if after == "" {
				m.must(m.commit(setA))
				m.wantNewSet(setA)
				return
			}
			m.kill(doomed{Run: aCommit, After: after}, wrong)
			_, err := Recover(new(quiet), wrong.options)
			if after == "recorded" {
				m.must(err)
				m.wantNewSet(setA)
				return
			}
			// Nothing was written: it has the set's image that it had, and can be mended.
			wrong.wantTarget(row{target: "old"})
			m.must(wrong.hold(setA, wrong.source()))
			m.must(m.commit(setA))
			m.wantNewSet(setA)
		})
	}
}

func TestRefusedCommit(t *testing.T) {
	kinds := []string{file, loopDevice, file}
	for name, test := range map[string]struct {
		spoil  func(m *machine)
		status int
		names  string // in the error
	}{
		"not held": {func(m *machine) {
			o := m.disks[1].options
			o.InPlace = false
			_, err := Patch(m.disks[1].user, o, m.disks[1].deltaTo(m.disks[1].old)) // a run without a set comes between
			m.must(err)
		}, exit.Busy, "copy again"},
		"held for another set": {func(m *machine) { m.must(m.disks[1].hold(setC, m.disks[1].old)) }, exit.Busy, "copy again"},
		"from another peer":    {func(m *machine) { m.options.Peer = "dom0c" }, exit.Busy, "copy again"},
		"of another moment": {func(m *machine) {
			m.edit(1, func(h *state.Held) { h.Taken = h.Taken.Add(time.Second) })
		}, exit.Busy, "domu1/xvdb"},
		"a spool is lost":    {func(m *machine) { m.must(os.Remove(m.held(1).Spool)) }, exit.Busy, "domu1/xvdb"},
		"a spool is damaged": {func(m *machine) { m.damage(m.held(1).Spool) }, exit.BadStream, "domu1/xvdb"},
		"a spool is another one": {func(m *machine) {
			m.edit(1, func(h *state.Held) { h.Checksum = "xxh64:0000000000000000" })
		}, exit.BadStream, "domu1/xvdb"},
		"changed since":        {func(m *machine) { m.disks[1].scribble() }, exit.NotBasis, "domu1/xvdb"},
		"a file changed since": {func(m *machine) { m.disks[2].scribble() }, exit.NotBasis, "domu1/xvdc"},
		"adopted since": {func(m *machine) {
			o := m.disks[1].options
			o.Disk = "domu2/xvda"
			m.must(Adopt(m.disks[1].user, o))
		}, exit.NotBasis, "domu2/xvda"},
		"in use": {func(m *machine) {
			f, err := os.OpenFile(m.disks[1].options.Target, os.O_RDWR|unix.O_EXCL, 0)
			m.must(err)
			m.Cleanup(func() { f.Close() })
		}, exit.Busy, "domu1/xvdb"},
		"missing": {func(m *machine) { m.must(os.Remove(m.disks[2].options.Target)) }, exit.NoInput, "target"},
		"unfinished": {func(m *machine) {
			s := m.disks[1]
			o := s.options
			s.kill(doomed{Run: anApply, Options: o, Delta: s.delta(), After: "recorded"})
		}, exit.Unfinished, "--recover"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, "", kinds...)
			m.hold(setA)
			test.spoil(m)
			var before [][]byte
			for _, s := range m.disks {
				before = append(before, s.content())
			}
			err := m.commit(setA)
			testkit.WantStatus(t, "the commit", err, test.status)
			if err != nil && !strings.Contains(err.Error(), test.names) {
				t.Errorf("%v does not say %s", err, test.names)
			}
			for i, s := range m.disks {
				if !bytes.Equal(s.content(), before[i]) {
					t.Errorf("%s was written to", s.options.Disk)
				}
			}
			if changed, err := state.Dir(m.options.StateDir).LoadChange(setA); changed != nil || err != nil {
				t.Errorf("there is a change: %v", err)
			}
		})
	}
}

// held returns what is held for a disk.
func (m *machine) held(i int) *state.Held {
	h, err := m.device(i).Held()
	m.must(err)
	return h
}

func (m *machine) device(i int) *state.Device {
	t, err := find(new(quiet), m.disks[i].options)
	m.must(err)
	return t.device
}

func (m *machine) edit(i int, change func(*state.Held)) {
	h := m.held(i)
	change(h)
	m.must(m.device(i).Hold(h))
}

// damage changes a byte in the middle of a file.
func (m *machine) damage(path string) {
	text := []byte(testkit.Read(m, path))
	text[len(text)/2] ^= 1
	testkit.Write(m, path, string(text))
}

// scribble changes a byte of the target that no delta replaces.
func (s *scene) scribble() {
	f, err := os.OpenFile(s.options.Target, os.O_RDWR|unix.O_SYNC, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("scribble"), 100)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.Fatal(err)
	}
}

// TestSetAfterTheMoment: what a disk can't reach after the set was committed is no reason to leave the others behind.
func TestSetAfterTheMoment(t *testing.T) {
	for name, test := range map[string]struct {
		spoil, mend func(m *machine)
		status      int
	}{
		"a spool is lost": {
			func(m *machine) { m.must(os.Rename(m.held(1).Spool, m.options.StateDir+"/lost")) },
			func(m *machine) { m.must(os.Rename(m.options.StateDir+"/lost", m.held(1).Spool)) }, exit.Unfinished},
		"a spool is damaged": {
			func(m *machine) { m.damage(m.held(1).Spool) },
			func(m *machine) { m.damage(m.held(1).Spool) }, exit.BadStream},
		"a disk is missing": {
			func(m *machine) { m.must(os.Rename(m.disks[1].options.Target, m.options.StateDir+"/lost")) },
			func(m *machine) { m.must(os.Rename(m.options.StateDir+"/lost", m.disks[1].options.Target)) }, exit.NoInput},
		"a disk was changed": {
			func(m *machine) { m.disks[1].scribble() },
			func(m *machine) { m.must(os.WriteFile(m.disks[1].options.Target, m.disks[1].old, 0o600)) }, exit.NotBasis},
	} {
		for _, after := range testkit.Some(t, 1, "recorded", "changed") {
			t.Run(name+" after "+after, func(t *testing.T) {
				m := newMachine(t, "", loopDevice, file, file)
				m.hold(setA)
				m.kill(doomed{Run: aCommit, After: after}, m.disks[0])
				test.spoil(m)
				status := test.status
				if after == "recorded" && name == "a disk was changed" {
					status = 0 // of blocks that the delta replaces nobody can tell: the new image it is
				}
				_, err := Recover(new(quiet), m.disks[0].options)
				if got := exit.StatusOf(err); got != status {
					t.Fatalf("--recover ends with %d, want %d: %v", got, status, err)
				}
				if status == 0 {
					m.wantNewSet(setA)
					return
				}
				m.disks[0].wantTarget(row{target: "new"})
				m.disks[2].wantTarget(row{target: "new"})
				if is := m.disks[0].memory(); is.Phase != state.Clean || *is.WholeSet {
					t.Errorf("the first disk is %+v", is)
				}
				if is := m.device(1); is == nil {
					t.Error()
				} else if r, err := is.Load(); err != nil || r.Phase != state.Applying {
					t.Errorf("the second disk is %+v, %v", r, err)
				}
				// A finished disk is free.
				if _, err := Patch(new(quiet), m.disks[2].options, m.disks[2].deltaTo(m.disks[2].source())); err != nil {
					t.Errorf("a finished disk is not free: %v", err)
				}
				test.mend(m)
				if _, err := Recover(new(quiet), m.disks[0].options); err != nil {
					t.Fatal(err)
				}
				m.disks[1].wantTarget(row{target: "new"})
				if left, _ := os.ReadDir(m.options.StateDir + "/sets"); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				if is := m.disks[1].memory(); is.Phase != state.Clean || *is.WholeSet {
					t.Errorf("one disk has gone on alone, and the state is %+v", is)
				}
			})
		}
	}
}

// TestSetIsDropped: a disk that another program has taken on before any was begun leaves all of them the old images.
func TestSetIsDropped(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.hold(setA)
	m.kill(doomed{Run: aCommit, After: "changed"}, m.disks[0])
	m.must(m.device(0).Unhold()) // with its own state that is all that tells
	if _, err := Recover(new(quiet), m.disks[1].options); err != nil {
		t.Fatal(err)
	}
	m.wantOldSet()
	for _, s := range m.disks {
		if is := s.memory(); !*is.WholeSet {
			t.Errorf("%+v", is)
		}
	}
	m.hold(setC)
	m.must(m.commit(setC))
	m.wantNewSet(setC)
}

// TestCrashGivenUp: one disk is taken out of its set, the other is finished.
func TestCrashGivenUp(t *testing.T) {
	for after, want := range map[string]string{"changed": "old", halfWritten: "mix"} {
		t.Run(after, func(t *testing.T) {
			m := newMachine(t, after, file, loopDevice)
			m.hold(setA)
			m.kill(doomed{Run: aCommit, After: after}, m.disks[0])
			gone, other := m.disks[0], m.disks[1]
			m.must(Abandon(new(quiet), gone.options))
			gone.wantTarget(row{target: want})
			is := gone.memory()
			if want == "old" && (is.Phase != state.Clean || is.Set != setB) || want == "mix" && (is.Phase != state.Incomplete || is.Set != "") {
				t.Errorf("the state is %+v", is)
			}
			if is.Held != nil || m.spools() != 1 {
				t.Errorf("%d spools are left, held is %v", m.spools(), is.Held)
			}
			if r := other.record(); r.Phase != state.Applying {
				t.Errorf("the other disk is %s", r.Phase)
			}
			_, err := Recover(new(quiet), other.options)
			m.must(err)
			other.wantTarget(row{target: "new"})
			if is := other.memory(); is.Phase != state.Clean || *is.WholeSet {
				t.Errorf("the other disk is %+v", is)
			}
			m.hold(setC)
			m.must(m.commit(setC))
			m.wantNewSet(setC)
		})
	}
}

// TestAtOnce: of two commits or recoveries one does it, and the other finds it done.
func TestAtOnce(t *testing.T) {
	for _, run := range []string{"commit", "recover"} {
		m := newMachine(t, "", file, loopDevice, file)
		m.hold(setA)
		if run == "recover" {
			m.kill(doomed{Run: aCommit, After: "recorded"}, m.disks[0])
		}
		ended := make(chan error)
		for i := range 3 {
			go func() {
				if run == "commit" {
					targets := m.targets()
					_, err := Commit(new(quiet), m.options, setA, append(targets[i:], targets[:i]...))
					ended <- err
					return
				}
				_, err := Recover(new(quiet), m.disks[i].options)
				ended <- err
			}()
		}
		for range 3 {
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", run, err)
			}
		}
		m.wantNewSet(setA)
	}
}

// TestTwoNames: two disks of one DomU that are led to one standby.
func TestTwoNames(t *testing.T) {
	m := newMachine(t, "", file, file)
	one := m.disks[0]
	m.must(os.Symlink(one.options.Target, one.options.Target+".link"))
	m.must(one.hold(setA, one.source()))
	_, err := Commit(new(quiet), m.options, setA, []string{one.options.Target, one.options.Target + ".link"})
	testkit.WantStatus(t, "one target twice", err, exit.Usage)

	o := one.options
	o.Target, o.Disk, o.Set, o.Taken = o.Target+".link", "domu1/xvdz", setA, taken
	_, err = Patch(new(quiet), o, one.deltaTo(one.source()))
	testkit.WantStatus(t, "the standby of another disk", err, exit.NotBasis)
}

// TestOneNewStandby: two new disks led to one file are refused by the second hold, by two hard links by the commit.
func TestOneNewStandby(t *testing.T) {
	m := newMachine(t, "", missingFile, missingFile)
	one, other := m.disks[0], m.disks[1]
	m.must(one.hold(setA, one.source()))
	o := one.options
	o.Disk, o.Set, o.Taken = other.options.Disk, setA, taken
	_, err := Patch(new(quiet), o, one.deltaTo(one.source()))
	testkit.WantStatus(t, "a file that is held for another disk", err, exit.NotBasis)
	if err != nil && !strings.Contains(err.Error(), "held for domu1/xvda") {
		t.Error(err)
	}
	if h := m.held(0); h == nil || h.Disk != "domu1/xvda" {
		t.Errorf("the first note is %+v", h)
	}
	m.must(other.hold(setA, other.source()))
	testkit.Write(t, one.options.Target, "")
	m.must(os.Link(one.options.Target, other.options.Target))
	testkit.WantStatus(t, "two names of one file", m.commit(setA), exit.NotBasis)
	m.must(os.Remove(other.options.Target))
	m.must(m.commit(setA))
	m.wantNewSet(setA)
}

// TestNewFileRefused: a file that the commit has created goes again if another disk refuses.
func TestNewFileRefused(t *testing.T) {
	m := newMachine(t, "", missingFile, missingFile)
	m.hold(setA)
	lost := m.disks[1].options.Target
	m.must(os.Symlink("nowhere", lost))
	if err := m.commit(setA); err == nil {
		t.Error("a link to nowhere is written through")
	}
	if _, err := os.Lstat(m.disks[0].options.Target); !os.IsNotExist(err) {
		t.Errorf("the first file is left: %v", err)
	}
	m.must(os.RemoveAll(filepath.Dir(lost)))
	testkit.WantStatus(t, "a directory that has vanished", m.commit(setA), exit.NoInput)
	m.must(os.Mkdir(filepath.Dir(lost), 0o700))
	m.must(m.commit(setA))
	m.wantNewSet(setA)
}

// TestForced: consent at the hold is good for one commit.
func TestForced(t *testing.T) {
	m := newMachine(t, "", file, file)
	s := m.disks[0]
	s.scribble()
	testkit.WantStatus(t, "what has diverged", s.hold(setA, s.source()), exit.NotBasis)
	s.options.Force = true
	m.hold(setA)
	s.options.Force = false
	m.must(m.commit(setA))
	m.wantNewSet(setA)
	s.scribble()
	testkit.WantStatus(t, "what has diverged again", s.hold(setC, s.source()), exit.NotBasis)
}

// TestJoin: a first copy in place is a member of the set from its commit on.
func TestJoin(t *testing.T) {
	m := newMachine(t, "", file, loopDevice, missingFile)
	joins := m.disks[2]
	m.must(m.disks[0].hold(setA, m.disks[0].source()))
	m.must(m.disks[1].hold(setA, m.disks[1].source()))
	joins.options.InPlace = true
	m.must(joins.hold(setA, joins.source()))
	joins.options.InPlace = false
	if is := joins.memory(); is.Phase != state.Clean || is.Set != setA || is.WholeSet != nil || is.Members != nil {
		t.Errorf("a first copy in place is %+v", is)
	}
	if is := m.disks[0].memory(); is.Set != setB || !*is.WholeSet {
		t.Errorf("the old disks are judged alone, and this one is %+v", is)
	}
	m.kill(doomed{Run: aCommit, After: "recorded"}, joins)
	if is := joins.memory(); is.Phase != state.Applying || *is.WholeSet {
		t.Errorf("after the moment the new disk is %+v", is)
	}
	_, err := Recover(new(quiet), joins.options)
	m.must(err)
	m.wantNewSet(setA)
	m.must(m.commit(setA))

	// One disk goes on alone.
	s := m.disks[0]
	_, err = Patch(new(quiet), s.options, s.deltaTo(s.old))
	m.must(err)
	if is := s.memory(); is.Set != "" || !is.Taken.IsZero() || is.Members != nil || is.WholeSet != nil {
		t.Errorf("a disk that was copied alone is %+v", is)
	}
	if is := joins.memory(); *is.WholeSet {
		t.Error("the set of the others passes for whole")
	}
}

// TestUnchanged: a disk on which nothing has changed is held as the others are.
func TestUnchanged(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.must(m.disks[0].hold(setA, m.disks[0].old))
	m.must(m.disks[1].hold(setA, m.disks[1].source()))
	m.must(m.commit(setA))
	m.disks[0].new, m.disks[0].image = m.disks[0].old, digestOf(t, m.disks[0].old)
	m.wantNewSet(setA)
}

// TestLeftRecord: a record that stays behind when all is done is nothing to anybody.
func TestLeftRecord(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.hold(setA)
	m.kill(doomed{Run: aCommit, After: "finished"}, m.disks[0])
	if changed, err := state.Dir(m.options.StateDir).LoadChange(setA); changed == nil || err != nil {
		t.Fatal("there is no record", err)
	}
	s := m.disks[0]
	_, err := Patch(new(quiet), s.options, s.deltaTo(s.old))
	m.must(err)
	if is := s.memory(); is.Phase != state.Clean || is.Set != "" {
		t.Errorf("the state is %+v", is)
	}
	if is := m.disks[1].memory(); is.Phase != state.Clean || *is.WholeSet {
		t.Errorf("the other's is %+v", is)
	}
}
