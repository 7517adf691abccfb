package domain

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
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
	h.dm(0, "a--b-c", lvUUID, "dev/a-b/c", "dev/disk/by-id/dm-name-a--b-c", "dev/disk/by-id/dm-uuid-x",
		"dev/disk/by-path/pci-1")
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
		"dev/dm-7":                      "the running copy of a Qubes volume",
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

// What a logical volume is, LVM tells: its name and its device-mapper UUID need not.
func TestHiddenVolume(t *testing.T) {
	h := newHost(t)
	public, part, unknown := "LVM-"+strings.Repeat("p", 64), "LVM-"+strings.Repeat("h", 64), "LVM-"+strings.Repeat("u", 64)
	h.dm(0, "vg-web", public, "dev/vg/web")
	h.dm(1, "vg-web_rimage_0_imeta", part)
	h.dm(2, "vg-other", unknown, "dev/vg/other")
	h.node("dev/sdb", syscall.S_IFBLK, 8, 16)
	j := Judge{Resolver: h.resolver(), Hidden: func(uuid string) (bool, error) {
		if uuid == unknown {
			return false, errors.New("LVM does not answer")
		}
		return uuid == part, nil
	}}
	for path, want := range map[string]string{
		"dev/vg/web":                       "",
		"dev/dm-0":                         "",
		"dev/mapper/vg-web_rimage_0_imeta": "web_rimage_0_imeta is a hidden device of LVM: a pool, or a part of another volume",
		"dev/dm-1":                         "hidden device of LVM",
		"dev/vg/other":                     "cannot tell what kind of logical volume it is: LVM does not answer",
		"dev/sdb":                          "",
	} {
		e := j.Disks(&Domain{Disks: []Disk{{Target: "xvda", Source: h.root + "/" + path}}})[0]
		if e.Failed != (want != "") || !strings.Contains(e.Skip, want) {
			t.Errorf("%s: %+v, want %q", path, e, want)
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
	for name, c := range map[string]struct {
		image      string
		standalone bool
		want       string
	}{
		"v3 alone":                 {header(3, 0, 0), false, ""},
		"v3 backed":                {header(3, 112, 0), false, "backing store"},
		"v3 backed, not used":      {header(3, 112, 0), true, ""},
		"v3 data file":             {header(3, 0, 4), false, "in another file"},
		"v3 data file, not backed": {header(3, 0, 4), true, "in another file"},
		"v2 alone":                 {header(2, 0, 4), false, ""}, // version 2 has other bytes there
		"v2 backed":                {header(2, 72, 0), false, "backing store"},
		"no qcow2":                 {strings.Repeat("\x00", 112), false, "no qcow2 image"},
		"short":                    {"QFI\xfb", false, "no qcow2 image"},
		"short, not backed":        {"QFI\xfb", true, "no qcow2 image"},
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, []byte(c.image), 0o600); err != nil {
			t.Fatal(err)
		}
		j := Judge{Resolver: Resolver{"/sys", "/dev"}}
		e := j.Disks(&Domain{Disks: []Disk{{Target: "vda", Source: path, Format: "qcow2", Standalone: c.standalone}}})[0]
		if e.Failed != (c.want != "") || !strings.Contains(e.Skip, c.want) {
			t.Errorf("%s: %+v, want %q", name, e, c.want)
		}
	}
}

// TestCheckImages has images as QEMU makes them as disks of documents. What QEMU takes for a guest's bytes may look like
// anything.
func TestCheckImages(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img")
	}
	dir := t.TempDir()
	for _, words := range []string{
		"-f raw secret 1M", "-f qcow2 alone 1M", "-f qcow2 -o compat=0.10 old 1M", "-f qcow2 -F raw -b secret backed",
		"-f qcow2 -o data_file=data data-file 1M", "-f vmdk -o subformat=monolithicFlat flat 1M", "-f vmdk -F vmdk -b flat vmdk",
		"-f vhdx vhdx 1M", "-f qed -F raw -b secret qed",
	} {
		qemu := exec.Command("qemu-img", append([]string{"create", "-q"}, strings.Fields(words)...)...)
		qemu.Dir = dir
		if out, err := qemu.CombinedOutput(); err != nil {
			t.Fatalf("qemu-img create %s: %v: %s", words, err, out)
		}
	}
	xml := func(domain, driver, more string) string {
		return "<domain type='" + domain + "'><name>web</name><devices><disk type='file'><driver " + driver +
			"/><source file='/x'/><target dev='vda'/>" + more + "</disk></devices></domain>"
	}
	for _, c := range []struct{ document, image, want string }{
		{xml("kvm", "type='raw'", ""), "backed", ""},
		{xml("kvm", "name='qemu'", ""), "backed", ""},
		{xml("kvm", "type='qcow2'", ""), "alone", ""},
		{xml("kvm", "type='qcow2'", ""), "old", ""},
		{xml("kvm", "type='qcow2'", ""), "backed", "with a backing store"},
		{xml("kvm", "type='qcow2'", "<backingStore/>"), "backed", ""},
		{xml("xen", "type='qcow2'", "<backingStore/>"), "backed", "with a backing store"},
		{xml("kvm", "type='qcow2'", ""), "data-file", "whose data is in another file"},
		{xml("kvm", "type='qcow2'", "<backingStore/>"), "data-file", "whose data is in another file"},
		{xml("kvm", "type='qcow2'", ""), "secret", "is no qcow2 image"},
		{xml("kvm", "type='vmdk'", ""), "vmdk", "format vmdk"},
		{xml("kvm", "type='vmdk'", ""), "flat", "format vmdk"},
		{xml("kvm", "type='vhdx'", ""), "vhdx", "format vhdx"},
		{xml("kvm", "type='qed'", "<backingStore/>"), "qed", "format qed"},
		{xml("kvm", "type='auto'", ""), "secret", "format auto"},
		{"name = 'web'\ndisk = [ '/x,raw,vda,rw' ]\n", "backed", ""},
		{"name = 'web'\ndisk = [ '/x,,vda,rw' ]\n", "backed", ""},
		{"name = 'web'\ndisk = [ '/x,qcow2,vda,rw' ]\n", "backed", "with a backing store"},
		{"name = 'web'\ndisk = [ 'tap:qcow2:/x,vda,w' ]\n", "backed", "with a backing store"},
		{"name = 'web'\ndisk = [ '/x,vhd,vda,rw' ]\n", "secret", "format vhd"},
		{"no document", "alone", "the document: "},
	} {
		err := CheckImages([]byte(c.document), map[string]string{"vda": filepath.Join(dir, c.image), "vdb": "/missing"})
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\nwith %s: %v, want %q", c.document, c.image, err, c.want)
		}
	}
	testkit.WantStatus(t, "its status", CheckImages([]byte(xml("kvm", "type='qcow2'", "")), map[string]string{"vda": dir + "/backed"}), exit.Config)
}

