package inuse

import (
	"embed"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// testdata/ holds what a Xen 4.17 host with Linux 6.1 showed while domain 1 ran on
// the LV 253:0: `xenstore-ls -f` of /local/domain/0/backend and /local/domain/1, and
// `grep -H .` of its device in /sys/bus/xen-backend/devices. In xenstore-qdisk the
// domain is started paused, and has a disk that a QEMU serves. They are embedded
// for the lab, which runs this test's binary alone.
//
//go:embed testdata
var testdata embed.FS

func captured(t *testing.T, names ...string) (store map[string]string) {
	t.Helper()
	store = make(map[string]string)
	for _, name := range names {
		text, err := testdata.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			path, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
			if store[path], err = strconv.Unquote(value); err != nil {
				t.Fatal(line)
			}
		}
	}
	return store
}

// dom0 returns a host with the captured blkback devices, the features word that
// the hypervisor gives, and a xenstored that knows store; nil means that none runs.
func dom0(t *testing.T, features string, store map[string]string) *host {
	t.Helper()
	root := t.TempDir()
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("/sys/hypervisor/type", "xen")
	write("/sys/hypervisor/properties/features", features)
	if err := os.Symlink("/sys/dev", root+"/sys/dev"); err != nil {
		t.Fatal(err)
	}
	socket := root + "/socket"
	if store != nil {
		serveXenstore(t, socket, store)
	}
	return &host{proc: "/proc", sys: root + "/sys", xenstore: []string{root + "/none", socket}, query: dm.Query}
}

func addBlkback(t *testing.T, h *host) {
	t.Helper()
	text, err := testdata.ReadFile("testdata/sysfs-vbd")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		path, value, _ := strings.Cut(line, ":")
		path = h.sys + strings.TrimPrefix(path, "/sys")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serveXenstore answers as xenstored does (docs/misc/xenstore.txt in Xen). A value
// of "EACCES" stands for an entry that must not be read.
func serveXenstore(t *testing.T, socket string, store map[string]string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerXenstore(c, store)
		}
	}()
}

func answerXenstore(c net.Conn, store map[string]string) {
	defer c.Close()
	for {
		var h [16]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return
		}
		body := make([]byte, binary.NativeEndian.Uint32(h[12:]))
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		path := strings.TrimSuffix(string(body), "\x00")
		if !strings.HasPrefix(path, "/") {
			path = "/local/domain/0/" + path
		}
		value, found := store[path]
		switch kind := binary.NativeEndian.Uint32(h[0:]); {
		case !found:
			value = "ENOENT\x00"
			binary.NativeEndian.PutUint32(h[0:], xsError)
		case value == "EACCES":
			value += "\x00"
			binary.NativeEndian.PutUint32(h[0:], xsError)
		case kind == xsDirectory:
			value = ""
			for other := range store {
				if name, below := strings.CutPrefix(other, path+"/"); below && !strings.Contains(name, "/") {
					value += name + "\x00"
				}
			}
		}
		binary.NativeEndian.PutUint32(h[12:], uint32(len(value)))
		c.Write(append(h[:], value...))
	}
}

func onDevice(major, minor uint64) *target {
	rdev := major<<8 | minor
	return &target{rdev: rdev, devices: map[uint64]string{rdev: ""}}
}

func wantDomains(t *testing.T, h *host, target *target, want ...string) {
	t.Helper()
	if users, err := h.domains(target); err != nil || !slices.Equal(users, want) {
		t.Errorf("users %q, %v; want %q", users, err, want)
	}
}

const dom0Features, domUFeatures = "000228f0", "00000705"

