package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

const setID = "abcdefghijklmnopqrstuvwx27"

var taken = time.Date(2026, 11, 26, 23, 47, 28, 0, time.UTC)

// newSet makes two devices that hold an old image, with what is held for them.
func newSet(t *testing.T) (dir Dir, devices []*Device, c *Change) {
	dir = Dir(t.TempDir())
	c = &Change{Peer: "dom0a", SetFields: SetFields{Set: setID, Taken: taken}}
	for _, disk := range []string{"xvda", "xvdb"} {
		d := dir.Device("/srv/"+disk, "/srv/"+disk)
		old := record(Clean, "old")
		old.Disk = "domu1/" + disk
		h := &Held{Set: setID, Taken: taken, Peer: "dom0a", Disk: old.Disk, Target: "/srv/" + disk, Spool: d.SpoolFile(""),
			Basis: image("old"), Source: image("new"), Phase: Clean, Before: image("old")}
		if err := d.Save(old); err != nil {
			t.Fatal(err)
		}
		if err := d.Hold(h); err != nil {
			t.Fatal(err)
		}
		c.Deltas = append(c.Deltas, *h)
		c.Members = append(c.Members, Member{h.Disk, h.Identity})
		devices = append(devices, d)
	}
	return dir, devices, c
}

func wantPhase(t *testing.T, what string, d *Device, want Phase) {
	t.Helper()
	if r, err := d.Load(); err != nil || r.Phase != want {
		t.Errorf("%s: %+v, %v, want %s", what, r, err, want)
	}
}

// TestChange: from the moment at which there is the file each device is "applying", until it has the image.
func TestChange(t *testing.T) {
	dir, devices, c := newSet(t)
	one, other := devices[0], devices[1]
	wantPhase(t, "held", one, Clean)
	if err := dir.SaveChange(c); err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		r, err := d.Load()
		if err != nil || r.Phase != Applying || r.Spool != d.SpoolFile("") || r.Image != image("new") || r.Peer != "dom0a" {
			t.Errorf("%+v, %v", r, err)
		}
		if own, err := d.LoadOwn(); err != nil || own.Phase != Clean {
			t.Errorf("its own file: %+v, %v", own, err)
		}
	}
	done := record(Clean, "new")
	done.Set = c.SetOf()
	if err := one.Save(done); err != nil {
		t.Fatal(err)
	}
	wantPhase(t, "done", one, Clean)
	wantPhase(t, "not done", other, Applying)
	if whole, err := done.Set.IsWhole(dir); whole || err != nil {
		t.Errorf("one of two is a whole set: %v", err)
	}
	// One that is done may go on, and the other one's part is what it was.
	if err := one.Unhold(); err != nil {
		t.Fatal(err)
	}
	if err := one.Save(record(Clean, "newer")); err != nil {
		t.Fatal(err)
	}
	wantPhase(t, "gone on", one, Clean)
	wantPhase(t, "not done", other, Applying)
	// Who takes the lock of a finished one removes what is left.
	other.Unhold()
	lock, err := one.Lock(Run{})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if left, err := dir.LoadChange(setID); left != nil || err != nil {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// TestDamagedChange: what cannot be understood is never taken for nothing; what is not ours is left alone.
func TestDamagedChange(t *testing.T) {
	dir, devices, c := newSet(t)
	if err := dir.SaveChange(c); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(string(dir), "sets", setID+".json")
	right := testkit.Read(t, file)
	for _, text := range []string{"", right[:len(right)/2], strings.Replace(right, `"version": 1`, `"version": 2`, 1),
		strings.Replace(right, setID, strings.Repeat("a", 26), 1), right + right} {
		testkit.Write(t, file, text)
		_, err := devices[0].Load()
		testkit.WantStatus(t, text, err, exit.Config)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, filepath.Join(string(dir), "sets", "notes.json"), "mine")
	wantPhase(t, "somebody's file beside", devices[0], Clean)
}

// TestLockAll: locks are waited for, and given back if one is not to be had.
func TestLockAll(t *testing.T) {
	dir, devices, _ := newSet(t)
	held, err := devices[1].Lock(Run{})
	if err != nil {
		t.Fatal(err)
	}
	before := lockPatience
	defer func() { lockPatience = before }()
	lockPatience = 0
	_, err = LockAll(devices, Run{})
	testkit.WantStatus(t, "one is taken", err, exit.Busy)
	if l, err := devices[0].Lock(Run{}); err != nil {
		t.Errorf("the other one was not given back: %v", err)
	} else {
		l.Release()
	}
	lockPatience = before
	ended := make(chan error)
	go func() {
		_, err := LockAll([]*Device{dir.Device("/srv/xvdb", "b"), dir.Device("/srv/xvda", "a")}, Run{})
		ended <- err
	}()
	held.Release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTwiceInAChange has a change with a device twice, for whose lock a run would wait for itself.
func TestTwiceInAChange(t *testing.T) {
	dir := Dir(t.TempDir())
	image := stream.Image{Size: 4096, BlockSize: 4096, Hash: stream.XXH64}
	held := Held{Version: version, Set: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Taken: time.Now(), Identity: "/srv/a",
		Target: "/srv/a", Basis: image, Source: image, Before: image}
	load := func(deltas ...Held) error {
		set := SetFields{Set: held.Set, Taken: held.Taken}
		if err := dir.SaveChange(&Change{SetFields: set, Deltas: deltas}); err != nil {
			t.Fatal(err)
		}
		_, err := dir.LoadChange(held.Set)
		return err
	}
	if err := load(held); err != nil {
		t.Error(err)
	}
	testkit.WantStatus(t, "one device twice", load(held, held), exit.Config)
}
