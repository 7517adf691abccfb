package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of several rooms run on real devices of their own. Those that need device-mapper are skipped where the
// kernel has none; scripts/lab runs them in a machine that has.

// Command runs a program and returns what it printed, without the space around it.
func Command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// LoopDevice returns a loop device over a fresh sparse file.
func LoopDevice(t *testing.T, size int64, options ...string) (device, file string) {
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
	device = Command(t, "", "losetup", append(options, "--find", "--show", file)...)
	t.Cleanup(func() { Command(t, "", "losetup", "--detach", device) })
	Count(t, device)
	return device, file
}

// Count has the kernel count what is written to a loop device. The setting stays with its number, and a test that had
// that before may have been killed while nothing was counted.
func Count(t testing.TB, device string) {
	t.Helper()
	if err := os.WriteFile("/sys/block/"+filepath.Base(device)+"/queue/iostats", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// Partitioned returns a loop device with two partitions of 1 MiB. They are made without a table, which not every
// kernel could read.
func Partitioned(t *testing.T) (device, p1, p2 string) {
	t.Helper()
	device, _ = LoopDevice(t, 4<<20, "--partscan")
	Command(t, "", "addpart", device, "1", "2048", "2048")
	Command(t, "", "addpart", device, "2", "4096", "2048")
	t.Cleanup(func() { insist(t, "partx", "--delete", device) })
	return device, device + "p1", device + "p2"
}

// insist runs a program until it succeeds: a busy host may look into a device for a moment,
// and a process that another test starts has this one's files until it becomes a program.
func insist(t *testing.T, name string, args ...string) {
	t.Helper()
	for end := time.Now().Add(Long); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, doing())
			return
		}
	}
}

// NeedDM skips the test where there is no device-mapper.
func NeedDM(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no device-mapper here: ", err)
	}
	f.Close()
}

// VolumeGroup returns the name of a fresh LVM volume group, on a disk of its own and more.
func VolumeGroup(t *testing.T, more ...string) string {
	t.Helper()
	NeedDM(t)
	device, _ := LoopDevice(t, 96<<20)
	vg := fmt.Sprintf("xbtest%d", os.Getpid())
	Command(t, "", "vgcreate", append([]string{"-q", vg, device}, more...)...)
	t.Cleanup(func() { Command(t, "", "vgremove", "-q", "-y", "-ff", vg) })
	return vg
}

// LogicalVolume returns the path of a fresh LV of 8 MiB, called lv.
func LogicalVolume(t *testing.T, vg string) string {
	t.Helper()
	Command(t, "", "lvcreate", "-q", "-y", "-n", "lv", "-L", "8M", vg)
	return "/dev/" + vg + "/lv"
}

// Settle waits for udev, where there is one, to have looked at what was just made.
func Settle(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/udev/control"); err == nil {
		Command(t, "", "udevadm", "settle")
	}
}

// Number returns the device number of a block device.
func Number(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Rdev
}

// Hold has another process hold a file open until the returned function is called.
func Hold(t *testing.T, path string) (release func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := exec.Command("sleep", "1000")
	c.Stdin = f
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { c.Process.Kill(); c.Wait() })
	t.Cleanup(release)
	return release
}
