package inuse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// TestMain lets the test binary be the process that has a device open: see hold.
func TestMain(m *testing.M) {
	if path := os.Getenv("XB_TEST_HOLD"); path != "" {
		holdOpen(path, os.Getenv("XB_TEST_HOLD_HOW"))
	}
	os.Exit(m.Run())
}

func holdOpen(path, how string) {
	flags, err := strconv.Atoi(how)
	if how == "mmap" {
		flags, err = os.O_RDWR, nil
	}
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		panic(err)
	}
	if how == "mmap" {
		if _, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED); err != nil {
			panic(err)
		}
		f.Close()
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// hold starts a process called name that opens path, with open flags or, if how
// is "mmap", keeps a mapping only. The returned function ends it.
func hold(t *testing.T, name, path, how string, args ...string) (pid int, stop func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(link, args...)
	c.Env = append(os.Environ(), "XB_TEST_HOLD="+path, "XB_TEST_HOLD_HOW="+how)
	c.Stderr = os.Stderr
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { in.Close(); c.Wait() }
	t.Cleanup(stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatal(line, err)
	}
	return c.Process.Pid, stop
}

func openFor(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// wantUnused fails unless nobody uses path, and that is found out without waiting.
func wantUnused(t *testing.T, path string) {
	t.Helper()
	f := openFor(t, path, os.O_RDONLY)
	defer f.Close()
	testkit.Settle(t)
	if u, err := thisHost.users(f.Stat, path, opener.undisturbed); err != nil || len(u.all()) > 0 {
		t.Errorf("%s: users %q, %v", path, u.all(), err)
	}
	start := time.Now()
	if err := Check(f, path); err != nil || time.Since(start) > lookLasts {
		t.Errorf("%s: %v after %v", path, err, time.Since(start))
	}
}

// visitors are LVM's commands, which tests of other packages run meanwhile: they look
// into every device of the machine.
var visitors = regexp.MustCompile(`process \d+ \((lvm|[lvp]vs)\) has it open(, )?`)

func withoutVisitors(users string) string {
	return strings.TrimSuffix(visitors.ReplaceAllString(users, ""), ", ")
}

// wantBusy fails unless Check refuses path, within a moment or only after 5 s.
func wantBusy(t *testing.T, path, pattern string, atOnce bool) {
	t.Helper()
	f := openFor(t, path, os.O_RDONLY)
	defer f.Close()
	start := time.Now()
	err := Check(f, path)
	waited := time.Since(start)
	if err == nil || exit.StatusOf(err) != exit.Busy {
		t.Fatalf("%s: %v", path, err)
	}
	want := regexp.MustCompile("^" + regexp.QuoteMeta(path) + " is in use: " + pattern + "$")
	if !want.MatchString(withoutVisitors(err.Error())) {
		t.Errorf("message %q, not %q", err, pattern)
	}
	if atOnce != (waited < lookLasts) {
		t.Errorf("%s: it took %v", path, waited)
	}
	t.Logf("%v: %v", waited.Round(time.Millisecond), err)
}

// ours reports whether a process is one that xb-locate ignores.
func ours(comm string) bool { return strings.HasPrefix(comm, "xb-") }

// wantUsers fails unless Users, asked as xb-locate does, names these users of path;
// "" is nobody.
func wantUsers(t *testing.T, h host, path, pattern string) {
	t.Helper()
	testkit.Settle(t)
	users, err := h.allUsers(path, ours)
	got, want := withoutVisitors(strings.Join(users, ", ")), regexp.MustCompile("^"+pattern+"$")
	if err != nil || !want.MatchString(got) {
		t.Errorf("%s: users %q, %v; want %q", path, got, err, pattern)
	}
}

func mount(t *testing.T, device string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "a dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Command(t, "", "mke2fs", "-q", device)
	testkit.Command(t, "", "mount", device, dir)
	t.Cleanup(func() { testkit.Command(t, "", "umount", dir) })
	return dir
}

func TestUnused(t *testing.T) {
	device, file := testkit.LoopDevice(t, 1<<20)
	wantUnused(t, device)
	other := filepath.Join(filepath.Dir(file), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantUnused(t, other)
}

func TestMounted(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	dir := mount(t, device)
	wantBusy(t, device, "mounted on "+dir, true)
}

func TestMountedPartition(t *testing.T) {
	device, p1, p2 := testkit.Partitioned(t)
	for _, path := range []string{device, p1, p2} {
		wantUnused(t, path)
	}
	dir := mount(t, p1)
	wantBusy(t, device, filepath.Base(p1)+" mounted on "+dir, true)
	wantBusy(t, p1, "mounted on "+dir, true)
	wantUnused(t, p2)
}

func TestWholeDiskOfPartition(t *testing.T) {
	device, p1, _ := testkit.Partitioned(t)
	pid, _ := hold(t, "dd", device, strconv.Itoa(os.O_RDWR))
	wantBusy(t, p1, fmt.Sprintf(`process %d \(dd\) has it open`, pid), false)
}

func TestMountedInAnotherNamespace(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	testkit.Command(t, "", "mke2fs", "-q", device)
	dir := t.TempDir()
	c := exec.Command("unshare", "--mount", "--propagation", "private",
		"sh", "-c", `mount "$0" "$1" && echo mounted && read end`, device, dir)
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); c.Wait() }()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Fatal("not mounted")
	}
	wantBusy(t, device, "mounted on "+dir, true)
}

