package snapshot

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// baseHost keeps bases of a disk of some MiB.
type baseHost struct {
	*testing.T
	dir     string
	records state.Dir
	disk    string
	size    int64
	age     int
	said    spoken
	told    []string
}

func newBaseHost(t *testing.T, mib int64, mkfs ...string) *baseHost {
	t.Helper()
	before := runDir
	t.Cleanup(func() { runDir = before })
	runDir = t.TempDir()
	h := &baseHost{T: t, dir: testkit.Mount(t, mkfs...), records: state.Dir(t.TempDir()), size: mib << 20}
	h.disk = filepath.Join(h.dir, "disk")
	h.write()
	return h
}

// write has the guest rewrite its whole disk.
func (h *baseHost) write() {
	h.Helper()
	f, err := os.OpenFile(h.disk, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 1<<20)
	for at := int64(0); at < h.size; at += 1 << 20 {
		rand.Read(data)
		if _, err := f.WriteAt(data, at); err != nil {
			h.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), unix.Syncfs(int(f.Fd()))); err != nil {
		h.Fatal(err)
	}
}

func (h *baseHost) tell(paths ...string) error { h.told = append(h.told, paths...); return nil }

// order is one of another image each time.
func (h *baseHost) order() KeepOrder {
	h.age++
	return KeepOrder{Peer: "dom0b", Disk: "web/xvda", Limit: 99, State: h.records, Taken: time.Unix(int64(h.age), 0),
		Image: stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: h.size, Sum: stream.Sum{uint64(h.age)}}}
}

func (h *baseHost) find(snap string) (*Snapshot, error) {
	found, err := taken(h.records)
	return found.find(snap, err)
}

// tryKeep takes a snapshot, made to be older than those that come later, and keeps it if it can be.
func (h *baseHost) tryKeep(order KeepOrder) (snap string, kept bool) {
	h.Helper()
	snap = take(h.T, h.records, deadOwner, h.disk)[0]
	s, err := h.find(snap)
	if err == nil {
		f := s.holder.(*fileSnapshot)
		f.Created = time.Unix(int64(h.age), 0)
		err = f.remember()
	}
	if err == nil {
		order.Read, err = blockdev.Identity(snap)
	}
	if err == nil {
		kept, err = Keep(snap, order, &h.said)
	}
	if err != nil {
		h.Fatal(err)
	}
	return snap, kept
}

func (h *baseHost) keep() string {
	h.Helper()
	snap, kept := h.tryKeep(h.order())
	if !kept {
		h.Fatalf("not kept: %s", h.said)
	}
	return snap
}

// guarded has Keep believe that a guard is there.
func (h *baseHost) guarded() {
	h.Helper()
	if err := renewStamp(h.records); err != nil {
		h.Fatal(err)
	}
}

func (h *baseHost) use() float64 {
	h.Helper()
	room, err := blockdev.FileRoom(h.disk)
	if err != nil {
		h.Fatal(err)
	}
	use, _ := room.Use()
	return use
}

// words returns what was said, and forgets it.
func (h *baseHost) words() string {
	text := strings.Join(h.said, "\n")
	h.said = nil
	return text
}