// Every form of a disk, in the document's order.
func TestDisks(t *testing.T) {
	f, err := os.Open("testdata/forms.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := parseXML(f)
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

// What is not to be copied, or can't be, may be in use all the same.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	img, link := filepath.Join(dir, "disk.img"), filepath.Join(dir, "link")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(img, link); err != nil {
		t.Fatal(err)
	}
	var users []string
	var failure error
	var asked string
	j := Judge{
		Resolver: Resolver{"/sys", "/dev"},
		Users: func(path string) ([]string, error) {
			asked = path
			return users, failure
		},
		VolumePath: func(pool, volume string) (string, error) {
			if pool != "pool" {
				return "", errors.New("no such pool")
			}
			return img, nil
		},
		Exclude: []string{"xvda"},
	}
	for _, c := range []struct {
		disk  Disk
		asked string
	}{
		{Disk{Target: "xvda", Source: img}, img},
		{Disk{Target: "xvdb", Source: img, Trouble: "a backing store"}, img},
		{Disk{Target: "xvdc", Source: img, Transient: true}, img},
		{Disk{Target: "xvdd", Source: img, ReadOnly: true}, ""},
		{Disk{Target: "xvde", Source: img, Shareable: true}, ""},
		{Disk{Target: "xvdf", Source: img, Device: "cdrom"}, ""},
		{Disk{Target: "xvdg"}, ""},
		{Disk{Target: "xvdh", Source: img + "none"}, ""},
		{Disk{Target: "xvdl", Source: dir}, ""},
		{Disk{Target: "xvdm", Source: "/dev/null"}, ""},
		{Disk{Target: "xvdi", Source: link}, link},
		{Disk{Target: "xvdj", Pool: "pool", Volume: "v"}, img},
		{Disk{Target: "xvdk", Pool: "gone", Volume: "v"}, ""},
	} {
		ask := func() (string, error) {
			asked = ""
			return j.InUse(&Domain{Disks: []Disk{c.disk}})
		}
		users, failure = []string{"mounted on /srv", "backs /dev/loop1"}, nil
		want := ""
		if c.asked != "" {
			want = c.disk.Target + " (" + c.asked + ") is in use: mounted on /srv, backs /dev/loop1"
		}
		if got, err := ask(); got != want || err != nil || asked != c.asked {
			t.Errorf("%s: %q, %v, asked about %q; want %q", c.disk.Target, got, err, asked, want)
		}
		users = nil
		if got, err := ask(); got != "" || err != nil {
			t.Errorf("%s, unused: %q, %v", c.disk.Target, got, err)
		}
		failure = errors.New("cannot tell")
		if got, err := ask(); got != "" || (err != nil) != (c.asked != "") {
			t.Errorf("%s, who knows: %q, %v", c.disk.Target, got, err)
		}
	}
}