// A btrfs has a device number of its own, and a mountinfo names one device only.
func TestMountedBtrfs(t *testing.T) {
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		t.Skip(err)
	}
	first, _ := testkit.LoopDevice(t, 128<<20)
	second, _ := testkit.LoopDevice(t, 128<<20)
	testkit.Command(t, "", "mkfs.btrfs", "-q", first, second)
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "btrfs", "-o", "device="+second, first, dir)
	if out, err := mount.CombinedOutput(); err != nil {
		t.Skipf("cannot mount a btrfs here: %s", out)
	}
	t.Cleanup(func() { testkit.Command(t, "", "umount", dir) })
	wantBusy(t, first, "mounted on "+dir+", part of the mounted btrfs [0-9a-f-]{36}", true)
	wantBusy(t, second, ".*part of the mounted btrfs [0-9a-f-]{36}", true)
}

func TestSwap(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	file := filepath.Join(t.TempDir(), "a swap file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{device, file} {
		testkit.Command(t, "", "mkswap", path)
		if out, err := exec.Command("swapon", path).CombinedOutput(); err != nil {
			t.Skipf("cannot swap here: %s", out)
		}
		wantBusy(t, path, "swap on "+path, true)
		testkit.Command(t, "", "swapoff", path)
	}
	wantUnused(t, device)
	wantUnused(t, file)
}

func TestLoopOver(t *testing.T) {
	device, file := testkit.LoopDevice(t, 1<<20)
	wantBusy(t, file, "backs "+device, true)
	renamed := file + " renamed"
	if err := os.Rename(file, renamed); err != nil {
		t.Fatal(err)
	}
	wantBusy(t, renamed, "backs "+device, true)

	above := testkit.Command(t, "", "losetup", "--find", "--show", device)
	defer testkit.Command(t, "", "losetup", "--detach", above)
	wantBusy(t, device, "backs "+above, true)
	wantUnused(t, above)
}

// Two loop devices over one file are one disk with two names.
func TestLoopBeside(t *testing.T) {
	_, other := testkit.LoopDevice(t, 4096) // or the test is skipped
	file := filepath.Join(filepath.Dir(other), "beside")
	testkit.Write(t, file, strings.Repeat("\x00", 1<<20))
	attach := func(options ...string) string {
		return testkit.Command(t, "", "losetup", append(options, "--find", "--show", file)...)
	}
	detach := func(device string) { testkit.Command(t, "", "losetup", "--detach", device) }

	device, beside := attach(), attach()
	wantBusy(t, device, "its file backs "+beside, true)
	wantBusy(t, beside, "its file backs "+device, true)
	detach(beside)
	wantUnused(t, device)

	pid, stop := hold(t, "dd", file, strconv.Itoa(os.O_RDWR))
	wantBusy(t, device, fmt.Sprintf(`process %d \(dd\) has it open`, pid), false)
	stop()

	second := attach("--offset", "512K")
	wantBusy(t, device, "its file backs "+second, true)
	first := attach("--sizelimit", "512K")
	detach(device) // and anybody may have its number from now on
	wantUnused(t, first)
	wantUnused(t, second)
	detach(first)
	detach(second)
}

