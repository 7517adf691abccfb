package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

const deviceID = "/srv/images/domu1 100%.img"

// TestMain is also the other process of the tests that need one.
func TestMain(m *testing.M) {
	switch os.Getenv("XB_TEST_DO") {
	case "hold":
		hold(os.Stdin)
	case "lock":
		_, err := Dir(os.Getenv("XB_TEST_DIR")).Device(deviceID, "img").Lock(Run{})
		fmt.Println(exit.StatusOf(err))
		os.Exit(0)
	case "save":
		if err := Dir(os.Getenv("XB_TEST_DIR")).Device(deviceID, "img").Save(&Record{Phase: Applying}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// again is this program, doing one thing in another process.
func again(t *testing.T, what string, dir Dir, before ...string) *exec.Cmd {
	t.Helper()
	args := append(before, os.Args[0])
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), "XB_TEST_DO="+what, "XB_TEST_DIR="+string(dir))
	return c
}

func newDevice(t *testing.T, identity string) (Dir, *Device) {
	d := Dir(t.TempDir())
	return d, d.Device(identity, "/dev/vg/lv")
}

// image returns an image that stands for a text.
func image(text string) stream.Image {
	return stream.Image{BlockSize: 4096, Hash: stream.XXH64, Sum: stream.Sum{xxhash.Sum64String(text)}}
}

// record returns a record of that image.
func record(phase Phase, text string) *Record { return &Record{Phase: phase, Image: image(text)} }

// applying returns a record of an unfinished apply.
func applying(d *Device) *Record {
	r := record(Applying, "source")
	r.Spool = d.SpoolFile("/var/spool")
	return r
}

func TestSaveAndLoad(t *testing.T) {
	for _, identity := range []string{
		deviceID, "LVM-" + strings.Repeat("a", 64), "/" + strings.Repeat("long/", 400) + "1", "/a", "/A", "/ä/*[x]",
	} {
		dir, d := newDevice(t, identity)
		if r, err := d.Load(); err != nil || *r != (Record{Phase: None}) {
			t.Errorf("nothing saved: %+v, %v", r, err)
		}
		for _, phase := range []Phase{Seen, Incomplete, Applying, Clean} {
			image := stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: 1 << 40, Sum: stream.Sum{0x0123456789abcdef}}
			want := Record{Phase: phase, Image: image,
				Peer: "dom0a", Spool: d.SpoolFile("/var/spool"), Witness: "w"}
			start := time.Now().Add(-time.Second)
			if err := d.Save(&want); err != nil {
				t.Fatal(err)
			}
			got, err := dir.Device(identity, "other name").Load()
			if err != nil || *got != want {
				t.Errorf("saved %+v, loaded %+v (%v)", want, got, err)
				continue
			}
			if got.Identity != identity || got.Device != "/dev/vg/lv" ||
				got.Time.Before(start) || got.Time.Location() != time.UTC {
				t.Errorf("loaded %+v", got)
			}
		}
		entries, err := os.ReadDir(string(dir))
		if err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
		if info, _ := entries[0].Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("the state can be read by others: %v", info.Mode())
		}
	}
}

func TestNoneAsJSON(t *testing.T) {
	text, err := json.Marshal(Record{Phase: None})
	if err != nil || string(text) != `{"phase":"none"}` {
		t.Errorf("%s, %v", text, err)
	}
}

// TestForm: what stands in a file is what stood there since version 1, byte for byte.
func TestForm(t *testing.T) {
	dir, d := newDevice(t, "/srv/a")
	when := time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)
	for _, test := range []struct {
		record Record
		want   string
	}{
		{Record{Phase: Clean, Disk: "domu1/xvda", UUID: "u",
			Image: stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: 5, Sum: stream.Sum{0xab}},
			Time:  when, Peer: "dom0a", Spool: "/s", Witness: "w"}, `{
  "version": 1,
  "phase": "clean",
  "identity": "/srv/a",
  "device": "/dev/vg/lv",
  "disk": "domu1/xvda",
  "uuid": "u",
  "size": 5,
  "block_size": 4096,
  "hash": "xxh64",
  "digest": "00000000000000ab",
  "time": "2026-11-27T01:02:03Z",
  "peer": "dom0a",
  "spool": "/s",
  "witness": "w"
}
`},
		{Record{Phase: Incomplete, Time: when}, `{
  "version": 1,
  "phase": "incomplete",
  "identity": "/srv/a",
  "device": "/dev/vg/lv",
  "time": "2026-11-27T01:02:03Z"
}
`},
		{Record{Phase: Clean, Image: stream.Image{BlockSize: 1 << 20, Hash: stream.SHA256}, Time: when}, `{
  "version": 1,
  "phase": "clean",
  "identity": "/srv/a",
  "device": "/dev/vg/lv",
  "block_size": 1048576,
  "hash": "sha256",
  "digest": "` + strings.Repeat("0", 64) + `",
  "time": "2026-11-27T01:02:03Z"
}
`},
	} {
		want := test.record
		if err := d.Save(&test.record); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(d.file(".json"))
		if err != nil || string(got) != test.want {
			t.Errorf("%s, want\n%s (%v)", got, test.want, err)
		}
		want.Identity, want.Device = "/srv/a", "/dev/vg/lv"
		if r, err := dir.Device("/srv/a", "x").Load(); err != nil || *r != want {
			t.Errorf("read as %+v, %v, want %+v", r, err, want)
		}
	}
}

