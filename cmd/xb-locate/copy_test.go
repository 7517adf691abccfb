package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// copied is a place for the files of --copy.
type copied struct {
	*testing.T
	dir, uri string
}

func (c copied) path(name string) string { return filepath.Join(c.dir, name) }

func (c copied) ask(args ...string) result {
	c.Helper()
	return locateCommand(c.T, nil, append([]string{"--copy", "-c", c.uri, "--toolstack", "virsh",
		"--document-file", c.path("domu1"), "--bundle", c.path("bundle")}, args...)...)
}

// same reports whether two files have the same content, and others cannot read the first.
func (c copied) same(name, other string) bool {
	c.Helper()
	info, err := os.Stat(c.path(name))
	return err == nil && info.Mode() == 0o600 && testkit.Read(c.T, c.path(name)) == testkit.Read(c.T, c.path(other))
}

// TestCopy: one call answers all that a copy needs.
func TestCopy(t *testing.T) {
	device, _ := testkit.LoopDevice(t, 8<<20, "--sector-size", "4096")
	dir := t.TempDir()
	plain, odd := filepath.Join(dir, "plain.img"), filepath.Join(dir, "a=b %41.img")
	testkit.Write(t, plain, strings.Repeat("x", 5000))
	testkit.Write(t, odd, "y")
	for path, mode := range map[string]os.FileMode{plain: 0o640, odd: 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(odd, 4_000_000, 0); err != nil { // of nobody who has a name
		t.Fatal(err)
	}
	c := copied{t, dir, node(t, guest("domu1", 1, 1, disk("block", "dev", device, "xvda", "")+
		disk("file", "file", plain, "xvdb", "")+disk("file", "file", odd, "xvdc", "")+
		disk("file", "file", plain, "xvdd", "")+"<graphics type='vnc' port='5901' passwd='geheim'/>"))}
	const of = "00000000-0000-4000-8000-000000000001\txml\n"
	want := "xvda\t" + device + "\t8388608\t4096\t-\t-\t" + of +
		"xvdb\t" + plain + "\t5000\t512\troot:root\t640\t" + of +
		"xvdc\tfile://" + dir + "/a%3Db%20%2541.img\t1\t512\t-\t-\t" + of
	if r := c.ask("--exclude", "xvdd", "--note", c.path("note"), "domu1"); r != (result{stdout: want}) {
		t.Errorf("%+v\nwant %s", r, want)
	}
	if document := testkit.Read(t, c.path("domu1.xml")); !strings.Contains(document, "passwd='geheim'") ||
		!c.same("domu1.xml", "bundle") || !c.same("bundle", "domu1.xml") {
		t.Errorf("document %s, bundle %s", document, testkit.Read(t, c.path("bundle")))
	}
	r := locateCommand(t, nil, "--still", c.path("note"), "--exclude", "xvdd", "-c", c.uri, "--toolstack", "virsh", "domu1")
	if r != (result{}) {
		t.Errorf("--still: %+v", r)
	}
	// A document that cannot be kept here travels all the same.
	if err := os.Mkdir(c.path("x.xml"), 0o700); err != nil {
		t.Fatal(err)
	}
	r = locateCommand(t, nil, "--copy", "--words", "-c", c.uri, "--toolstack", "virsh", "--exclude", "xvdd",
		"--document-file", c.path("x"), "--bundle", c.path("bundle2"), "domu1")
	if r.stdout != want || r.status != 0 || !c.same("bundle2", "bundle") ||
		!strings.Contains(r.stderr, "err xb-locate: domu1: its document is not kept here: ") {
		t.Errorf("not kept: %+v", r)
	}
	for args, status := range map[string]int{
		"domu1 --all": 64, "domu1 --json": 64, "": 64, "domu1 domu1": 64, "--active domu1": 64, "nobody": 1,
		"--note " + c.path("none/n") + " domu1": 73,
	} {
		if r := c.ask(strings.Fields(args)...); r.status != status || r.stdout != "" {
			t.Errorf("%s: %+v, want %d", args, r, status)
		}
	}
}

// TestCopyAsksOnce counts the programs of the toolstack.
func TestCopyAsksOnce(t *testing.T) {
	c := copied{t, t.TempDir(), node(t, guest("domu1", 1, 1, disk("file", "file", image(t), "xvda", "")))}
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip(err)
	}
	asked := c.path("asked")
	testkit.Programs(t, map[string]string{"virsh": "echo x >>" + asked + "; exec " + virsh + ` "$@"`, "xl": "exit 1"})
	r := locateCommand(t, nil, "--copy", "-c", c.uri, "--document-file", c.path("domu1"), "--bundle", c.path("bundle"), "domu1")
	if n := strings.Count(testkit.Read(t, asked), "x"); r.status != 0 || r.stderr != "" || n != 3 {
		t.Errorf("%+v, virsh was asked %d times, want 3", r, n)
	}
}

