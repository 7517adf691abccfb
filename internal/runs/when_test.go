package runs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

var (
	setA = strings.Repeat("a", 26)
	setB = strings.Repeat("b", 26)
)

// hold makes this host a standby of a disk: an image that was synced or, with a set, taken so long before now.
func (h *host) hold(disk string, age time.Duration, set string) *state.Record {
	h.Helper()
	r := &state.Record{Phase: state.Clean, Disk: disk, Peer: "dom0a", Time: now.Add(-age),
		Image: stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: 5}}
	if set != "" {
		r.Time = now.Add(-age + time.Minute)
		r.Set = &state.Set{ID: set, Taken: now.Add(-age)}
	}
	h.holdAs(h.file(disk), r)
	return r
}

// file is the standby of a disk.
func (h *host) file(disk string) string {
	path := filepath.Join(filepath.Dir(h.source), strings.ReplaceAll(disk, "/", "-"))
	if _, err := os.Stat(path); err != nil {
		testkit.Write(h.T, path, "image")
	}
	return path
}

// holdAs saves a record of a file.
func (h *host) holdAs(path string, r *state.Record) {
	h.Helper()
	if err := h.dir.Device(path, path).Save(r); err != nil {
		h.Fatal(err)
	}
}

// holdSet holds disks that came in one set.
func (h *host) holdSet(set string, age time.Duration, disks ...string) (records []*state.Record) {
	h.Helper()
	var members []state.Member
	for _, disk := range disks {
		members = append(members, state.Member{Disk: disk, Identity: h.file(disk)})
	}
	for _, disk := range disks {
		r := h.hold(disk, age, set)
		r.Set.Members = members
		h.holdAs(h.file(disk), r)
		records = append(records, r)
	}
	return records
}

func TestWhen(t *testing.T) {
	when := func(h *host, want string) {
		t.Helper()
		got, err := When(h.dir, []string{"domu1/xvda", "domu1/xvdb"})
		if got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	h := newHost(t)
	when(h, "is of no one set: xvda missing, xvdb missing")
	h.holdSet(setA, time.Hour, "domu1/xvda", "domu1/xvdb")
	when(h, "is of 2026-11-27T11:00:00Z")
	h.hold("domu1/xvdb", 2*time.Hour, "")
	when(h, "is of no one set: xvda 2026-11-27T11:00:00Z, xvdb 2026-11-27T10:00:00Z")
	records := h.holdSet(setB, time.Hour, "domu1/xvda", "domu1/xvdb")
	records[1].Phase, records[1].Spool = state.Applying, h.dir.Device(h.file("domu1/xvdb"), "").SpoolFile("")
	h.holdAs(h.file("domu1/xvdb"), records[1])
	when(h, "is of no one set: xvda 2026-11-27T11:00:00Z, xvdb applying")
	h.holdAs(h.file("domu1/xvdb"), &state.Record{Phase: state.Incomplete, Disk: "domu1/xvdb", Time: now})
	when(h, "is of no one set: xvda 2026-11-27T11:00:00Z, xvdb incomplete")
	h.holdSet(setA, time.Hour, "domu1/xvda", "domu1/xvdb")
	if err := os.Remove(h.file("domu1/xvda")); err != nil {
		t.Fatal(err)
	}
	when(h, "is of no one set: xvda missing, xvdb 2026-11-27T11:00:00Z")
	h.holdSet(setA, time.Hour, "domu1/xvda", "domu1/xvdb")
	states, _ := filepath.Glob(string(h.dir) + "/*xvdb.json")
	text := testkit.Read(t, states[0])
	testkit.Write(t, states[0], strings.Replace(text, `"version": 1`, `"version": 2`, 1))
	// Of the disk that can be read it is not known any more that its set is whole.
	when(h, "is of no one set: xvda unreadable, xvdb unreadable")
	testkit.Write(t, states[0], text)

	// A disk that got another place: where it was is older.
	old := h.hold("domu1/xvdb", 100*time.Hour, "")
	h.holdAs(h.file("elsewhere"), old)
	h.holdSet(setA, time.Hour, "domu1/xvda", "domu1/xvdb")
	when(h, "is of 2026-11-27T11:00:00Z")
}

// TestDryRun: what was not done is not remembered.
func TestDryRun(t *testing.T) {
	h := newHost(t)
	r := h.report("80", "xb-patch: no")
	r.Step, r.DryRun = Prepare, true
	h.record(r, 80, "err ### ERROR 80: DomU domu1, disk xvda: dom0b:/dev/vg/a cannot be written to",
		"err #### DomU domu1, disk xvda, dom0b:/dev/vg/a: xb-patch: no")
	r = h.report("0", "xb-patch: well")
	r.DryRun = true
	h.record(r, 0, "warning #### DomU domu1, disk xvda, dom0b:/dev/vg/a: xb-patch: well")
	if names := testkit.Names(t, string(h.dir)); names != "" {
		t.Errorf("it has made %s", names)
	}
}