// TestIdentitiesStayApart: no two devices and no two kinds of record have one file.
func TestIdentitiesStayApart(t *testing.T) {
	long := "/" + strings.Repeat("x", 300)
	identities := []string{"/a", "/a.seen", "/a.json", "/a/b", "/a%2Fb", "/sent", "/spool", "LVM-a", long + "1",
		long + "2"}
	dir := Dir(t.TempDir())
	for _, id := range identities {
		d := dir.Device(id, id)
		if err := d.Save(record(Clean, "state of "+id)); err != nil {
			t.Fatal(err)
		}
		if err := d.SaveSeen(record(Seen, "seen of "+id)); err != nil {
			t.Fatal(err)
		}
		if err := d.SaveSent("peer", image("sent of "+id)); err != nil {
			t.Fatal(err)
		}
		lock, err := d.Lock(Run{})
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Release()
	}
	spools := make(map[string]bool)
	for _, id := range identities {
		d := dir.Device(id, id)
		if r, err := d.Load(); err != nil || r.Image != image("state of "+id) {
			t.Errorf("%.20s: %+v, %v", id, r, err)
		}
		if r := d.LoadSeen(); r.Image != image("seen of "+id) || r.Phase != Seen {
			t.Errorf("%.20s: %+v", id, r)
		}
		sent, err := d.Sent()
		if err != nil || len(sent) != 1 || sent[0].Image != image("sent of "+id) {
			t.Errorf("%.20s: %+v, %v", id, sent, err)
		}
		spools[d.SpoolFile("")] = true
	}
	if len(spools) != len(identities) {
		t.Errorf("%d spools of %d devices", len(spools), len(identities))
	}
}

// stateFile returns the one file in dir.
func stateFile(t *testing.T, dir Dir) string {
	t.Helper()
	names, err := filepath.Glob(string(dir) + "/*.json")
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	return names[0]
}

// TestUnusable: what can't be understood is never taken for "nothing".
func TestUnusable(t *testing.T) {
	dir, d := newDevice(t, deviceID)
	if err := d.Save(applying(d)); err != nil {
		t.Fatal(err)
	}
	file := stateFile(t, dir)
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(string(right), old) {
			t.Fatalf("%s is not in\n%s", old, right)
		}
		return strings.Replace(string(right), old, new, 1)
	}
	bad := map[string]string{
		"empty": "", "null": "null", "object": "{}", "list": "[]", "zeroes": strings.Repeat("\x00", 300),
		"future version": replace(`"version": 1`, `"version": 2`), "no version": replace(`"version": 1,`, ``),
		"unknown phase":   replace(`"applying"`, `"dirty"`),
		"phase none":      replace(`"applying"`, `"none"`),
		"no phase":        replace(`"applying"`, `""`),
		"another device":  replace(`domu1`, `domu2`),
		"two":             string(right) + string(right),
		"size as text":    replace(`{`, `{"size": "1",`),
		"negative size":   replace(`{`, `{"size": -1,`),
		"unknown hash":    replace(`"xxh64"`, `"md5"`),
		"no hash":         replace(`"xxh64"`, `""`),
		"block size":      replace(`4096`, `0`),
		"no digest":       replace(`"digest": "`, `"none": "`),
		"digest":          replace(`"digest": "`, `"digest": "00`),
		"no hexadecimal":  replace(`"digest": "`, `"digest": "zz`),
		"another's spool": replace(`/var/spool/`, `/etc/passwd/`+"x"),
		"no spool":        replace(`"spool"`, `"spoon"`),
	}
	for n := range right[:len(right)-2] { // all but "}\n"
		bad[fmt.Sprintf("first %d bytes", n)] = string(right[:n])
	}
	for name, text := range bad {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := d.Load()
		if exit.StatusOf(err) != exit.Config || r != nil {
			t.Errorf("%s: %+v, %v", name, r, err)
		} else if !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v does not name %s", name, err, file)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = d.Load()
	testkit.WantStatus(t, "a directory", err, exit.IOError)
}

