package blockdev

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/testkit"
)

// TestWitnessWithoutCounters: a count that stands still shows nothing.
func TestWitnessWithoutCounters(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	f := openTest(t, device)
	if f.Witness(-1) == "" {
		t.Fatal("no witness")
	}
	control := "/sys/block/" + filepath.Base(device) + "/queue/iostats"
	if err := os.WriteFile(control, []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	defer os.WriteFile(control, []byte("1"), 0)
	if got := f.Witness(-1); got != "" {
		t.Errorf("%q", got)
	}
}

func TestWitness(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	other, _ := testkit.LoopDevice(t, 1<<20)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]string)
	for _, path := range []string{device, other, file} {
		f := openTest(t, path)
		last := f.Witness(-1)
		if last == "" {
			t.Fatalf("%s: no witness", path)
		}
		changes := func(what string, want bool) {
			t.Helper()
			now := f.Witness(-1)
			if (now != last) != want {
				t.Errorf("%s, %s: from %q to %q", path, what, last, now)
			}
			last = now
		}
		write := func(what string, do func(*File) error) {
			t.Helper()
			if err := do(f); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			changes(what, true)
		}
		changes("nothing", false)
		if _, err := f.ReadAt(Buffer(1<<20), 0); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(path); err != nil {
			t.Error(err)
		} else {
			if got := again.Witness(-1); got != last {
				t.Errorf("%s: another handle says %q, not %q", path, got, last)
			}
			again.Close()
		}
		changes("reading", false)
		write("writing", func(f *File) error { _, err := f.WriteAt(Buffer(4096), 8192); return err })
		write("the same bytes", func(f *File) error { _, err := f.WriteAt(Buffer(4096), 8192); return err })
		write("one byte", func(f *File) error { _, err := f.WriteAt([]byte{1}, 5); return err })
		write("zeroing", func(f *File) error { return f.ZeroRange(0, 1<<20) })
		changes("nothing again", false)
		// Somebody else, through the page cache, as a mount would.
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("x"), 70000); err != nil {
			t.Fatal(err)
		}
		changes("a buffered write", true)
		w.Close()
		for other, witness := range seen {
			if witness == last {
				t.Errorf("%s and %s have one witness", path, other)
			}
		}
		seen[path] = last
	}
}

// TestWitnessBelow: writes to the file below a loop device, and to the disk of a
// partition, count not among those to the device.
func TestWitnessBelow(t *testing.T) {
	device, p1, _ := testkit.Partitioned(t)
	path, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	file := strings.TrimSpace(string(path))
	open := func(path string) *File {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	partition, disk := open(p1), open(device)
	for below, seen := range map[string][]*File{file: {disk, partition}, device: {partition}} {
		var before []string
		for _, f := range seen {
			before = append(before, f.Witness(-1))
		}
		f, err := os.OpenFile(below, os.O_WRONLY|os.O_SYNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 4096), 2<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for i, f := range seen {
			if now := f.Witness(-1); now == before[i] || now == "" {
				t.Errorf("%s written: still %q", below, now)
			}
		}
	}
}

// TestWitnessOfLoop: the path that sysfs has of the file below a loop device can be another
// file's, as in another mount namespace.
func TestWitnessOfLoop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	// A loop device set up in a mount namespace with another file system at that place.
	dir := t.TempDir()
	inner := filepath.Join(dir, "image")
	if err := os.WriteFile(inner, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := testkit.Command(t, "", "unshare", "--mount", "sh", "-c",
		`mount -t tmpfs tmpfs "$1" && truncate -s 1M "$2" && losetup --find --show "$2"`, "sh", dir, inner)
	defer testkit.Command(t, "", "losetup", "--detach", elsewhere)
	if got := openTest(t, elsewhere).Witness(-1); got != "" {
		t.Errorf("the file in another mount namespace: %q", got)
	}
}

// TestWitnessOfLoopOffset: the same file from another byte on.
func TestWitnessOfLoopOffset(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	f, err := Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.OS().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	before := f.Witness(-1)
	info.Offset = 4096
	if err := unix.IoctlLoopSetStatus64(int(f.OS().Fd()), info); err != nil {
		t.Fatal(err)
	}
	if now := f.Witness(-1); now == "" || Untouched(before, now) {
		t.Errorf("still %q", now)
	}
}

// TestWitnessOfLoopOverDevice: a loop device over another device has what that counts.
func TestWitnessOfLoopOverDevice(t *testing.T) {
	below, _ := testkit.LoopDevice(t, 1<<20)
	device := testkit.Command(t, "", "losetup", "--find", "--show", below)
	testkit.Count(t, device)
	defer testkit.Command(t, "", "losetup", "--detach", device)
	f := openTest(t, device)
	before := f.Witness(-1)
	if !Untouched(before, f.Witness(-1)) {
		t.Fatalf("%q is not untouched", before)
	}
	w, err := os.OpenFile(below, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteAt([]byte("x"), 70000); err != nil {
		t.Fatal(err)
	}
	if Untouched(before, f.Witness(-1)) {
		t.Errorf("still %q", before)
	}
}

func TestUntouched(t *testing.T) {
	for _, test := range []struct {
		before, now string
		want        bool
	}{
		{"", "", false}, {"a", "", false}, {"", "a", false}, {"a", "b", false}, {"a", "a", true},
		{"a", "a with snapshots s", true},
		{"a with snapshots s", "a with snapshots s", true},
		{"a with snapshots s", "a with snapshots r s", true},
		{"a with snapshots s", "a with snapshots r", false},
		{"a with snapshots s", "a", false},
		{"a with snapshots s", "b with snapshots s", false},
	} {
		if got := Untouched(test.before, test.now); got != test.want {
			t.Errorf("%q, %q: %v", test.before, test.now, got)
		}
	}
}

// TestWitnessOfCoarseTimes writes twice within one tick of a file
// system's clock, a whole second.
func TestWitnessOfCoarseTimes(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 8<<20)
	testkit.Command(t, "", "mkfs.ext4", "-q", "-I", "128", device)
	dir := t.TempDir()
	testkit.Command(t, "", "mount", device, dir)
	defer testkit.Command(t, "", "umount", dir)
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := openTest(t, f.Name())
	defer seen.Close()
	if _, err := f.WriteString("before"); err != nil {
		t.Fatal(err)
	}
	before := seen.Witness(-1)
	if _, err := f.WriteAt([]byte("after "), 0); err != nil {
		t.Fatal(err)
	}
	if now := seen.Witness(-1); now == before {
		t.Errorf("still %q", now)
	}
}