func TestOpenByProcess(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	pid, stop := hold(t, "dd", device, strconv.Itoa(os.O_RDONLY))
	wantBusy(t, device, fmt.Sprintf(`process %d \(dd\) has it open`, pid), false)
	stop()
	wantUnused(t, device)
}

func TestOpenBySignatureReader(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	hold(t, "xb-sig", device, strconv.Itoa(os.O_RDONLY))
	wantUnused(t, device)
}

func TestNamedOnly(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	hold(t, "dd", device, strconv.Itoa(unix.O_PATH))
	wantUnused(t, device)
}

// Whoever is gone before the 5 s are over was no user.
func TestOpenForAMoment(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	_, stop := hold(t, "dd", device, strconv.Itoa(os.O_RDWR))
	f := openFor(t, device, os.O_RDONLY)
	wantUsers(t, thisHost, device, `process \d+ \(dd\) has it open`)
	start := time.Now()
	time.AfterFunc(time.Second, stop)
	if err := Check(f, device); err != nil || time.Since(start) < time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestRegularFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hold(t, "cat", file, strconv.Itoa(os.O_RDONLY))
	wantUnused(t, file)
	for _, mode := range []int{os.O_RDONLY, os.O_RDWR} { // reading, it may wait for its guest
		pid, stop := hold(t, "qemu-system-x86_64", file, strconv.Itoa(mode),
			"-name", "guest=domu1,debug-threads=on", "-S")
		wantBusy(t, file, fmt.Sprintf(`process %d \(qemu-system-x86, guest domu1\) has it open`, pid), false)
		stop()
	}
}

// A real QEMU, which opens its disk without O_EXCL.
func TestQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip(err)
	}
	device, _ := testkit.LoopDevice(t, 1<<20)
	c := exec.Command(qemu, "-name", "domu1", "-machine", "q35,accel=tcg", "-S",
		"-display", "none", "-nodefaults", "-monitor", "stdio", "-drive", "format=raw,if=virtio,file="+device)
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); c.Process.Kill(); c.Wait() }()
	// It greets before it opens the disk, and answers after that.
	fmt.Fprintln(in, "info status")
	for lines := bufio.NewScanner(out); !strings.Contains(lines.Text(), "VM status"); {
		if !lines.Scan() {
			t.Fatal("QEMU does not answer: ", lines.Err())
		}
	}
	openFor(t, device, os.O_RDWR|os.O_EXCL).Close() // the reason for all this
	wantBusy(t, device, fmt.Sprintf(`process %d \(qemu-system-x86, guest domu1\) has it open`, c.Process.Pid), false)
}

// A look by path opens nothing, so that it sees an image by whatever name.
func TestUsersByAnyName(t *testing.T) {
	device, file := testkit.LoopDevice(t, 1<<20)
	wantUsers(t, thisHost, device, "")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	wantUsers(t, thisHost, link, "backs "+device)
	dir := t.TempDir()
	testkit.Command(t, "", "mount", "--bind", filepath.Dir(file), dir)
	defer testkit.Command(t, "", "umount", dir)
	wantUsers(t, thisHost, filepath.Join(dir, filepath.Base(file)), "backs "+device)

	// as in a QEMU's own mount namespace
	node := filepath.Join(t.TempDir(), "node")
	if err := syscall.Mknod(node, syscall.S_IFBLK|0o600, int(testkit.Number(t, device))); err != nil {
		t.Fatal(err)
	}
	pid, _ := hold(t, "qemu", node, strconv.Itoa(os.O_RDWR))
	wantUsers(t, thisHost, device, fmt.Sprintf(`process %d \(qemu\) has it open`, pid))
}

func TestSwapByAnyName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a swap file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	testkit.Command(t, "", "mkswap", file)
	if out, err := exec.Command("swapon", file).CombinedOutput(); err != nil {
		t.Skipf("cannot swap here: %s", out)
	}
	defer testkit.Command(t, "", "swapoff", file)
	wantUsers(t, thisHost, link, "swap on "+file)
}

