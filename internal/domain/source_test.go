package domain

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// host is a tree that looks like /dev and /sys of a host with device-mapper. The
// nodes are real, but nothing opens them.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) *host {
	if os.Getuid() != 0 {
		t.Skip("needs root for mknod")
	}
	return &host{t, t.TempDir()}
}

func (h *host) resolver() Resolver { return Resolver{Sys: h.root + "/sys", Dev: h.root + "/dev"} }

func (h *host) file(path, text string) string {
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) node(path string, mode uint32, major, minor int) string {
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := syscall.Mknod(path, mode|0o600, major<<8|minor); err != nil {
		h.t.Skipf("mknod: %v", err)
	}
	return path
}

func (h *host) link(path, to string) string {
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// dm makes device 253:minor with the links that LVM and udev make.
func (h *host) dm(minor int, name, uuid string, links ...string) {
	h.node(fmt.Sprintf("dev/dm-%d", minor), syscall.S_IFBLK, 253, minor)
	h.file(fmt.Sprintf("sys/dev/block/253:%d/dm/name", minor), name+"\n")
	h.file(fmt.Sprintf("sys/dev/block/253:%d/dm/uuid", minor), uuid+"\n")
	for _, link := range append(links, "dev/mapper/"+name) {
		h.link(link, fmt.Sprintf("%s/dev/dm-%d", h.root, minor))
	}
}

var lvUUID = "LVM-" + strings.Repeat("a", 64)

func TestResolve(t *testing.T) {
	h := newHost(t)
	h.dm(0, "a--b-c", lvUUID, "dev/a-b/c", "dev/disk/by-id/dm-name-a--b-c", "dev/disk/by-id/dm-uuid-x", "dev/disk/by-path/pci-1")
	h.dm(1, "vg--x-lv--y--z", lvUUID, "dev/vg-x/lv-y-z")
	h.dm(2, "vg-hidden-real", lvUUID+"-real")
	h.dm(3, "luks-home", "CRYPT-LUKS2-x", "dev/disk/by-id/crypt")
	h.dm(4, "vg-nolink", lvUUID)
	h.dm(5, "other-lv", lvUUID)
	h.link("dev/other/lv", h.root+"/dev/dm-4") // stale
	h.dm(6, "VG_XenStorage--1b2c-VHD--3d", lvUUID, "dev/VG_XenStorage-1b2c/VHD-3d")
	h.dm(7, "qubes_dom0-vm--work--root--snap", lvUUID, "dev/qubes_dom0/vm-work-root-snap")
	h.node("dev/sdb", syscall.S_IFBLK, 8, 16)
	h.link("dev/disk/by-id/wwn", "../../sdb")
	h.node("dev/drbd0", syscall.S_IFBLK, 147, 0)
	h.node("dev/null", syscall.S_IFCHR, 1, 3)
	h.file("images/a.img", "")
	h.link("images/link.img", "a.img")
	h.link("images/loop", "loop")
	for path, want := range map[string]string{
		"dev/a-b/c":                     "dev/a-b/c",
		"dev/mapper/a--b-c":             "dev/a-b/c",
		"dev/dm-0":                      "dev/a-b/c",
		"dev/disk/by-id/dm-name-a--b-c": "dev/a-b/c",
		"dev/disk/by-id/dm-uuid-x":      "dev/a-b/c",
		"dev/disk/by-path/pci-1":        "dev/a-b/c",
		"dev//a-b/./c":                  "dev/a-b/c",
		"dev/dm-1":                      "dev/vg-x/lv-y-z",
		"dev/dm-2":                      "is a hidden device of LVM (vg-hidden-real)",
		"dev/dm-3":                      "dev/mapper/luks-home",
		"dev/disk/by-id/crypt":          "dev/mapper/luks-home",
		"dev/dm-4":                      "dev/mapper/vg-nolink",
		"dev/dm-5":                      "dev/mapper/other-lv",
		"dev/dm-6":                      "XenServer storage repository",
		"dev/dm-7":                      "running Qubes domain",
		"dev/sdb":                       "dev/sdb",
		"dev/disk/by-id/wwn":            "dev/disk/by-id/wwn",
		"dev/drbd0":                     "DRBD",
		"dev/null":                      "neither a block device nor a regular file",
		"dev":                           "neither a block device nor a regular file",
		"images/a.img":                  "images/a.img",
		"images/link.img":               "images/link.img",
		"images/loop":                   "too many levels of symbolic links",
		"images/none.img":               "no such file or directory",
		"images/a.img/x":                "not a directory",
	} {
		s, err := h.resolver().Resolve(h.root + "/" + path)
		switch {
		case err == nil && s.Path == h.root+"/"+want:
		case err != nil && strings.Contains(err.Error(), want) && want != path:
		default:
			t.Errorf("%s: %+v, %v; want %s", path, s, err, want)
		}
	}
}

func TestSplitDMName(t *testing.T) {
	for name, want := range map[string][2]string{
		"vg-lv":       {"vg", "lv"},
		"a--b-c":      {"a-b", "c"},
		"a-b--c":      {"a", "b-c"},
		"a---b":       {"a-", "b"},
		"a----b-c--d": {"a--b", "c-d"},
		"vg-lv-real":  {},
		"vg":          {},
		"vg-":         {},
	} {
		vg, lv, ok := splitDMName(name)
		if vg != want[0] || lv != want[1] || ok != (want[0] != "") {
			t.Errorf("%s: %q, %q, %v", name, vg, lv, ok)
		}
	}
}

func TestQcow2(t *testing.T) {
	header := func(version byte, backing, features byte) string {
		h := make([]byte, 112)
		copy(h, "QFI\xfb")
		h[7], h[15], h[79] = version, backing, features
		return string(h)
	}
	for name, c := range map[string]struct{ image, want string }{
		"v3 alone":     {header(3, 0, 0), ""},
		"v3 backed":    {header(3, 112, 0), "backing store"},
		"v3 data file": {header(3, 0, 4), "backing store"},
		"v2 alone":     {header(2, 0, 4), ""}, // version 2 has other bytes there
		"v2 backed":    {header(2, 72, 0), "backing store"},
		"no qcow2":     {strings.Repeat("\x00", 112), "no qcow2 image"},
		"short":        {"QFI\xfb", "no qcow2 image"},
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, []byte(c.image), 0o600); err != nil {
			t.Fatal(err)
		}
		j := Judge{Resolver: Resolver{"/sys", "/dev"}}
		e := j.Disks(&Domain{Disks: []Disk{{Target: "vda", Source: path, Format: "qcow2"}}})[0]
		if e.Failed != (c.want != "") || !strings.Contains(e.Skip, c.want) {
			t.Errorf("%s: %+v, want %q", name, e, c.want)
		}
	}
}