func TestIsDom0(t *testing.T) {
	for _, c := range []struct {
		hypervisor, features, capabilities string
		want                               bool
	}{
		{"", "", "", false},
		{"", "", "control_d\n", true},
		{"kvm", dom0Features, "", false},
		{"xen", domUFeatures, "", false},
		{"xen", domUFeatures, "control_d\n", true},
		{"xen", dom0Features, "", true},
		{"xen", "", "control_d\n", true},
	} {
		root := t.TempDir()
		for path, text := range map[string]string{
			"type": c.hypervisor, "properties/features": c.features, "xen/capabilities": c.capabilities,
		} {
			if path = filepath.Join(root, path); text == "" {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(".", root+"/hypervisor"); err != nil {
			t.Fatal(err)
		}
		h := host{proc: root, sys: root}
		if is, err := h.isDom0(); err != nil || is != c.want {
			t.Errorf("%+v: %v, %v", c, is, err)
		}
	}
}

func TestDomainOnCapturedHost(t *testing.T) {
	h := dom0(t, dom0Features, captured(t, "xenstore-backend", "xenstore-domain"))
	const domu1 = "disk xvda of domain 1 (domu1, xen-blkback)"
	wantDomains(t, h, onDevice(253, 0), domu1)
	wantDomains(t, h, onDevice(253, 1))
	addBlkback(t, h)
	wantDomains(t, h, onDevice(253, 0), domu1)
	wantDomains(t, h, onDevice(253, 1))
}

// Before the hotplug script has run there is a path only; a QEMU's disk never has
// more. It may go by any link to the device.
func TestDomainByPath(t *testing.T) {
	device, file := testkit.LoopDevice(t, 1<<20)
	link := file + " link"
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	for params, want := range map[string]string{
		link:                  "disk 51712 of domain 5 (xen-blkback)",
		"raw:" + device:       "disk 51712 of domain 5 (qemu)",
		"aio:" + link:         "disk 51712 of domain 5 (qemu)",
		"raw:" + device + "0": "",
		"":                    "",
		"qcow2:":              "",
	} {
		kind := "vbd"
		if strings.Contains(want, "qemu") {
			kind = "qdisk"
		}
		node := "/local/domain/0/backend/" + kind
		store := map[string]string{node: "", node + "/5": "", node + "/5/51712": "", node + "/5/51712/params": params}
		u, err := dom0(t, dom0Features, store).users(openFor(t, device, os.O_RDONLY).Stat, device, opener.undisturbed)
		if got := strings.Join(u.lasting, ", "); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", params, got, err, want)
		}
	}
}

// The captured host's disks are put on devices and files of this one.
func TestQdiskOnCapturedHost(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	_, file := testkit.LoopDevice(t, 1<<20)
	store := captured(t, "xenstore-qdisk", "xenstore-domain")
	const qdisk, loop = "/local/domain/0/backend/qdisk/1/51728/params", "/local/domain/0/backend/vbd/1/51744/params"
	if store[qdisk] != "aio:/dev/vgx/b" || store[loop] != "/root/file.img" {
		t.Fatalf("captured %q, %q", store[qdisk], store[loop])
	}
	store[qdisk], store[loop] = "aio:"+device, file
	delete(store, "/local/domain/0/backend/vbd/1/51744/physical-device") // a loop device that may be here, too
	h := dom0(t, dom0Features, store)
	for path, want := range map[string]string{
		device: "disk xvdb of domain 1 (domu1, qemu)",
		file:   "disk xvdc of domain 1 (domu1, xen-blkback)",
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		target, err := h.target(info)
		if err != nil {
			t.Fatal(err)
		}
		wantDomains(t, h, target, want)
	}
}

func TestNoDomains(t *testing.T) {
	wantDomains(t, dom0(t, dom0Features, map[string]string{}), onDevice(253, 0))
}

// In a Dom0 a xenstore that gives no answer is never "free".
func TestXenstoreUnreadable(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	f := openFor(t, device, os.O_RDONLY)
	silent := dom0(t, dom0Features, nil)
	l, err := net.Listen("unix", silent.xenstore[1])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dead := dom0(t, dom0Features, nil)
	if l, err := net.Listen("unix", dead.xenstore[1]); err != nil {
		t.Fatal(err)
	} else {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	forbidden := captured(t, "xenstore-backend")
	forbidden["/local/domain/0/backend/vbd/1/51712/params"] = "EACCES"
	unknown := dom0(t, "", map[string]string{})
	for name, h := range map[string]*host{
		"no socket": dom0(t, dom0Features, nil), "no daemon": dead, "no answer": silent,
		"no permission": dom0(t, dom0Features, forbidden), "no features": unknown,
	} {
		start := time.Now()
		err := h.check(f, device)
		if exit.StatusOf(err) != exit.Unavailable || time.Since(start) > testkit.Long {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// A DomU has no xenstore tree of its own disks' backends, and may not have any
// way to ask; as a driver domain it serves disks through its own blkback.
func TestDomUNeedsNoXenstore(t *testing.T) {
	h := dom0(t, domUFeatures, nil)
	wantDomains(t, h, onDevice(253, 0))
	addBlkback(t, h)
	wantDomains(t, h, onDevice(253, 0), "disk 51712 of domain 1 (xen-blkback)")
}

func TestXenstoreBadReply(t *testing.T) {
	for name, reply := range map[string][]uint32{
		"other request": {xsRead, 2, 0, 0},
		"other type":    {xsDirectory, 1, 0, 0},
		"long":          {xsRead, 1, 0, xsMaxPayload + 1},
		"cut":           {xsRead, 1, 0},
	} {
		ours, theirs := net.Pipe()
		go func() {
			io.ReadFull(theirs, make([]byte, 16+2))
			for _, v := range reply {
				theirs.Write(binary.NativeEndian.AppendUint32(nil, v))
			}
			theirs.Close()
		}()
		x := &xenstore{connection: ours}
		if value, err := x.read("a"); err == nil {
			t.Errorf("%s: %q", name, value)
		}
		x.Close()
	}
}
