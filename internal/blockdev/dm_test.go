package blockdev

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/exit"
)

// The tests of this file and of inuse_test.go run on real devices of their own.
// Those that need device-mapper are skipped where the kernel has none; scripts/lab
// runs them in a machine that has.

func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// loopDevice returns a loop device over a fresh sparse file.
func loopDevice(t *testing.T, size int64, options ...string) (device, file string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	device = command(t, "", "losetup", append(options, "--find", "--show", file)...)
	t.Cleanup(func() { command(t, "", "losetup", "--detach", device) })
	return device, file
}

// volumeGroup returns the name of a fresh LVM volume group, on a disk of its own and more.
func volumeGroup(t *testing.T, more ...string) string {
	t.Helper()
	needDM(t)
	device, _ := loopDevice(t, 96<<20)
	vg := fmt.Sprintf("xbtest%d", os.Getpid())
	command(t, "", "vgcreate", append([]string{"-q", vg, device}, more...)...)
	t.Cleanup(func() { command(t, "", "vgremove", "-q", "-y", "-ff", vg) })
	return vg
}

func needDM(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		t.Skip("no device-mapper here: ", err)
	}
	f.Close()
}

func rdevOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Rdev
}

func askDM(t *testing.T, path string) *DM {
	t.Helper()
	d, err := DeviceMapper(rdevOf(t, path))
	if err != nil || d == nil {
		t.Fatalf("DeviceMapper(%s) = %v, %v", path, d, err)
	}
	return d
}

func TestNoDeviceMapper(t *testing.T) {
	device, _ := loopDevice(t, 1<<20)
	if d, err := DeviceMapper(rdevOf(t, device)); d != nil || err != nil {
		t.Errorf("DeviceMapper(%s) = %v, %v", device, d, err)
	}
	if d, err := DeviceMapper(0xfff << 8); exit.StatusOf(err) != exit.Unavailable {
		t.Errorf("a device that sysfs doesn't know: %v, %v", d, err)
	}
}

func TestDeviceMapperLV(t *testing.T) {
	vg := volumeGroup(t)
	command(t, "", "lvcreate", "-q", "-n", "a-b", "-L", "8M", vg)
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
	table := command(t, "", "dmsetup", "table", d.Name)
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
	command(t, "", "lvchange", "-q", "-pr", vg+"/a-b")
	if !askDM(t, lv).ReadOnly {
		t.Error("read-only not seen")
	}
}

func TestSnapshotState(t *testing.T) {
	vg := volumeGroup(t)
	command(t, "", "lvcreate", "-q", "-n", "origin", "-L", "16M", vg)
	command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/origin")
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
	command(t, "", "dd", "if=/dev/urandom", "of="+origin, "bs=1M", "count=8", "oflag=direct")
	state(snap, true, false)
	if status := askDM(t, snap).Targets[0].Status; status != "Invalid" {
		t.Errorf("status %q", status)
	}
}

func TestThinVolume(t *testing.T) {
	vg := volumeGroup(t)
	command(t, "", "lvcreate", "-q", "-T", "-L", "16M", "-V", "64M", "-n", "thin", vg+"/pool")
	d := askDM(t, "/dev/"+vg+"/thin")
	if !d.Thin() || !d.IsLV() {
		t.Errorf("%+v", d)
	}
}

// A table that doesn't fit the first buffer, and whose targets differ.
func TestLongTable(t *testing.T) {
	needDM(t)
	name := fmt.Sprintf("xbtest%d", os.Getpid())
	var table strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&table, "%d 8 %s\n", i*8, []string{"zero", "error"}[i%2])
	}
	command(t, table.String(), "dmsetup", "create", name)
	t.Cleanup(func() { command(t, "", "dmsetup", "remove", "--retry", name) })
	d := askDM(t, "/dev/mapper/"+name)
	if d.Name != name || d.UUID != "" || d.IsLV() || len(d.Targets) != 3000 {
		t.Fatalf("%q %q, %d targets", d.Name, d.UUID, len(d.Targets))
	}
	if want := (DMTarget{Start: 2999 * 8, Length: 8, Type: "error"}); d.Targets[2999] != want {
		t.Errorf("last target %+v", d.Targets[2999])
	}
}

// What isn't made here by real devices: odd states and answers.
func TestSnapshotWords(t *testing.T) {
	for status, want := range map[string]bool{
		"16/8192 16": true, "0/8192 0": true,
		"Invalid": false, "Overflow": false, "Merge failed": false, "Unknown": false, "": false,
	} {
		d := &DM{Targets: []DMTarget{{Type: "snapshot", Status: status}}}
		if is, valid := d.Snapshot(); !is || valid != want {
			t.Errorf("%q: snapshot %v, valid %v", status, is, valid)
		}
	}
}

func TestParseTargetsRefuses(t *testing.T) {
	if _, err := parseTargets(bytes.Repeat([]byte{0xff}, 100), 2); err == nil {
		t.Error("a next beyond the answer was taken")
	}
	if _, err := parseTargets(make([]byte, dmSpecSize-1), 1); err == nil {
		t.Error("a cut answer was taken")
	}
}

func TestTakeParams(t *testing.T) {
	d := &DM{Targets: []DMTarget{{Length: 8, Type: "linear"}}}
	for _, other := range [][]DMTarget{nil, {{Length: 9, Type: "linear"}}, {{Length: 8, Type: "zero"}}, {{Length: 8, Type: "linear", Start: 1}}} {
		if d.takeParams(other) {
			t.Errorf("took %+v", other)
		}
	}
	if !d.takeParams([]DMTarget{{Length: 8, Type: "linear", Status: "8:0 0"}}) || !slices.Equal(d.Targets, []DMTarget{{Length: 8, Type: "linear", Params: "8:0 0"}}) {
		t.Errorf("%+v", d.Targets)
	}
}
