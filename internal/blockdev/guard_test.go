package blockdev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/testkit"
)

func wantFinding(t *testing.T, what string, g *Guard, want Finding) {
	t.Helper()
	if got := g.Check(); got != want {
		t.Errorf("%s: %d, want %d; it was %q and is %q", what, got, want, g.before, g.witness())
	}
}

// countsTwice reports whether the device refuses to write zeroes by itself, so that the kernel
// writes them after that and counts both.
func countsTwice(t *testing.T, f *File) bool {
	t.Helper()
	if !f.block {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	before := countersOf(dm.SysDir(stat.Rdev))
	if err := f.rangeIoctl(unix.BLKZEROOUT, 0, 4096); err != nil {
		t.Fatal(err)
	}
	n := countersOf(dm.SysDir(stat.Rdev)).written - before.written
	times := f.countsTimes()
	f.own.written.Add(n / times * 512)
	if n != 8*times {
		t.Logf("%s: 8 sectors zeroed count %d", f.path, n)
	}
	return n != 8*times
}

// ownWritesTo writes to the first 2 MiB of a file in every way that there is.
func ownWritesTo(t *testing.T, f *File) {
	t.Helper()
	if _, err := f.WriteAt(Buffer(1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("not a whole sector"), 1<<20+100); err != nil {
		t.Fatal(err)
	}
	var ranges []Range
	for i := range int64(300) {
		ranges = append(ranges, Range{i * 12288, Buffer(4096 * int(1+i%2))})
	}
	ranges = append(ranges, Range{1<<20 + 5, []byte("unaligned")})
	if err := f.WriteRanges(ranges[:100]); err != nil {
		t.Fatal(err)
	}
	for _, zero := range [][2]int64{{0, 1 << 20}, {4096, 8192}, {100, 70000}, {65536, 1<<20 - 512}} {
		if countsTwice(t, f) {
			break
		}
		if err := f.ZeroRange(zero[0], zero[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// testGuard tests a Guard of a file of at least 2 MiB. alien writes to it as another process
// would; unseen, which may be nil, touches what is not the file's.
func testGuard(t *testing.T, path string, alien, unseen func()) {
	t.Helper()
	f := openTest(t, path)
	again, err := f.Reread()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for range 2 {
		g := f.Guard(1 << 20)
		defer g.Close()
		wantFinding(t, "nothing", g, Alone)
		ownWritesTo(t, f)
		if _, err := again.ReadAt(Buffer(1<<20), 0); err != nil {
			t.Fatal(err)
		}
		wantFinding(t, "own writes", g, Alone)
		if unseen != nil {
			unseen()
			wantFinding(t, "what is not the file's", g, Alone)
		}
		alien()
		wantFinding(t, "another's write", g, Broken)
		ownWritesTo(t, f)
		wantFinding(t, "another's write and own ones", g, Broken)
	}
}

// scribble writes a few bytes to a file or device and closes it.
func scribble(t *testing.T, path string) func() {
	return func() {
		t.Helper()
		write := exec.Command("dd", "of="+path, "bs=1", "seek=5000", "conv=notrunc,fsync", "status=none")
		write.Stdin = strings.NewReader("x")
		if out, err := write.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestGuardFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	testGuard(t, path, scribble(t, path), func() {
		if err := exec.Command("cmp", path, path).Run(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestGuardFileBelowLoop has somebody write through a loop device that is gone afterwards.
func TestGuardFileBelowLoop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	testGuard(t, path, func() {
		device := testkit.Command(t, "", "losetup", "--find", "--show", path)
		testkit.Count(t, device)
		scribble(t, device)()
		testkit.Command(t, "", "losetup", "--detach", device)
	}, nil)
}

func TestGuardLoop(t *testing.T) {
	device, file := testkit.LoopDevice(t, 2<<20)
	t.Run("device", func(t *testing.T) { testGuard(t, device, scribble(t, device), nil) })
	t.Run("file below", func(t *testing.T) { testGuard(t, device, scribble(t, file), nil) })
}

// TestGuardPartition has neighbours at work: their writes don't matter, those to the whole
// disk do.
func TestGuardPartition(t *testing.T) {
	device, p1, p2 := testkit.Partitioned(t)
	f := openTest(t, p2)
	g := f.Guard(1 << 20)
	defer g.Close()
	scribble(t, p1)()
	wantFinding(t, "a neighbour's write", g, Alone)
	if _, err := f.WriteAt(Buffer(4096), 0); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "an own write", g, Alone)
	scribble(t, p2)()
	wantFinding(t, "another's write", g, Broken)
	g = f.Guard(1 << 20)
	defer g.Close()
	scribble(t, device)()
	wantFinding(t, "a write to the disk", g, Broken)
}

// TestGuardUnknown: where nothing is counted, nothing is known.
func TestGuardUnknown(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 2<<20)
	f := openTest(t, device)
	g := f.Guard(1 << 20)
	defer g.Close()
	control := "/sys/block/" + filepath.Base(device) + "/queue/iostats"
	if err := os.WriteFile(control, []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	defer os.WriteFile(control, []byte("1"), 0)
	wantFinding(t, "no counters", g, Unknown)

	below, _ := testkit.LoopDevice(t, 2<<20)
	over := testkit.Command(t, "", "losetup", "--find", "--show", below)
	defer testkit.Command(t, "", "losetup", "--detach", over)
	g = openTest(t, over).Guard(1 << 20)
	defer g.Close()
	wantFinding(t, "a device over a device", g, Unknown)
}

// TestGuardVolumes: device-mapper counts just what is written to a volume, whatever kind it
// is.
func TestGuardVolumes(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-L", "4M", "-n", "thick", vg)
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-L", "4M", "-n", "origin", vg)
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-s", "-L", "4M", "-n", "snap", vg+"/origin")
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-L", "16M", "-T", vg+"/pool")
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-V", "8M", "-n", "thin", "-T", vg+"/pool")
	lvs := []string{"thick", "origin", "snap", "thin"}
	exec.Command("modprobe", "-a", "dm-raid", "raid1").Run()
	if strings.Contains(testkit.Command(t, "", "dmsetup", "targets"), "raid ") {
		second, _ := testkit.LoopDevice(t, 32<<20)
		testkit.Command(t, "", "vgextend", "-q", vg, second)
		testkit.Command(t, "", "lvcreate", "-q", "-y", "--type", "raid1", "-m1", "-L", "4M", "-n", "raid", vg)
		lvs = append(lvs, "raid")
	}
	for _, lv := range lvs {
		path := "/dev/" + vg + "/" + lv
		t.Run(lv, func(t *testing.T) { testGuard(t, path, scribble(t, path), nil) })
	}
}