// TestGuardBases: above the limit bases go, the oldest first and no more than must; what is nobody's base stays.
func TestGuardBases(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q", "-m", "single"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			h := newBaseHost(t, 10, mkfs...)
			h.guarded()
			var all []string
			for range 3 {
				all = append(all, h.keep())
				h.write()
			}
			own := take(t, h.records, nobody, h.disk)[0]
			leftover := take(t, h.records, deadOwner, h.disk)[0]
			if err := os.Remove(guardStamp(h.records)); err != nil {
				t.Fatal(err)
			}

			guard := func(limit int, want ...string) {
				t.Helper()
				h.told = nil
				if err := GuardBases(limit, h.records, &h.said, h.tell); err != nil || !slices.Equal(h.told, want) {
					t.Errorf("limit %d: removed %s, want %s, %v; use %.1f", limit, h.told, want, err, h.use())
				}
				if !guarded(h.records) {
					t.Error("nobody is told that a guard was there")
				}
			}
			use := int(h.use())
			guard(use + 1)
			guard(use-1, all[0]) // 2.5 % of 400 MiB are in each
			if words := h.words(); !strings.Contains(words, "removed: the file system of "+h.dir+" was ") {
				t.Errorf("it says %q", words)
			}
			guard(use - 1)
			guard(1, all[1:]...)
			h.words()
			if usable, err := Bases(h.disk, "dom0b", h.records, &h.said); err != nil || len(usable) != 0 ||
				strings.Count(h.words(), "was removed: the file system of") != 1 {
				t.Errorf("bases: %v, %v", usable, err)
			}
			for _, snap := range []string{own, leftover} {
				if _, err := os.Stat(snap); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestGuardReadBase: a base that is being read frees its room at once, and is removed when it is not read any more.
func TestGuardReadBase(t *testing.T) {
	h := newBaseHost(t, 8, "mkfs.xfs", "-q", "-m", "reflink=1")
	h.guarded()
	snap := h.keep()
	reader := testkit.Hold(t, snap)
	if err := GuardBases(1, h.records, &h.said, h.tell); err != nil || !slices.Equal(h.told, []string{snap}) {
		t.Fatalf("%s, %v", h.told, err)
	}
	if _, err := Check(snap, h.records); exit.StatusOf(err) != exit.BadSnapshot {
		t.Errorf("its reader finds %v", err)
	}
	reader()
	h.told = nil
	if err := PruneBases(Peers{}, h.records, quiet{t}, h.tell); err != nil || !slices.Equal(h.told, []string{snap}) {
		t.Errorf("prune: %s, %v", h.told, err)
	}
}

// TestKeepable: where there is too little room and no guard no base is kept, and that is a warning once.
func TestKeepable(t *testing.T) {
	h := newBaseHost(t, 8, "mkfs.xfs", "-q", "-m", "reflink=1")
	h.keep() // there is room
	if err := os.Truncate(h.disk, 1<<40); err != nil {
		t.Fatal(err)
	}
	h.size = 1 << 40
	refused := func(what string, order KeepOrder, want string) {
		t.Helper()
		for again := range 2 {
			snap, kept := h.tryKeep(order)
			loud := len(h.said) > 0
			if words := h.words(); kept || loud != (again == 0) || loud && !strings.Contains(words, want) {
				t.Errorf("%s: kept %v, said %q, time %d, want %q", what, kept, words, again, want)
			}
			s, err := h.find(snap)
			if err != nil || s.Owner != deadOwner {
				t.Errorf("%s: the owner is %v, %v", what, s, err)
			}
		}
	}
	refused("no room", h.order(), "with bases its guests may take 1.0 TiB")
	stamp := guardStamp(h.records)
	for what, ago := range map[string]time.Duration{"an old guard": 4 * time.Minute, "a guard of tomorrow": -time.Hour} {
		h.guarded()
		if err := os.Chtimes(stamp, time.Time{}, time.Now().Add(-ago)); err != nil {
			t.Fatal(err)
		}
		if _, kept := h.tryKeep(h.order()); kept {
			t.Errorf("kept with %s", what)
		}
	}
	h.guarded()
	order := h.order()
	order.Limit = 1
	refused("above the limit", order, "% full, and above 1 % bases give way")
	order.Limit = 99
	if _, kept := h.tryKeep(order); !kept {
		t.Errorf("not kept with a guard: %s", h.words())
	}
}

// TestSlowClones: a file whose clones take too long twice in a row gets no base, until they don't.
func TestSlowClones(t *testing.T) {
	defer func(d time.Duration) { slowClone = d }(slowClone)
	h := newBaseHost(t, 8, "mkfs.xfs", "-q", "-m", "reflink=1")
	slowClone = -1
	h.keep()
	snap, kept := h.tryKeep(h.order())
	words := h.words()
	if kept || !strings.Contains(words, "run xfs_fsr "+h.disk+" while no base is kept") || !strings.Contains(words, "too long for the one before") {
		t.Errorf("kept %v, said %q", kept, words)
	}
	all, err := List(h.records, quiet{t})
	i := slices.IndexFunc(all, func(s *Snapshot) bool { return s.Path == snap })
	if err != nil || i < 0 || all[i].Extents < 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	if _, kept = h.tryKeep(h.order()); kept || h.words() != "" {
		t.Error("kept, or said again")
	}
	slowClone = time.Hour
	h.keep()
	if left := testkit.Names(t, filepath.Join(string(h.records), "clones")); left != "" {
		t.Errorf("remembered: %s", left)
	}
}

// TestCreateTakesFromBases: rather than that there is no run, the next one reads all.
func TestCreateTakesFromBases(t *testing.T) {
	h := newBaseHost(t, 8, "mkfs.xfs", "-q", "-m", "reflink=1")
	other := newBaseHost(t, 8, "mkfs.xfs", "-q", "-m", "reflink=1")
	other.records = h.records
	h.guarded()
	elsewhere := other.keep() // the oldest, where nothing lacks
	old := h.keep()
	h.write()
	young := h.keep()
	room, err := blockdev.FileRoom(h.disk)
	if err != nil {
		t.Fatal(err)
	}
	// So much that the bytes of one base more are enough.
	ballast, err := os.Create(filepath.Join(h.dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	if err := unix.Fallocate(int(ballast.Fd()), 0, 0, room.Free-room.Floor()-4<<20); err != nil {
		t.Fatal(err)
	}
	order := Order{Size: DefaultSize, Owner: nobody, State: h.records, DryRun: true}
	if err := Create([]string{h.disk}, order, &h.said, h.tell); exit.StatusOf(err) != exit.CantCreate || len(h.said) > 0 {
		t.Errorf("--dry-run: %v, %s", err, h.said)
	}
	order.DryRun, order.OrNone = false, true
	if err := Create([]string{h.disk}, order, &h.said, func(...string) error { return errors.New("told") }); err != nil {
		t.Errorf("--or-none: %v", err)
	}
	if words := h.words(); words != "" { // no base was removed
		t.Errorf("--or-none warns: %q", words)
	}
	order.OrNone = false
	if err := Create([]string{other.disk, h.disk}, order, &h.said, h.tell); err != nil {
		t.Fatal(err)
	}
	if words := h.words(); !strings.Contains(words, old+" removed: the next snapshots need its room") {
		t.Errorf("it says %q", words)
	}
	for path, want := range map[string]bool{old: false, young: true, elsewhere: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
