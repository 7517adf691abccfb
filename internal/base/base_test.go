package base

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

func imageOf(n uint64) stream.Image {
	return stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: 5, Sum: stream.Sum{n}}
}

// recordOf is one of image n, in a snapshot of its own.
func recordOf(n uint64, snapshot string) Record {
	return Record{Peer: "dom0b", Disk: "web/xvda", Source: "/dev/vg/web", Origin: "LVM-x", Snapshot: "/dev/vg/" + snapshot,
		Identity: "id of " + snapshot, Image: imageOf(n).Text(), Taken: time.Unix(1, 0).UTC()}
}

func keep(t *testing.T, dir state.Dir, r Record, basis stream.Image) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Keep(r, basis); err != nil {
		t.Fatal(err)
	}
}

// remembered returns "STATUS SNAPSHOT" of all records.
func remembered(t *testing.T, dir state.Dir) string {
	t.Helper()
	chains, err := All(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range chains {
		for _, r := range c.Records() {
			all = append(all, string(r.Status)+" "+filepath.Base(r.Snapshot))
		}
	}
	return strings.Join(all, ", ")
}

// TestSettle: what is remembered once the peer is known to have an image, whichever that is.
func TestSettle(t *testing.T) {
	for _, c := range []struct {
		what           string
		sent, pending  uint64 // images; 0: no record
		lost           string // snapshot
		image          uint64
		want, wantKept string // after the answer; if another run then keeps one of image 9
	}{
		{"the answer came", 1, 2, "", 2, "sent b", "sent b, pending new"},
		{"nothing came", 1, 2, "", 1, "sent a", "sent a, pending new"},
		{"nothing had changed", 1, 1, "", 1, "sent b", "sent b, pending new"},
		{"it has something else", 1, 2, "", 3, "", "pending new"},
		{"there was no pending one", 1, 0, "", 1, "sent a", "sent a, pending new"},
		{"there was no other one", 0, 2, "", 2, "sent b", "sent b, pending new"},
		{"its snapshot is lost", 1, 2, "b", 2, "", "pending new"},
		{"the newer one is lost", 1, 1, "b", 1, "sent a", "sent a, pending new"},
	} {
		build := func() state.Dir {
			dir := state.Dir(t.TempDir())
			if c.sent != 0 {
				keep(t, dir, recordOf(c.sent, "a"), stream.Image{})
				if err := Settle(dir, "web/xvda", "dom0b", imageOf(c.sent)); err != nil {
					t.Fatal(err)
				}
			}
			if c.pending != 0 {
				keep(t, dir, recordOf(c.pending, "b"), stream.Image{})
			}
			if c.lost != "" {
				s, err := Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if err := s.Lose("/dev/vg/"+c.lost, "gone"); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		}
		dir := build()
		if err := Settle(dir, "web/xvda", "dom0b", imageOf(c.image)); err != nil || remembered(t, dir) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.what, remembered(t, dir), err, c.want)
		}
		dir = build()
		keep(t, dir, recordOf(9, "new"), imageOf(c.image))
		if got := remembered(t, dir); got != c.wantKept {
			t.Errorf("%s, another is kept: %q, want %q", c.what, got, c.wantKept)
		}
	}
}

// TestNothingKept: who keeps no bases finds no trace of them.
func TestNothingKept(t *testing.T) {
	dir := state.Dir(t.TempDir())
	if err := Settle(dir, "web/xvda", "dom0b", imageOf(1)); err != nil || testkit.Names(t, string(dir)) != "" {
		t.Errorf("%v, left %q", err, testkit.Names(t, string(dir)))
	}
}

// TestRefuse: why nothing is kept is news once, until something is kept.
func TestRefuse(t *testing.T) {
	dir := state.Dir(t.TempDir())
	news := func(why string) bool {
		t.Helper()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		news, err := s.Refuse("web/xvda", "dom0b", why)
		if err != nil {
			t.Fatal(err)
		}
		return news
	}
	if !news("full") || news("full") || !news("slow") || news("slow") {
		t.Error("not news once")
	}
	keep(t, dir, recordOf(1, "a"), stream.Image{})
	if !news("slow") {
		t.Error("no news after a base was kept")
	}
	if got := remembered(t, dir); got != "pending a" {
		t.Errorf("left: %q", got)
	}
}

// TestUnreadable: what cannot be understood is no base, an error for who asks, and replaced by the next.
func TestUnreadable(t *testing.T) {
	for what, replace := range map[string][2]string{
		"version": {`"version": 1`, `"version": 2`}, "status": {`"status": "pending"`, `"status": "sent"`},
		"image": {imageOf(2).Text(), "xxh64:4096:5:zz"}, "peer": {`"dom0b"`, `"dom0c"`}, "json": {"{", "["},
		"snapshot": {`"/dev/vg/b"`, `"b"`}, "identity": {`"id of b"`, `""`},
	} {
		dir := state.Dir(t.TempDir())
		keep(t, dir, recordOf(2, "b"), stream.Image{})
		file := pairs(dir).File("web/xvda", "dom0b")
		text := testkit.Read(t, file)
		testkit.Write(t, file, strings.ReplaceAll(text, replace[0], replace[1]))
		if testkit.Read(t, file) == text {
			t.Fatalf("%s: nothing to replace in %s", what, text)
		}
		if all, err := All(dir); exit.StatusOf(err) != exit.Config || len(all) != 0 {
			t.Errorf("%s: %v, %v", what, all, err)
		}
		testkit.Write(t, filepath.Join(filepath.Dir(file), ".dom0b.json.123"), "left by one that was killed")
		keep(t, dir, recordOf(3, "c"), imageOf(2))
		if got := remembered(t, dir); got != "pending c" {
			t.Errorf("%s: %q", what, got)
		}
		if got := testkit.Names(t, filepath.Dir(file)); got != "dom0b.json" {
			t.Errorf("%s: files %s", what, got)
		}
	}
}

// TestKeepers: of several at once none undoes what another one remembers.
func TestKeepers(t *testing.T) {
	dir := state.Dir(t.TempDir())
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := recordOf(uint64(i+1), "s")
			r.Peer = []string{"dom0b", "dom0c", "dom0d", "dom0e"}[i%4]
			s, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Keep(r, stream.Image{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := remembered(t, dir); got != "pending s, pending s, pending s, pending s" {
		t.Errorf("%q", got)
	}
	// Where nothing can be written nothing is said to be remembered.
	defer func(d time.Duration) { patience = d }(patience)
	patience = 50 * time.Millisecond
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := Settle(dir, "web/xvda", "dom0b", imageOf(1)); exit.StatusOf(err) != exit.Busy {
		t.Errorf("while another has the lock: %v", err)
	}
	if err := os.RemoveAll(string(dir)); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, string(dir), "")
	if _, err := Open(dir); exit.StatusOf(err) != exit.CantCreate {
		t.Errorf("where there is no directory: %v", err)
	}
}
