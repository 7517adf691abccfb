package dm

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// The tests of this file and of inuse_test.go run on real devices of their own.
// Those that need device-mapper are skipped where the kernel has none; scripts/lab
// runs them in a machine that has.

func askDM(t *testing.T, path string) *Device {
	t.Helper()
	d, err := Query(testkit.Number(t, path))
	if err != nil || d == nil {
		t.Fatalf("Query(%s) = %v, %v", path, d, err)
	}
	return d
}

func TestOtherDevices(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	if d, err := Query(testkit.Number(t, device)); d != nil || err != nil {
		t.Errorf("Query(%s) = %v, %v", device, d, err)
	}
	if d, err := Query(0xfff << 8); exit.StatusOf(err) != exit.Unavailable {
		t.Errorf("a device that sysfs doesn't know: %v, %v", d, err)
	}
}

func TestLV(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-n", "a-b", "-L", "8M", vg)
	lv := "/dev/" + vg + "/a-b"
	d := askDM(t, lv)
	if d.Name != vg+"-a--b" || !d.IsLV() || len(d.UUID) != 68 || d.OpenCount != 0 || d.ReadOnly || d.Thin() {
		t.Errorf("%+v", d)
	}
	if len(d.Targets) != 1 || d.Targets[0].Type != "linear" || d.Targets[0].Length != 16384 {
		t.Errorf("targets %+v", d.Targets)
	}
	if is, _ := d.Snapshot(); is {
		t.Error("is no snapshot")
	}
	table := testkit.Command(t, "", "dmsetup", "table", d.Name)
	if got := fmt.Sprintf("0 16384 linear %s", d.Targets[0].Params); got != table {
		t.Errorf("table %q, dmsetup says %q", got, table)
	}
	f, err := os.Open(lv)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d := askDM(t, lv); d.OpenCount != 1 {
		t.Errorf("open count %d of an open device", d.OpenCount)
	}
	f.Close()
	testkit.Command(t, "", "lvchange", "-q", "-pr", vg+"/a-b")
	if !askDM(t, lv).ReadOnly {
		t.Error("read-only not seen")
	}
}

func TestSnapshotState(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-n", "origin", "-L", "16M", vg)
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/origin")
	origin, snap := "/dev/"+vg+"/origin", "/dev/"+vg+"/snap"
	state := func(path string, wantIs, wantValid bool) {
		t.Helper()
		d := askDM(t, path)
		if is, valid := d.Snapshot(); is != wantIs || valid != wantValid {
			t.Errorf("%s: snapshot %v, valid %v, targets %+v", path, is, valid, d.Targets)
		}
	}
	state(origin, false, false)
	state(snap, true, true)
	testkit.Command(t, "", "dd", "if=/dev/urandom", "of="+origin, "bs=1M", "count=8", "oflag=direct")
	state(snap, true, false)
	if status := askDM(t, snap).Targets[0].Status; status != "Invalid" {
		t.Errorf("status %q", status)
	}
}

func TestThinVolume(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-T", "-L", "16M", "-V", "64M", "-n", "thin", vg+"/pool")
	d := askDM(t, "/dev/"+vg+"/thin")
	if !d.Thin() || !d.IsLV() {
		t.Errorf("%+v", d)
	}
}

// A table that doesn't fit the first buffer, and whose targets differ.
func TestLongTable(t *testing.T) {
	testkit.NeedDM(t)
	name := fmt.Sprintf("xbtest%d", os.Getpid())
	var table strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&table, "%d 8 %s\n", i*8, []string{"zero", "error"}[i%2])
	}
	testkit.Command(t, table.String(), "dmsetup", "create", name)
	t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", "--retry", name) })
	d := askDM(t, "/dev/mapper/"+name)
	if d.Name != name || d.UUID != "" || d.IsLV() || len(d.Targets) != 3000 {
		t.Fatalf("%q %q, %d targets", d.Name, d.UUID, len(d.Targets))
	}
	if want := (Target{Start: 2999 * 8, Length: 8, Type: "error"}); d.Targets[2999] != want {
		t.Errorf("last target %+v", d.Targets[2999])
	}
}

// What isn't made here by real devices: odd states and answers.
func TestSnapshotWords(t *testing.T) {
	for status, want := range map[string]bool{
		"16/8192 16": true, "0/8192 0": true,
		"Invalid": false, "Overflow": false, "Merge failed": false, "Unknown": false, "": false,
	} {
		d := &Device{Targets: []Target{{Type: "snapshot", Status: status}}}
		if is, valid := d.Snapshot(); !is || valid != want {
			t.Errorf("%q: snapshot %v, valid %v", status, is, valid)
		}
	}
}

func TestParseTargetsRefuses(t *testing.T) {
	if _, err := parseTargets(bytes.Repeat([]byte{0xff}, 100), 2); err == nil {
		t.Error("a next beyond the answer was taken")
	}
	if _, err := parseTargets(make([]byte, specSize-1), 1); err == nil {
		t.Error("a cut answer was taken")
	}
}

func TestTakeParams(t *testing.T) {
	d := &Device{Targets: []Target{{Length: 8, Type: "linear"}}}
	for _, other := range [][]Target{
		nil,
		{{Length: 9, Type: "linear"}},
		{{Length: 8, Type: "zero"}},
		{{Length: 8, Type: "linear", Start: 1}},
	} {
		if d.takeParams(other) {
			t.Errorf("took %+v", other)
		}
	}
	took := d.takeParams([]Target{{Length: 8, Type: "linear", Status: "8:0 0"}})
	if !took || !slices.Equal(d.Targets, []Target{{Length: 8, Type: "linear", Params: "8:0 0"}}) {
		t.Errorf("%+v", d.Targets)
	}
}