// TestCopyFinal: of a domain that is shut off the document says what its disks are, also when
// libvirt has forgotten it.
func TestCopyFinal(t *testing.T) {
	t.Parallel()
	img, other := image(t), image(t)
	dir := t.TempDir()
	at := func(state int) copied {
		return copied{t, dir, node(t, guest("domu1", 1, state, disk("file", "file", img, "xvda", "")))}
	}
	gone := copied{t, dir, node(t, "")}
	if r := gone.ask("--final", "domu1"); r.status != 66 || r.stdout != "" || !strings.Contains(r.stderr, "nobody knows it") {
		t.Errorf("never copied: %+v", r)
	}
	r := at(1).ask("--final", "domu1")
	if want := "xb-locate: domu1 still runs here (virsh: running (unknown)): shut it down\n"; r != (result{75, "", want}) {
		t.Errorf("it runs: %+v", r)
	}
	row := "xvda\t" + img + "\t4096\t512\troot:root\t600\t00000000-0000-4000-8000-000000000001\txml\n"
	if r := at(5).ask("--final", "domu1"); r != (result{stdout: row}) {
		t.Errorf("shut off: %+v, want %s", r, row)
	}
	document := testkit.Read(t, gone.path("domu1.xml"))
	testkit.Write(t, gone.path("bundle"), "of another one")
	if r := gone.ask("--final", "domu1"); r != (result{stdout: row}) || testkit.Read(t, gone.path("bundle")) != document {
		t.Errorf("forgotten: %+v, bundle %s", r, testkit.Read(t, gone.path("bundle")))
	}
	// The younger one of two.
	config := "name = 'domu1'\ndisk = [ 'file:" + other + ",xvdb,w' ]\n# end of the configuration\n"
	testkit.Write(t, gone.path("domu1.cfg"), config)
	now := time.Now()
	for name, age := range map[string]time.Duration{"domu1.xml": time.Hour, "domu1.cfg": time.Minute} {
		if err := os.Chtimes(gone.path(name), now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	row = "xvdb\t" + other + "\t4096\t512\troot:root\t600\t-\txl\n"
	if r := gone.ask("--final", "domu1"); r != (result{stdout: row}) || testkit.Read(t, gone.path("bundle")) != config {
		t.Errorf("the younger: %+v, want %s", r, row)
	}
	testkit.Write(t, gone.path("domu1.cfg"), "rubbish")
	if r := gone.ask("--final", "domu1"); r.status != 65 || r.stdout != "" {
		t.Errorf("rubbish: %+v", r)
	}
}

// TestCopyWithoutDocument: its disks are copied all the same, and that is said as an error.
func TestCopyWithoutDocument(t *testing.T) {
	img := image(t)
	c := copied{t, t.TempDir(), node(t, guest("domu1", 1, 1, disk("file", "file", img, "xvda", "")))}
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip(err)
	}
	testkit.Programs(t, map[string]string{
		"virsh": "case $* in *--security-info*) echo no >&2; exit 1 ;; esac; exec " + virsh + ` "$@"`})
	testkit.Write(t, c.path("bundle"), "of another time")
	testkit.Write(t, c.path("domu1.xml"), "kept")
	r := c.ask("--words", "domu1")
	want := result{0, "xvda\t" + img + "\t4096\t512\troot:root\t600\t00000000-0000-4000-8000-000000000001\t-\n",
		"info xb-locate: virsh: domu1 is running (unknown)\n" +
			"err xb-locate: domu1: the other hosts get no document to start it from: virsh: no\n"}
	if r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
	if _, err := os.Stat(c.path("bundle")); !os.IsNotExist(err) || testkit.Read(t, c.path("domu1.xml")) != "kept" {
		t.Errorf("the old bundle is there, or the old document not: %v", err)
	}
}

// TestStuck: a guest that cannot write is told from one that somebody has paused; that it stands still is no reason to
// copy nothing.
func TestStuck(t *testing.T) {
	img := image(t)
	c := copied{t, t.TempDir(), node(t, guest("domu1", 1, 3, disk("file", "file", img, "xvda", "")))}
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip(err)
	}
	testkit.Programs(t, map[string]string{
		"virsh": "case $* in *' domstate --reason --domain='*) echo 'paused (I/O error)'; exit ;; esac; exec " + virsh + ` "$@"`})
	if r := c.ask("--note", c.path("note"), "domu1"); r.status != 0 || r.stdout == "" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	for _, question := range [][]string{{"--still", c.path("note"), "--words"}, {"--stuck"}} {
		r := locateCommand(t, nil, append(question, "-c", c.uri, "--toolstack", "virsh", "domu1")...)
		if want := map[bool]string{true: "yes\n"}[len(question) == 1]; r != (result{stdout: want}) {
			t.Errorf("%s: %+v", question, r)
		}
	}
	for _, says := range []string{"echo 'paused (user)'", "exit 1"} {
		testkit.Programs(t, map[string]string{"virsh": says})
		if r := locateCommand(t, nil, "--stuck", "-c", c.uri, "--toolstack", "virsh", "domu1"); r != (result{stdout: "no\n"}) {
			t.Errorf("%s: %+v", says, r)
		}
	}
}

