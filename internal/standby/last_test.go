package standby

import (
	"reflect"
	"testing"
	"time"

	"xen-backup/internal/state"
)

// age makes the state of a target older.
func (s *scene) age(when time.Time) {
	t, err := find(s.user, s.options)
	if err != nil {
		s.Fatal(err)
	}
	r, err := t.device.LoadOwn()
	if err == nil {
		r.Time = when
		err = t.device.Save(r)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// TestCrashLastWhole: of a mix it can be told from when the last whole image was.
func TestCrashLastWhole(t *testing.T) {
	when := time.Date(2026, 11, 20, 1, 2, 3, 0, time.UTC)
	s := newScene(t, file, halfWritten)
	s.synced()
	s.age(when)
	want := &state.Last{Time: when, ImageFields: digestOf(t, s.old).Fields()}
	s.interrupted()
	if r := s.record(); r.Phase != state.Applying || !reflect.DeepEqual(r.Last, want) {
		t.Errorf("an unfinished apply remembers %+v, want %+v", r.Last, want)
	}
	if err := Abandon(s.user, s.options); err != nil {
		t.Fatal(err)
	}
	if r := s.record(); r.Phase != state.Incomplete || !reflect.DeepEqual(r.Last, want) {
		t.Errorf("a mix remembers %+v, want %+v", r.Last, want)
	}
	s.options.InPlace = true
	s.kill(doomed{Run: aFirstCopy, Options: s.options, Delta: s.delta(), After: "sized"})
	if r := s.record(); r.Phase != state.Incomplete || !reflect.DeepEqual(r.Last, want) {
		t.Errorf("a first copy over it remembers %+v, want %+v", r.Last, want)
	}
	if err := s.patch(); err != nil {
		t.Fatal(err)
	}
	if r := s.record(); r.Phase != state.Clean || r.Last != nil {
		t.Errorf("a whole image remembers %+v", r.Last)
	}
}

// TestRecoveredIsNotNewer: an image is of when it was sent, not of when a recovery finished it.
func TestRecoveredIsNotNewer(t *testing.T) {
	when := time.Date(2026, 11, 20, 1, 2, 3, 0, time.UTC)
	s := newScene(t, file, halfWritten)
	s.synced()
	s.interrupted()
	s.age(when)
	if _, err := Recover(s.user, s.options); err != nil {
		t.Fatal(err)
	}
	if r := s.record(); r.Phase != state.Clean || !r.Time.Equal(when) {
		t.Errorf("it is of %v, want %v", r.Time, when)
	}
}

// TestLastWholeOfASet: also of a disk that its set has not reached yet.
func TestLastWholeOfASet(t *testing.T) {
	for _, after := range []string{"changed", "recorded"} {
		m := newMachine(t, "", file, loopDevice)
		m.hold(setA)
		m.kill(doomed{Run: aCommit, After: after}, m.disks[0])
		for _, s := range m.disks {
			is := s.memory()
			if is.Last == nil || !is.Last.Taken.Equal(taken) || is.Last.Digest != digestOf(t, s.old).Digest() {
				t.Errorf("killed after %s: %s remembers %+v", after, s.options.Disk, is.Last)
			}
		}
	}
}