func TestUsersIgnored(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	hold(t, "xb-patch", device, strconv.Itoa(os.O_RDWR|os.O_EXCL))
	wantUsers(t, thisHost, device, "")
	pid, _ := hold(t, "dd", device, strconv.Itoa(os.O_RDONLY))
	wantUsers(t, thisHost, device, fmt.Sprintf(`process %d \(dd\) has it open`, pid))
}

// A QEMU that waits for a migration has its images open for reading only, until the
// guest comes (auto-read-only, which libvirt sets).
func TestUsersReadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hold(t, "xb-delta", file, strconv.Itoa(os.O_RDONLY))
	wantUsers(t, thisHost, file, "")
	pid, _ := hold(t, "qemu", file, strconv.Itoa(os.O_RDONLY))
	wantUsers(t, thisHost, file, fmt.Sprintf(`process %d \(qemu\) has it open`, pid))
	wantUnused(t, file)
}

// The open count has the kernel's own users, beside the two of xb-patch.
func TestOpenCount(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	h := thisHost
	count := 0
	h.query = func(uint64) (*dm.Device, error) { return &dm.Device{OpenCount: count}, nil }
	for range 2 {
		hold(t, "xb-patch", device, strconv.Itoa(os.O_RDWR))
	}
	for count = range 3 {
		wantUsers(t, h, device, "")
	}
	count = 3
	wantUsers(t, h, device, "opened 1 times by the kernel or an unknown process")
	cause := errors.New("no device-mapper")
	h.query = func(uint64) (*dm.Device, error) { return nil, cause }
	if users, err := h.allUsers(device, ours); exit.StatusOf(err) != exit.Unavailable || !errors.Is(err, cause) {
		t.Errorf("users %q, %v", users, err)
	}
}

// A file system that was unmounted lazily stands in no table, and still writes.
func TestUnmountedLazily(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	dir := t.TempDir()
	testkit.Command(t, "", "mke2fs", "-q", device)
	testkit.Command(t, "", "mount", device, dir)
	_, stop := hold(t, "writer", filepath.Join(dir, "lost+found"), strconv.Itoa(os.O_RDONLY))
	testkit.Command(t, "", "umount", "--lazy", dir)
	wantUsers(t, thisHost, device, "claimed by the kernel or an unknown process")
	stop()
	wantUsers(t, thisHost, device, "")
}

func TestUsersOfNothing(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), "/dev/null"} {
		if users, err := Users(path, ours); exit.StatusOf(err) != exit.Unavailable {
			t.Errorf("%s: users %q, %v", path, users, err)
		}
	}
}

func TestNeitherDeviceNorFile(t *testing.T) {
	if err := Check(openFor(t, "/dev/null", os.O_RDONLY), "/dev/null"); exit.StatusOf(err) != exit.Unavailable {
		t.Error(err)
	}
}

// A table that can't be read is no answer.
func TestCannotTell(t *testing.T) {
	device, file := testkit.LoopDevice(t, 1<<20)
	for _, path := range []string{device, file} {
		f := openFor(t, path, os.O_RDONLY)
		for _, h := range []host{{proc: t.TempDir(), sys: "/sys"}, {proc: "/proc", sys: t.TempDir()}} {
			if u, err := h.users(f.Stat, path, opener.undisturbed); exit.StatusOf(err) != exit.Unavailable {
				t.Errorf("%s: users %v, %v", path, u, err)
			}
		}
	}
}

func TestGuestOf(t *testing.T) {
	for cmdline, want := range map[string]string{
		"/usr/bin/qemu-system-x86_64\x00-name\x00guest=a,debug-threads=on\x00-S\x00": "a",
		"/usr/libexec/xen-qemu-system-i386\x00-S\x00-name\x00b\x00":                  "b",
		"/usr/bin/kvm\x00-id\x00100\x00-name\x00c,debug-threads=on\x00":              "c",
		"/usr/bin/qemu-system-x86_64\x00-name":                                       "",
		"/bin/cat\x00-name\x00d\x00":                                                 "",
		"":                                                                           "",
	} {
		if got := guestOf(cmdline); got != want {
			t.Errorf("%q: %q", cmdline, got)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b\134`: `/a b\`, `/x\04`: `/x\04`, `\999`: `\999`, "": ""} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	f, err := os.Open(os.Args[0])
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		if err := Check(f, f.Name()); err != nil {
			b.Fatal(err)
		}
	}
}