// Every form of a disk, in the document's order.
func TestDisks(t *testing.T) {
	f, err := os.Open("testdata/forms.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := ParseXML(f)
	if err != nil {
		t.Fatal(err)
	}
	j := Judge{
		Resolver:   Resolver{"/sys", "/dev"},
		VolumePath: func(pool, volume string) (string, error) { return "", fmt.Errorf("no pool %s", pool) },
		Exclude:    []string{"xvdv", "nosuch"},
	}
	var got []string
	for _, e := range j.Disks(d) {
		how := map[bool]string{true: "FAILED", false: "skip"}[e.Failed]
		if e.Skip == "" {
			how = "copy"
		}
		got = append(got, strings.Join([]string{e.Target, how, e.Source, e.Skip}, " | "))
	}
	text, err := os.ReadFile("testdata/forms.want")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Split(strings.TrimSpace(string(text)), "\n"); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), text)
	}
}

// loopDevice attaches a file of 1 MiB to a loop device.
func loopDevice(t *testing.T) (device, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	return device, file
}

// hold keeps a file open in a process of the given name until the test ends.
func hold(t *testing.T, name, path string) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(copied, "60")
	cmd.Args[0] = name
	cmd.Stdin = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 { // until exec has given it its name
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid)); string(bytes.TrimSpace(comm)) == name {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not run", name)
}

func TestOpenReal(t *testing.T) {
	device, file := loopDevice(t)
	resolver, opens := Resolver{"/sys", "/dev"}, Opens{"/sys", "/proc"}
	check := func(path string, want bool, when string) {
		t.Helper()
		s, err := resolver.Resolve(path)
		if err != nil || s.Path != path {
			t.Fatalf("%s: %+v, %v", path, s, err)
		}
		if got, err := opens.Open(context.Background(), s); got != want || err != nil {
			t.Errorf("%s, %s: open is %v, %v", path, when, got, err)
		}
	}
	// Another node of the same device, as in qemu's own mount namespace.
	other := filepath.Join(t.TempDir(), "node")
	info, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mknod(other, syscall.S_IFBLK|0o600, int(info.Sys().(*syscall.Stat_t).Rdev)); err != nil {
		t.Fatal(err)
	}
	check(file, true, "behind a loop device")
	check(device, false, "idle")
	above, err := exec.Command("losetup", "--find", "--show", device).Output()
	if err != nil {
		t.Fatal(err)
	}
	check(device, true, "below another loop device")
	if err := exec.Command("losetup", "--detach", strings.TrimSpace(string(above))).Run(); err != nil {
		t.Fatal(err)
	}
	check(device, false, "idle again")
	mnt := t.TempDir()
	if out, err := exec.Command("sh", "-c", "mkfs.ext4 -q "+device+" && mount "+device+" "+mnt).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	check(device, true, "mounted")
	if err := exec.Command("umount", mnt).Run(); err != nil {
		t.Fatal(err)
	}
	hold(t, "xb-patch", device)
	check(device, false, "held by xb-patch")
	hold(t, "qemu", other)
	check(device, true, "held by another process")

	plain := filepath.Join(t.TempDir(), "plain.img")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check(plain, false, "idle")
	hold(t, "qemu", plain)
	check(plain, true, "held")

	// What is not to be copied, or can't be, may be in use all the same.
	j := Judge{Resolver: resolver, Opens: opens, Exclude: []string{"xvda"}}
	for _, disk := range []Disk{{Target: "xvda"}, {Target: "xvdb", Trouble: "a backing store"}, {Target: "xvdc", Transient: true}, {Target: "xvdd", ReadOnly: true}} {
		disk.Source = plain
		want := disk.Target + " (" + plain + ")"
		if disk.ReadOnly {
			want = ""
		}
		if got, err := j.InUse(context.Background(), &Domain{Disks: []Disk{disk}}); got != want || err != nil {
			t.Errorf("%+v: %q in use, %v", disk, got, err)
		}
	}
}