// TestDamagedSeen: what xb-sig saw only saves work.
func TestDamagedSeen(t *testing.T) {
	dir, d := newDevice(t, deviceID)
	if r := d.LoadSeen(); r.Phase != None {
		t.Errorf("never seen: %+v", r)
	}
	if err := d.SaveSeen(record(Seen, "1")); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Load(); err != nil || r.Phase != None {
		t.Errorf("seen has become the state: %+v, %v", r, err)
	}
	entries, err := os.ReadDir(string(dir))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	if err := os.WriteFile(filepath.Join(string(dir), entries[0].Name()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := d.LoadSeen(); *r != (Record{Phase: None}) {
		t.Errorf("damaged: %+v", r)
	}
}

func TestSent(t *testing.T) {
	dir, d := newDevice(t, "/dev/x[1]*")
	if sent, err := d.Sent(); err != nil || len(sent) != 0 {
		t.Errorf("%v, %v", sent, err)
	}
	peers := []string{"dom0a", "dom0b", "root@[fe80::1%eth0]", "../dom0c", "a/b"}
	for i, peer := range peers {
		for range 2 { // the second replaces the first
			sent := image(peer)
			sent.Size = int64(i)
			if err := d.SaveSent(peer, sent); err != nil {
				t.Fatal(err)
			}
		}
	}
	sent, err := d.Sent()
	if err != nil || len(sent) != len(peers) {
		t.Fatalf("%d records, %v", len(sent), err)
	}
	for _, r := range sent {
		if r.Phase != Clean || r.Image.Size >= int64(len(peers)) || r.Peer != peers[r.Image.Size] {
			t.Errorf("%+v", r)
		}
	}
	for _, peer := range []string{"", ".", ".."} {
		testkit.WantStatus(t, "peer "+peer, d.SaveSent(peer, image("")), exit.Usage)
	}
	if entries, err := os.ReadDir(string(dir)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	file, _ := filepath.Glob(string(dir) + "/sent/*/dom0a.json")
	if err := os.WriteFile(file[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.Sent()
	testkit.WantStatus(t, "damaged", err, exit.Config)
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := Dir(filepath.Join(file, "dir")).Device(deviceID, "img")
	_, err := d.Lock(Run{})
	testkit.WantStatus(t, "Lock", err, exit.CantCreate)
	testkit.WantStatus(t, "Save", d.Save(&Record{Phase: Clean}), exit.CantCreate)
	_, err = d.Load()
	testkit.WantStatus(t, "Load", err, exit.IOError)
}

// TestFailedSave: the old state stays if the new one can't be written.
func TestFailedSave(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := syscall.Mount("xbtest", string(dir), "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(string(dir), 0); err != nil {
			t.Error(err)
		}
	}()
	d := dir.Device(deviceID, "img")
	if err := d.Save(applying(d)); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(filepath.Join(string(dir), "filler"), make([]byte, 1<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	testkit.WantStatus(t, "full disk", d.Save(&Record{Phase: Clean}), exit.CantCreate)
	if r, err := d.Load(); err != nil || r.Phase != Applying {
		t.Errorf("%+v, %v", r, err)
	}
	if entries, err := os.ReadDir(string(dir)); err != nil || len(entries) != 2 {
		t.Errorf("a temporary file stays: %v, %v", entries, err)
	}
}

// TestDurable watches the system calls of a save: the content must be on the disk
// before the name, and the name before Save returns.
func TestDurable(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("no strace")
	}
	dir := Dir(t.TempDir())
	log := filepath.Join(t.TempDir(), "log")
	out, err := again(t, "save", dir, strace, "-f", "-y", "-o", log, "-e",
		"trace=fsync,rename,renameat,renameat2").CombinedOutput()
	if err != nil {
		t.Skipf("strace: %v: %s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(string(text)) {
		switch {
		case !strings.Contains(line, string(dir)):
		case strings.Contains(line, "rename"):
			calls = append(calls, "rename")
		case strings.Contains(line, "<"+string(dir)+">"):
			calls = append(calls, "fsync directory")
		default:
			calls = append(calls, "fsync file")
		}
	}
	if got, want := strings.Join(calls, ", "), "fsync file, rename, fsync directory"; got != want {
		t.Errorf("%s, want %s; of\n%s", got, want, text)
	}
}

// TestBytesThatAreNotUTF8: paths may have any, JSON can't.
func TestBytesThatAreNotUTF8(t *testing.T) {
	dir := Dir(t.TempDir())
	for i, id := range []string{"/srv/\xff\xfe", "/srv/\xff\xfd", "/srv/\uFFFD\uFFFD"} {
		if r, err := dir.Device(id, "x").Load(); err != nil || r.Phase != None {
			t.Errorf("%q: %v, %v", id, r, err)
		}
		r := record(Clean, id)
		r.Image.Size = int64(i)
		if err := dir.Device(id, "x").Save(r); err != nil {
			t.Fatal(err)
		}
		if r, err := dir.Device(id, "x").Load(); err != nil || r.Image.Size != int64(i) {
			t.Errorf("%q: %v, %v", id, r, err)
		}
	}
	// A spool whose name is lost could not be found again.
	err := dir.Device("/srv/y", "y").Save(&Record{Phase: Applying, Spool: "/spool/\xff.delta"})
	if exit.StatusOf(err) != exit.CantCreate {
		t.Error(err)
	}
}
