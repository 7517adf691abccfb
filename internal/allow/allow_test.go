package allow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// rules reads lines as gate.conf, for dom0a.
func rules(t *testing.T, lines ...string) *Rules {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gate.conf")
	testkit.Write(t, file, strings.Join(lines, "\n"))
	r, err := Read(file, "dom0a")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// directory is a new one by its real path.
func directory(t *testing.T) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPattern(t *testing.T) {
	for p, names := range map[pattern]struct{ yes, no string }{
		"domu1":    {"domu1", "domu domu11 Domu1"},
		"domu*":    {"domu domu1 domu1-x", "dom domu/1 xdomu"},
		"*/xvda":   {"a/xvda /xvda", "a/b/xvda a/xvdab xvda"},
		"/s/*.img": {"/s/a.img /s/.img /s/a.img.img", "/s/a/b.img /s/a.imgx /s/a.raw"},
		"/s/*/a*b": {"/s/x/ab /s//axb", "/s/x/a /s/x/y/ab"},
		"**":       {"a ab", "a/b"},
	} {
		for _, name := range strings.Fields(names.yes) {
			if !p.matches(name) {
				t.Errorf("%s does not match %s", p, name)
			}
		}
		for _, name := range strings.Fields(names.no) {
			if p.matches(name) {
				t.Errorf("%s matches %s", p, name)
			}
		}
	}
}

// One word that is wrong, and none of the file is taken: a line that is not understood may be the one that matters.
func TestConfRefuses(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/gate.conf"
	for line, words := range map[string]string{
		"dom0a domu1/xvda":                                   "want PEER",
		"dom0a domu1 /srv/a":                                 "a disk is DOMU/DISK",
		"dom0a domu1 promote shutdown":                       "nothing that can be done",
		"dom0a domu1/xvda/b /srv/a":                          "neither DOMU/DISK",
		"dom0a /xvda /srv/a":                                 "neither DOMU/DISK",
		"dom0a domu1/ /srv/a":                                "neither DOMU/DISK",
		"dom0a domu1/xvda srv/a":                             "no absolute path",
		"dom0a domu1/xvda /srv/../a":                         "no absolute path",
		"dom0a domu1/xvda /srv/a/":                           "no absolute path",
		"dom0a domu1/xvda file:///srv/%2A":                   "has a *",
		"dom0a domu1/xvda file:///srv/%zz":                   "bad URI",
		"dom0a domu1/xvda /srv/a all":                        "neither create-lv",
		"dom0a domu1/xvda /dev/vg/a create-lv document-only": "exclude",
		"dom0a domu1/xvda network":                           "document-only",
		"dom0b domu1/xvda":                                   "want PEER",
	} {
		testkit.Write(t, file, "# a comment\n\n  dom0a domu2/xvda /srv/b\n"+line+"\n")
		_, err := Read(file, "dom0a")
		testkit.WantStatus(t, line, err, exit.Config)
		if err != nil && (!strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "line 4")) {
			t.Errorf("%s: %v; want %s", line, err, words)
		}
	}
	testkit.Write(t, file, "dom0a domu2/xvda /srv/b\n")
	for _, mode := range []os.FileMode{0o666, 0o664, 0o646} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Read(file, "dom0a")
		testkit.WantStatus(t, fmt.Sprintf("mode %o", mode), err, exit.Config)
	}
	_, err := Read(dir, "dom0a")
	testkit.WantStatus(t, "a directory", err, exit.Config)
}

// The file that the package brings allows nothing; its examples are right.
func TestPackagedConf(t *testing.T) {
	text := testkit.Read(t, "../../scripts/packaging/conf/gate.conf")
	if r := rules(t, text); len(r.rules) > 0 {
		t.Errorf("it allows %v", r.rules)
	}
	r := rules(t, strings.ReplaceAll(text, "#dom0a", "dom0a"))
	if len(r.rules) != 2 || r.Volume("/dev/vg/domu1", "domu1/xvda") != nil || r.Path("/srv/images/domu2-a.img", "domu2/xvdb") != nil {
		t.Errorf("its examples are %v", r.rules)
	}
}

