package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStill asks again after something has happened to the domain or its disks.
func TestStill(t *testing.T) {
	t.Parallel()
	a, b, other := image(t), image(t), image(t)
	two := func(a, b string) string {
		return disk("file", "file", a, "xvda", "") + disk("file", "file", b, "xvdb", "")
	}
	note := filepath.Join(t.TempDir(), "note")
	before := node(t, guest("before", 9, 1, "")+guest("domu1", 1, 1, two(a, b)))
	r := locateCommand(t, nil, "-c", before, "--toolstack", "virsh", "--note", note, "domu1")
	if want := (result{0, "xvda\t" + a + "\nxvdb\t" + b + "\n", ""}); r != want {
		t.Fatalf("%+v, want %+v", r, want)
	}
	still := func(uri string, more ...string) result {
		return locateCommand(t, nil,
			append(append([]string{"--still", note, "-c", uri, "--toolstack", "virsh"}, more...), "domu1")...)
	}
	if r := still(before); r != (result{}) {
		t.Errorf("nothing has happened: %+v", r)
	}
	network := networkDisk("xvdb")
	cdrom := "<disk type='file' device='cdrom'><source file='/iso'/><target dev='hdc'/></disk>"
	first := guest("before", 9, 1, "")
	for what, c := range map[string]struct {
		node string
		want string // the words; "" for no change
	}{
		"paused, another medium": {first + guest("domu1", 1, 3, two(a, b)+cdrom), ""},
		"pivoted": {first + guest("domu1", 1, 1, two(a, other)),
			"its disk xvdb is " + other + ", and was " + b},
		"pivoted to a network": {first + guest("domu1", 1, 1, disk("file", "file", a, "xvda", "")+network),
			"its disk xvdb cannot be copied: "},
		"unplugged": {first + guest("domu1", 1, 1, disk("file", "file", a, "xvda", "")), "its disk xvdb is gone"},
		"plugged in": {first + guest("domu1", 1, 1, two(a, b)+disk("file", "file", other, "xvdc", "")),
			"it has a new disk xvdc"},
		"stopped":       {first + guest("domu1", 1, 5, two(a, b)), "not active here"},
		"gone":          {first, "not active here"},
		"started again": {first + guest("between", 8, 1, "") + guest("domu1", 1, 1, two(a, b)), "it was started again"},
		"replaced":      {first + guest("domu1", 7, 1, two(a, b)), "it is another domain"},
	} {
		r := still(node(t, c.node))
		switch {
		case c.want == "" && r != (result{}):
			t.Errorf("%s: %+v", what, r)
		case c.want != "" && (r.status != 75 || r.stdout != "" || !strings.Contains(r.stderr, "domu1 is not what it was") ||
			!strings.Contains(r.stderr, c.want)):
			t.Errorf("%s: %+v, want %q", what, r, c.want)
		}
	}
	if r := still(before + ".none"); r.status != 69 {
		t.Errorf("no answer: %+v", r)
	}
	// The path is the same, and QEMU goes on with the file that had it.
	if err := os.Rename(other, b); err != nil {
		t.Fatal(err)
	}
	if r := still(before); r.status != 75 || !strings.Contains(r.stderr, "its disk xvdb, "+b+", is another one") {
		t.Errorf("replaced file: %+v", r)
	}
	if r := still(before, "--exclude", "xvdb"); r.status != 75 {
		t.Errorf("other exclusions: %+v", r)
	}
}

func TestNote(t *testing.T) {
	t.Parallel()
	img, note := image(t), filepath.Join(t.TempDir(), "note")
	uri := node(t, guest("domu1", 1, 1, disk("file", "file", img, "xvda", ""))+
		guest("off", 2, 5, disk("file", "file", img, "xvda", "")))
	base := []string{"-c", uri, "--toolstack", "virsh"}
	for args, want := range map[string]int{
		"--note " + note + " off":                        1,
		"--note " + filepath.Dir(note) + "/none/n domu1": 73,
		"--still " + note + " domu1":                     66,
		"--still " + img + " domu1":                      65,
		"--still " + note + " --json domu1":              64,
		"--still " + note + " --note " + note + " domu1": 64,
		"--still " + note:                                64,
	} {
		if r := locateCommand(t, nil, append(base, strings.Fields(args)...)...); r.status != want || r.stdout != "" {
			t.Errorf("%s: %+v, want %d", args, r, want)
		}
		if _, err := os.Stat(note); err == nil {
			t.Fatalf("%s: there is a note", args)
		}
	}
}
