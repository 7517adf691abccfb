package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/allow"
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
	confs, settings := filepath.Join(dir, "confs"), filepath.Join(dir, "settings")
	for _, d := range []string{confs, settings} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"1": "DOMU=here\nDOM0S='dom0a dom0b'\nEXCLUDE=xvdb",
		"2": "DOMU=off; DOM0S=(dom0b dom0a dom0c)", "3": "exit", "4": "DOMU=copied; DOM0S='dom0b dom0c'; EXCLUD=x",
		"5": "DOMU=none; DOM0S=dom0b; STALL=1"} {
		testkit.Write(t, filepath.Join(confs, name+".conf"), text+"\n")
	}
	ask := func(more string) result {
		return locateCommand(t, nil, strings.Fields("--plan -c "+uri+" --toolstack virsh --state-dir "+dir+" --confs "+confs+" "+more)...)
	}
	for _, c := range []struct{ options, want string }{
		{"--settings " + settings, "1\there\tyes\tunknown\tdom0b\t-\n" +
			"2\toff\tno\tyes\tdom0b dom0c\toff is not active here (virsh: shut off (unknown))\n" +
			"4\tcopied\tno\tyes\tdom0b dom0c\tcopied is not active here (virsh: not defined)\n" +
			"5\tnone\tno\tno\tdom0b\tnone is not active here (virsh: not defined)\n"},
		{"--disks", "here\tdom0a\tdom0b\tyes\txvda\n" +
			"off\tdom0a\tdom0b dom0c\tno\t\n" +
			"copied\t\tdom0b dom0c\tno\t\n" +
			"none\t-\tdom0b\tno\t\n"},
	} {
		if r := ask("--words " + c.options); r.stdout != c.want || r.status != 78 ||
			r.stderr != "err ### ERROR 78: "+confs+"/3.conf: not a file of shell variables, or it sets what is for the whole run, "+
				"or it ends the script\nwarning ## "+confs+"/4.conf: EXCLUD is no setting, and nothing uses it\n" {
			t.Errorf("%s: %+v\nwant %s", c.options, r, c.want)
		}
	}
	if names := testkit.Names(t, settings); names != "1 2 4 5 excluded" {
		t.Errorf("settings of %s", names)
	}
	if text := testkit.Read(t, settings+"/5"); !strings.HasPrefix(text, "DOMU='none'\nDOM0S='dom0b'\n") ||
		!strings.Contains(text, "\nSTALL='1'\n") {
		t.Errorf("settings:\n%s", text)
	}
	if err := os.Remove(confs + "/3.conf"); err != nil {
		t.Fatal(err)
	}
	if r := ask("--disks here"); r != (result{stdout: "here\tdom0a\tdom0b\tyes\txvda\n"}) {
		t.Errorf("of one: %+v", r)
	}
	if r := ask("--disks here who"); r.status != 78 || r.stderr != "xb-locate: no conf file for DomU who\n" {
		t.Errorf("of one that has none: %+v", r)
	}
	for _, options := range []string{"", "--disks --settings " + settings} {
		if r := ask(options); r.status != 64 {
			t.Errorf("%q: %+v", options, r)
		}
	}
	if r := ask("--settings " + settings + "/none here"); r.status != 73 {
		t.Errorf("with no place for settings: %+v", r)
	}
}

// TestGateConf: what another host has to allow, of what runs here and is copied there.
func TestGateConf(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.img", "b b.img", "shared.img", "tools.iso"} {
		testkit.Write(t, filepath.Join(dir, name), "x")
	}
	file := func(name, target, more string) string { return disk("file", "file", dir+"/"+name, target, more) }
	uri := node(t, guest("web", 1, 1, file("a.img", "xvda", "")+file("b b.img", "xvdb", "")+file("shared.img", "xvdc", "<shareable/>")+
		file("tools.iso", "xvdd", "<readonly/>")+file("a.img", "xvde", "")+
		"<disk type='file' device='cdrom'><source file='"+dir+"/tools.iso'/><target dev='sda' bus='sata'/></disk>")+
		guest("mail", 2, 1, disk("block", "dev", "/dev/xbnone/mail", "xvda", ""))+guest("off", 3, 5, "")+
		guest("bad", 4, 1, networkDisk("xvda")))
	confs := filepath.Join(dir, "confs")
	if err := os.Mkdir(confs, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"1": "DOMU=web; DOM0S='dom0a dom0b'; EXCLUDE=xvde; MAP='dom0b:" + dir + "/a.img=/srv/copies/a.img dom0c:" + dir + "/a.img=/x'",
		"2": "DOMU=mail; DOM0S='dom0a dom0b dom0c'; CREATE_LV=xbnone",
		"3": "DOMU=off; DOM0S='dom0a dom0b'",
	} {
		testkit.Write(t, filepath.Join(confs, name+".conf"), text+"\n")
	}
	ask := func(more ...string) result {
		return locateCommand(t, nil, append(strings.Fields("--plan -c "+uri+" --toolstack virsh --local dom0a --confs "+confs), more...)...)
	}
	web := "dom0a web/xvda /srv/copies/a.img\ndom0a web/xvdb file://" + dir + "/b%20b.img\n" +
		"dom0a web/xvdc " + dir + "/shared.img document-only\ndom0a web/xvdd " + dir + "/tools.iso document-only\n"
	const mail = "dom0a mail/xvda /dev/xbnone/mail create-lv\n"
	off := "# off: ask where it runs, for off is not active here (virsh: shut off (unknown))\n"
	for host, want := range map[string]string{"dom0b": web + mail + off, "dom0c": mail} {
		r := ask("-q", "--gate-conf", host)
		if r.status != 0 || r.stdout != want || r.stderr != "" {
			t.Errorf("for %s: %+v\nwant %s", host, r, want)
		}
		conf := filepath.Join(t.TempDir(), "gate.conf")
		testkit.Write(t, conf, r.stdout)
		if _, err := allow.Read(conf, "dom0a"); err != nil {
			t.Errorf("for %s: %v", host, err)
		}
	}
	if r := ask("--gate-conf", "dom0d"); r.status != 78 || r.stdout != "" {
		t.Errorf("for a host that no conf file names: %+v", r)
	}
	testkit.Write(t, confs+"/4.conf", "DOMU=bad; DOM0S='dom0a dom0b'\n")
	if r := ask("--gate-conf", "dom0b"); r.status != 78 || r.stdout != web+mail+off || !strings.Contains(r.stderr, "bad has disks that cannot") {
		t.Errorf("with a disk that cannot be copied: %+v", r)
	}
}
