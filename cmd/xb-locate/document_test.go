package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// secretGuest has a console with a password, a disk of a pool and one under another name.
func secretGuest(pool, dev string) string {
	return pool + guest("domu1", 1, 1,
		disk("file", "file", dev, "xvda", "")+
			"<disk type='volume' device='disk'><source pool='pool1' volume='vol1'/><target dev='xvdb' bus='xen'/></disk>"+
			"<graphics type='vnc' port='5901' listen='0.0.0.0' passwd='geheim'/>")
}

func TestDocumentTravels(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	volume, img, there := filepath.Join(dir, "vol1"), filepath.Join(dir, "a b.img"), filepath.Join(dir, "c d.img")
	for _, path := range []string{volume, img, there} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	uri := node(t, secretGuest("<pool type='dir'><name>pool1</name><uuid>35bb2ad9-388a-cdfe-461a-b8907f6e53fe</uuid>"+
		"<target><path>"+dir+
		"</path></target><volume><name>vol1</name><capacity>1</capacity></volume></pool>", img))
	r := locateCommand(t, nil, "--copy", "--document-file", filepath.Join(dir, "domu1"), "-c", uri, "--toolstack", "virsh", "domu1")
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	document := testkit.Read(t, filepath.Join(dir, "domu1.xml"))
	for _, part := range []string{"passwd='geheim'",
		"<disk type='file' device='disk'>\n      <source file='" + volume + "'/>\n      <target dev='xvdb'"} {
		if !strings.Contains(document, part) {
			t.Errorf("no %s in %s", part, document)
		}
	}
	if strings.Contains(document, " id='") || strings.Contains(document, "pool1") {
		t.Errorf("it is of this host: %s", document)
	}

	state := filepath.Join(dir, "new", "state")
	kept := filepath.Join(state, "xml", "domu1.xml")
	store := func(document string, args ...string) result {
		return locateCommand(t, strings.NewReader(document),
			append([]string{"--store", "domu1", "--state-dir", state}, args...)...)
	}
	uris := "file://" + strings.ReplaceAll(img, " ", "%20") + "=file://" + strings.ReplaceAll(there, " ", "%20")
	excluded := result{stderr: "xb-locate: domu1: left out: disk xvdb: it is excluded\n"}
	if r := store(document, "--map", uris, "--drop", "xvdb"); r != excluded {
		t.Errorf("%+v", r)
	}
	checkModes(t, kept)
	if r := locateCommand(t, nil, "--xml", kept); r != (result{stdout: "xvda\t" + there + "\n"}) {
		t.Errorf("there it has the disks: %+v", r)
	}
	out, err := exec.Command("virsh", "-c", "test:///default", "define", "--file", kept).CombinedOutput()
	if err != nil {
		t.Errorf("virsh does not take it: %v, %s", err, out)
	}
	before, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for document, want := range map[string]result{
		document[:len(document)/2]: {65, "", "unexpected EOF"},
		"":                         {65, "", "no domain document"},
		strings.Replace(document, "<name>domu1", "<name>domu2", 1): {65, "", "this is the document of domu2, not of domu1"},
		"name = 'domu1'\n": {65, "", "the configuration is cut"},
		strings.Replace(document, "</domain>", strings.Repeat("<a>", 300)+strings.Repeat("</a>", 300)+"</domain>", 1): {65,
			"", "more than 256 elements deep"},
	} {
		r := store(document)
		if after, _ := os.ReadFile(kept); r.status != want.status || !strings.Contains(r.stderr, want.stderr) ||
			string(after) != string(before) {
			t.Errorf("%.60q: %+v, and %.60q is kept", document, r, after)
		}
	}
	named := []string{"--set", "mfrggzdfmztwq2lkmfrggzdfmq", "--taken", "2026-11-26T23:47:28Z"}
	for range 2 {
		if r := store(document, named...); r.status != 0 {
			t.Errorf("%+v", r)
		}
		text, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		document = string(text)
		const comment = "<!-- xen-backup: set mfrggzdfmztwq2lkmfrggzdfmq, taken 2026-11-26T23:47:28Z -->\n"
		if !strings.Contains(document, comment) || strings.Count(document, "xen-backup") != 1 {
			t.Errorf("the set is not named once: %s", document)
		}
	}
	for _, args := range [][]string{named[:2], named[2:], {"--set", "a", "--taken", named[3]},
		{"--map", "a"}, {"--map", "a=/b"}, {"--map", "/a=b"},
		{"--map", "/a=/b", "--map", "/a=/c"},
		{"--map", "/a=/b=/c"}, {"--map", "/a=/c", "--map", "/b=/c"}, {"--map", "/a=file:///%zz"}, {"--drop", ""}, {"domu1"},
		{"--all"}} {
		if r := store(document, args...); r.status != 64 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, name := range []string{"../x", ".x", "a/b", " a", ""} {
		if r := locateCommand(t, strings.NewReader(document), "--store", name, "--state-dir", state); r.status != 64 {
			t.Errorf("%q: %+v", name, r)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(state, "xml", ".*")); left != nil {
		t.Errorf("%q is left behind", left)
	}
}

// What else belongs to the domain comes with its document, and goes with it.
func TestBundleTravels(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	vars, state, bundle := filepath.Join(dir, "web_VARS.fd"), filepath.Join(dir, "state"), filepath.Join(dir, "bundle")
	if err := os.WriteFile(vars, []byte("variables"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(dir, "web.img")
	testkit.Write(t, img, "x")
	uri := node(t, strings.Replace(guest("web", 1, 1, disk("file", "file", img, "xvda", "")+
		"<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>"),
		"<os><type>hvm</type></os>",
		"<os><type>hvm</type><loader type='pflash'>/dev/null</loader><nvram>"+vars+"</nvram></os>", 1))
	r := locateCommand(t, nil, "--copy", "--bundle", bundle, "-c", uri, "--toolstack", "virsh", "web")
	if r.status != 0 || r.stderr != "xb-locate: web: not carried: a host device (usb)\n" {
		t.Fatalf("%+v", r)
	}
	text, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(bundle); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	store := func(document string) result {
		return locateCommand(t, strings.NewReader(document), "--store", "web", "--state-dir", state)
	}
	kept := filepath.Join(state, "xml", "web.xml")
	files := filepath.Join(state, "xml", "web.files.tar")
	if s := store(string(text)); s != (result{}) {
		t.Errorf("%+v", s)
	}
	checkModes(t, kept)
	checkModes(t, files)
	document, err := os.ReadFile(kept)
	want := "Its UEFI variables and TPM are to be put in place before it is defined:\n    tar -C / -xpf " + files + "\n"
	if err != nil || !strings.Contains(string(document), want) {
		t.Errorf("%v, no %s in %s", err, want, document)
	}
	if out, err := exec.Command("tar", "-xOf", files).Output(); err != nil || string(out) != "variables" {
		t.Errorf("%q, %v", out, err)
	}
	before, err := os.ReadFile(files)
	if err != nil {
		t.Fatal(err)
	}
	if s := store(string(text[:len(text)/2])); s.status != 65 {
		t.Errorf("a cut one: %+v", s)
	}
	if after, err := os.ReadFile(files); err != nil || string(after) != string(before) {
		t.Errorf("after a cut one: %v, %q", err, after)
	}
	// A definition without them: older ones would be those of another firmware.
	if s := store("<domain><name>web</name></domain>"); s != (result{}) {
		t.Errorf("%+v", s)
	}
	if left, _ := filepath.Glob(filepath.Join(state, "xml", "*")); len(left) != 1 {
		t.Errorf("there is %q", left)
	}
	nowhere := filepath.Join(dir, "none", "x")
	r = locateCommand(t, nil, "--copy", "--bundle", nowhere, "-c", uri, "--toolstack", "virsh", "web")
	if r.status != 0 || !strings.HasSuffix(r.stdout, "\t-\n") || !strings.Contains(r.stderr, "get no document to start it from: ") {
		t.Errorf("no directory: %+v", r)
	}
}

// The configuration of xl takes the place of libvirt's document, for there is but one truth.
func TestStoreXL(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	for _, d := range []struct{ kept, other, document string }{
		{"domu1.xml", "domu1.cfg", "<domain type='xen'><name>domu1</name></domain>"},
		{"domu1.cfg", "domu1.xml", "name = 'domu1'\n# end of the configuration\n"},
		{"domu1.xml", "domu1.cfg", "<domain type='xen'><name>domu1</name></domain>"},
	} {
		if r := locateCommand(t, strings.NewReader(d.document), "--store", "domu1", "--state-dir", state); r != (result{}) {
			t.Errorf("%+v", r)
		}
		checkModes(t, filepath.Join(state, "xml", d.kept))
		if _, err := os.Lstat(filepath.Join(state, "xml", d.other)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", d.other, err)
		}
	}
	if err := os.Chmod(filepath.Join(state, "xml"), 0o755); err != nil { // as somebody may have left it
		t.Fatal(err)
	}
	small := strings.NewReader("<domain><name>domu1</name></domain>")
	if r := locateCommand(t, small, "--store", "domu1", "--state-dir", state); r != (result{}) {
		t.Errorf("%+v", r)
	}
	checkModes(t, filepath.Join(state, "xml", "domu1.xml"))
}

// checkModes reports whether others can read a file with passwords.
func checkModes(t *testing.T, path string) {
	t.Helper()
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s is %v", path, info.Mode())
		}
	}
}