// The open count of device-mapper, of which there is none here: dmsetup is a
// program that prints what the real one printed.
func TestOpenCount(t *testing.T) {
	h := newHost(t)
	h.dm(7, "vg-lv", lvUUID, "dev/vg/lv")
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	program := func(name, text string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := h.resolver().Resolve(h.root + "/dev/vg/lv")
	if err != nil {
		t.Fatal(err)
	}
	open := func() string {
		open, err := Opens{Sys: h.root + "/sys", Proc: h.root + "/proc"}.Open(context.Background(), s)
		return fmt.Sprint(open, err)
	}
	program("dmsetup", `[ "$*" = "info -c --noheadings -o open -j 253 -m 7" ] && echo "    1"`)
	if got := open(); got != "true <nil>" {
		t.Errorf("open count 1: %s", got)
	}
	program("dmsetup", "echo 0")
	if got := open(); got != "false <nil>" {
		t.Errorf("open count 0: %s", got)
	}
	// xb-patch with two descriptors, and the domain started behind its back.
	h.file("proc/42/comm", "xb-patch\n")
	h.link("proc/42/fd/3", h.root+"/dev/dm-7")
	h.link("proc/42/fd/4", h.root+"/dev/dm-7")
	program("dmsetup", "echo 2")
	if got := open(); got != "false <nil>" {
		t.Errorf("open by xb-patch only: %s", got)
	}
	program("dmsetup", "echo 3")
	if got := open(); got != "true <nil>" {
		t.Errorf("open by xb-patch and blkback: %s", got)
	}
	h.file("proc/42/comm", "dd\n")
	if got := open(); got != "true <nil>" {
		t.Errorf("open by dd: %s", got)
	}
	os.RemoveAll(h.root + "/proc")
	program("dmsetup", "echo 'Command failed.' >&2; exit 1")
	program("lvs", "echo '  open'")
	if got := open(); got != "true <nil>" {
		t.Errorf("lvs says open: %s", got)
	}
	program("lvs", "echo '  '")
	if got := open(); got != "false <nil>" {
		t.Errorf("lvs says nothing: %s", got)
	}
	program("lvs", "echo '  WARNING: x'; echo '  open'")
	if got := open(); !strings.HasPrefix(got, `false lvs prints "WARNING: x`) {
		t.Errorf("lvs says more: %s", got)
	}
	program("lvs", "exit 5")
	if got := open(); !strings.HasPrefix(got, "false cannot tell whether") || !strings.HasSuffix(got, "Command failed.") {
		t.Errorf("nobody answers: %s", got)
	}
	program("dmsetup", "echo many")
	if got := open(); !strings.Contains(got, "no open count") {
		t.Errorf("dmsetup prints nonsense: %s", got)
	}
}

func TestOpenByBlkback(t *testing.T) {
	h := newHost(t)
	path := h.node("dev/sdb", syscall.S_IFBLK, 8, 0x1f)
	s, err := h.resolver().Resolve(path)
	if err != nil {
		t.Fatal(err)
	}
	opens := Opens{Sys: h.root + "/sys", Proc: h.root + "/proc"}
	for text, want := range map[string]bool{"8:1f\n": true, "fd:0\n": false, "8:1": false} {
		h.file("sys/bus/xen-backend/devices/vbd-1-51712/physical_device", text)
		if got, err := opens.Open(context.Background(), s); got != want || err != nil {
			t.Errorf("physical_device %q: %v, %v", text, got, err)
		}
	}
}