// TestWords: each line has its level.
func TestWords(t *testing.T) {
	t.Parallel()
	img := image(t)
	uri := node(t, guest("domu1", 1, 1, disk("file", "file", img, "xvda", "")+networkDisk("xvdb")+
		disk("file", "file", img, "xvdc", "<shareable/>")+
		"<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>"))
	ask := func(args ...string) result {
		return locateCommand(t, nil, append([]string{"--words", "-c", uri, "--toolstack", "virsh"}, args...)...)
	}
	want := "info xb-locate: virsh: domu1 is running (unknown)\n" +
		"warning xb-locate: domu1: disk xvdc: left out: it is shareable\n" +
		"err xb-locate: domu1 has disks that cannot be copied; --exclude TARGET leaves one out\n" +
		"err   xvdb: network disk nbd: not on this host\n"
	if r := ask("--copy", "domu1"); r != (result{78, "", want}) {
		t.Errorf("%+v, want %s", r, want)
	}
	if r := ask("--copy", "--exclude=xvdb", "domu1"); r.status != 0 ||
		!strings.HasSuffix(r.stderr, "info xb-locate: domu1: not carried: a host device (usb)\n") {
		t.Errorf("%+v", r)
	}
	if r := ask("--copy"); r.stderr != "err xb-locate: want one DOMAIN\n" {
		t.Errorf("%+v", r)
	}
	document := "<domain><name>d</name><os><kernel>/none</kernel></os><devices>" +
		disk("file", "file", "/nothing", "xvda", "") + "</devices></domain>"
	want = "info xb-locate: d: left out: disk xvda: /nothing is not here\nwarning xb-locate: d: missing here: the kernel /none\n"
	state := t.TempDir()
	r := locateCommand(t, strings.NewReader(document), "--words", "--store", "d", "--format", "xml", "--state-dir", state)
	if r != (result{stderr: want}) {
		t.Errorf("%+v, want %s", r, want)
	}
	kept := testkit.Read(t, filepath.Join(state, "xml", "d.xml"))
	for _, refused := range []struct{ document, format string }{
		{document, "xl"}, {"name = 'd'\n# end of the configuration\n", "xml"},
	} {
		r := locateCommand(t, bytes.NewReader([]byte(refused.document)), "--store", "d", "--format", refused.format,
			"--state-dir", state)
		if r.status != 65 || !strings.Contains(r.stderr, fmt.Sprintf(", not %s\n", refused.format)) ||
			testkit.Read(t, filepath.Join(state, "xml", "d.xml")) != kept {
			t.Errorf("%s: %+v", refused.format, r)
		}
	}
}
