package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// TestPlan: what runs here, what is off, what was copied to here, what nobody knows; and of all
// which hosts are the others.
func TestPlan(t *testing.T) {
	testkit.Programs(t, map[string]string{"getent": `case $2 in
dom0a) echo '127.0.1.1 STREAM' ;;
dom0b) echo '198.51.100.9 STREAM' ;;
*) exit 2 ;;
esac`})
	dir := t.TempDir()
	image := filepath.Join(dir, "a.img")
	testkit.Write(t, image, "x")
	if err := os.Mkdir(filepath.Join(dir, "xml"), 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, filepath.Join(dir, "xml", "copied.cfg"), "")
	uri := node(t, guest("here", 1, 1, disk("file", "file", image, "xvda", "")+disk("file", "file", image, "xvdb", ""))+
		guest("off", 2, 5, ""))
	lines := "here\tdom0a dom0b\txvdb\noff\tdom0b dom0a dom0c\t\ncopied\tdom0b dom0c\t\nnone\tdom0b\t\n"
	for _, c := range []struct{ option, want string }{
		{"", "here\tyes\tunknown\tdom0b\t-\n" +
			"off\tno\tyes\tdom0b dom0c\toff is not active here (virsh: shut off (unknown))\n" +
			"copied\tno\tyes\tdom0b dom0c\tcopied is not active here (virsh: not defined)\n" +
			"none\tno\tno\tdom0b\tnone is not active here (virsh: not defined)\n"},
		{"--disks", "here\tdom0a\tdom0b\tyes\txvda\n" +
			"off\tdom0a\tdom0b dom0c\tno\t\n" +
			"copied\t\tdom0b dom0c\tno\t\n" +
			"none\t-\tdom0b\tno\t\n"},
	} {
		args := strings.Fields("--plan -c " + uri + " --toolstack virsh --state-dir " + dir + " " + c.option)
		if r := locateCommand(t, strings.NewReader(lines), args...); r.stdout != c.want || r.status != 0 {
			t.Errorf("%s: %+v\nwant %s", c.option, r, c.want)
		}
	}
	if r := locateCommand(t, strings.NewReader("here\tdom0a\n"), "--plan"); r.status != 65 {
		t.Errorf("of a line with a part: %+v", r)
	}
}