func TestDefaultIsDeny(t *testing.T) {
	dir := directory(t)
	testkit.Write(t, dir+"/a", "")
	missing, err := Read(dir+"/none", "dom0a")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Rules{
		"no file": missing, "empty": rules(t), "another peer": rules(t, "dom0b */* "+dir+"/*"), "a comment": rules(t, "#dom0a */* "+dir+"/*"),
	} {
		for what, err := range map[string]error{
			"DomU": r.DomU("domu1"), "disk": r.Disk("domu1/xvda"), "path": r.Path(dir+"/a", ""), "named": r.Named(dir+"/a", "domu1/xvda"),
			"volume": r.Volume("/dev/vg/a", "domu1/xvda"), "network": r.Network("domu1/xvda"), "promote": r.May(Promote, "domu1"), "memory": r.May(Memory, "domu1"),
		} {
			testkit.WantStatus(t, name+", "+what, err, exit.Refused)
		}
		_, _, err := r.Place(dir+"/b", "domu1/xvda")
		testkit.WantStatus(t, name+", place", err, exit.Refused)
	}
	var all *Rules // of this host's administrator
	dirFile, place, err := all.Place(dir+"/b", "")
	if err := errors.Join(err, all.DomU("x"), all.Disk("x/y"), all.Path("/dev/null", "x/y"), all.Network("x/y")); err != nil {
		t.Error(err)
	}
	defer dirFile.Close()
	testkit.Write(t, place, "b")
	if testkit.Read(t, dir+"/b") != "b" {
		t.Error("what is made at the place is not at the path")
	}
}

// want demands the status of an answer: 0 is a yes.
func want(t *testing.T, what string, err error, status int) {
	t.Helper()
	if got := exit.StatusOf(err); got != status {
		t.Errorf("%s: status %d, want %d: %v", what, got, status, err)
	}
}

func TestWhatIsAllowed(t *testing.T) {
	dir := directory(t)
	for _, d := range []string{"vm", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"vm/a.img", "vm/b b.img", "vm/iso", "other/c.img"} {
		testkit.Write(t, filepath.Join(dir, name), "")
	}
	for from, to := range map[string]string{"other/link": "../vm/a.img", "vm/link.img": "../other/c.img", "vm/none.img": "../other/none",
		"others": "other", "vms": "vm"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	r := rules(t, "dom0a domu1/xvda "+dir+"/vm/a.img", "dom0a domu1/xvdb file://"+dir+"/vm/b%20b.img", "dom0a domu2/* "+dir+"/vm/*.img",
		"dom0a domu3/xvda /dev/vg/domu3 create-lv", "dom0a domu3/xvdb /dev/vg/data", "dom0a domu1/sda "+dir+"/vm/iso document-only",
		"dom0b domu9/xvda "+dir+"/other/c.img")
	for _, c := range []struct {
		path, disk string
		ok         bool
	}{
		{"vm/a.img", "domu1/xvda", true},
		{"vm/a.img", "", true},
		{"vm/a.img", "domu1/xvdb", false},
		{"vm/b b.img", "domu1/xvdb", true},
		{"vm/a.img", "domu2/x", true},
		{"vm/a.img", "domu4/xvda", false},
		{"vm/../vm/a.img", "domu1/xvda", true}, // whatever its name
		{"vms/a.img", "domu1/xvda", true},
		{"other/link", "domu1/xvda", true},
		{"vm/link.img", "domu2/x", false}, // it is another's
		{"vm/link.img", "", false},
		{"other/c.img", "domu9/xvda", false},
		{"vm/iso", "domu1/sda", false},
		{"vm/iso", "", false},
		{"vm", "domu2/x", false},
		{"vm/new.img", "domu2/x", true}, // there is none
		{"vms/new.img", "domu2/x", true},
		{"vm/new.raw", "domu2/x", false},
		{"others/new.img", "domu2/x", false},
		{"vm/none/new.img", "domu2/x", false},
		{"/dev/null", "domu2/x", false},
		{"/dev/vg/domu3", "domu3/xvda", true},
		{"/dev/mapper/vg-domu3", "domu3/xvda", true},
		{"/dev/mapper/vg-domu3", "domu3/xvdb", false},
		{"/dev/vg/../vg/domu4", "domu3/xvda", false},
	} {
		path := c.path
		if path[0] != '/' {
			path = filepath.Join(dir, "vm") + "/../" + path
		}
		status := exit.OK
		if !c.ok {
			status = exit.Refused
		}
		want(t, c.path+" as "+c.disk, r.Path(path, c.disk), status)
	}
	for disk, ok := range map[string]bool{"domu1/xvda": true, "domu2/zzz": true, "domu1/sda": false, "domu9/xvda": false, "domu2": false} {
		if (r.Disk(disk) == nil) != ok {
			t.Errorf("%s: %v", disk, r.Disk(disk))
		}
	}
	for name, ok := range map[string]bool{"domu1": true, "domu3": true, "domu9": false, "domu": false, "*": false} {
		if (r.DomU(name) == nil) != ok {
			t.Errorf("%s: %v", name, r.DomU(name))
		}
	}
	if err := errors.Join(r.Named(dir+"/vm/iso", "domu1/sda"), r.Volume("/dev/vg/domu3", "domu3/xvda")); err != nil {
		t.Error(err)
	}
	want(t, "a volume that may not be created", r.Volume("/dev/vg/data", "domu3/xvdb"), exit.Refused)
}

// What is open is judged by what it is, wherever its name leads by then.
func TestOpenFileIsJudged(t *testing.T) {
	dir := directory(t)
	testkit.Write(t, dir+"/a.img", "a")
	testkit.Write(t, dir+"/secret", "s")
	r := rules(t, "dom0a domu1/xvda "+dir+"/a.img")
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, secret := open("a.img"), open("secret")
	want(t, "it", r.Open(a, "domu1/xvda"), exit.OK)
	want(t, "another", r.Open(secret, "domu1/xvda"), exit.Refused)
	if err := os.Link(dir+"/a.img", dir+"/hard"); err != nil {
		t.Fatal(err)
	}
	want(t, "a file of two names", r.Open(a, "domu1/xvda"), exit.Refused)
	if err := os.Remove(dir + "/hard"); err != nil {
		t.Fatal(err)
	}
	want(t, "it again", r.Open(a, "domu1/xvda"), exit.OK)
	if err := os.Rename(dir+"/secret", dir+"/a.img"); err != nil {
		t.Fatal(err)
	}
	want(t, "it, replaced", r.Open(a, "domu1/xvda"), exit.Refused)
	want(t, "what has its name now", r.Open(secret, "domu1/xvda"), exit.OK)
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	want(t, "a pipe", r.Open(pipe, "domu1/xvda"), exit.Refused)
}

// The place in which a file is made stays what was judged, although the name of its directory leads elsewhere by then.
func TestPlaceStays(t *testing.T) {
	dir := directory(t)
	for _, d := range []string{"vm", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to string) {
		os.Remove(dir + "/now")
		if err := os.Symlink(to, dir+"/now"); err != nil {
			t.Fatal(err)
		}
	}
	r := rules(t, "dom0a domu1/xvda "+dir+"/vm/a.img")
	link("vm")
	opened, place, err := r.Place(dir+"/now/a.img", "domu1/xvda")
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	link("other")
	testkit.Write(t, place, "")
	if testkit.Names(t, dir+"/other") != "" || !slices.Contains(strings.Fields(testkit.Names(t, dir+"/vm")), "a.img") {
		t.Error("the file was made elsewhere")
	}
	_, _, err = r.Place(dir+"/now/a.img", "domu1/xvda")
	want(t, "where the name leads now", err, exit.Refused)
}

func TestDeviceIsJudged(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 1<<20)
	node := directory(t) + "/node"
	testkit.Command(t, "", "cp", "-a", device, node)
	byID := rules(t, "dom0a domu1/xvda /dev/disk/by-id/none")
	for _, path := range []string{device, node} {
		want(t, path, rules(t, "dom0a domu1/xvda "+device).Path(path, "domu1/xvda"), exit.OK)
		want(t, path+" as its node", rules(t, "dom0a domu1/xvda "+node).Path(path, "domu1/xvda"), exit.Refused)
		want(t, path+" by its disk", byID.Path(path, "domu1/xvda"), exit.Refused)
	}
}

// A logical volume is one by its UUID, whatever it is called.
func TestVolumeIsJudged(t *testing.T) {
	testkit.NeedDM(t)
	vg := testkit.VolumeGroup(t)
	lv := testkit.LogicalVolume(t, vg)
	name := "/dev/mapper/" + vg + "-lv"
	r := rules(t, "dom0a domu1/xvda /dev/"+vg+"/lv", "dom0a domu1/xvdb /dev/"+vg+"/alike")
	for _, path := range []string{lv, name} {
		want(t, path, r.Path(path, "domu1/xvda"), exit.OK)
		want(t, path+" as another", r.Path(path, "domu1/xvdb"), exit.Refused)
	}
	testkit.Command(t, "0 8 zero", "dmsetup", "create", vg+"-alike")
	t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", vg+"-alike") })
	want(t, "no volume", r.Path("/dev/mapper/"+vg+"-alike", "domu1/xvdb"), exit.Refused)
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/lv")
	hidden := rules(t, "dom0a domu1/xvda /dev/mapper/*", "dom0a domu1/xvda /dev/"+vg+"/*")
	want(t, "a hidden part", hidden.Path(name+"-real", "domu1/xvda"), exit.Refused)
	want(t, "the snapshot", hidden.Path("/dev/"+vg+"/snap", "domu1/xvda"), exit.OK)
}
