package domain

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// uefiGuest has variables of its firmware and a TPM below dir.
func uefiGuest(dir string) string {
	return "<domain type='kvm'><name>web</name><uuid>4DEA22B3-1D52-D8F3-2516-782E98AB3FA0</uuid>" +
		"<os><loader type='pflash'>/dev/null</loader><nvram template='/none/VARS.fd'>" + dir +
		"/nvram/web_VARS.fd</nvram></os><devices>" +
		"<tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='" + dir +
		"/swtpm'/></backend></tpm>" +
		"</devices></domain>\n"
}

func bundle(t *testing.T, text string) ([]byte, []string) {
	t.Helper()
	var b bytes.Buffer
	words, err := read(t, text).writeBundle(&b, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), words
}

// TestBundleQcow2: the variables of firmware may be a qcow2 image, but none that has QEMU open another file of this host.
func TestBundleQcow2(t *testing.T) {
	h := &host{t, t.TempDir()}
	text := uefiGuest(h.root)
	for image, want := range map[string]string{
		"\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00": "",
		"\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00": "a qcow2 image with a backing store",
		"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01\x00": "a qcow2 image with a backing store",
	} {
		h.file("nvram/web_VARS.fd", "QFI\xfb"+image+strings.Repeat("\x00", 100))
		whole, _ := bundle(t, text)
		_, _, err := readBundle(bytes.NewReader(whole), io.Discard)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", image, err, want)
		}
	}
}

func TestBundle(t *testing.T) {
	h := &host{t, t.TempDir()}
	h.file("nvram/web_VARS.fd", strings.Repeat("v", 70000))
	h.file("swtpm/tpm2/tpm2-00.permall", "state")
	h.file("swtpm/tpm2/big", "")
	h.link("swtpm/tpm2/link", "/etc/passwd")
	if err := os.Truncate(h.root+"/swtpm/tpm2/big", maxMember+1); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.root+"/nvram/web_VARS.fd", 0o640); err != nil {
		t.Fatal(err)
	}
	text := uefiGuest(h.root)
	whole, words := bundle(t, text)
	want := "[" + h.root + "/swtpm/tpm2/big is longer than 16 MiB " + h.root + "/swtpm/tpm2/link is no regular file]"
	if fmt.Sprint(words) != want {
		t.Errorf("it says %v, want %s", words, want)
	}
	var files bytes.Buffer
	d, n, err := readBundle(bytes.NewReader(whole), &files)
	if err != nil || n != 4 || d.Domain.Name != "web" {
		t.Fatalf("%+v, %d, %v", d, n, err)
	}
	noSecret := func(Secret) (bool, error) { return false, nil }
	if _, words, err := d.fit(nil, nil, nil, noSecret); err != nil || words != nil {
		t.Errorf("with variables no template is needed: %q, %v", words, err)
	}
	if _, words, _ := read(t, text).fit(nil, nil, nil, noSecret); len(words) != 1 {
		t.Errorf("without variables a template is needed: %q", words)
	}
	// As its administrator unpacks it.
	to := t.TempDir()
	unpack := exec.Command("tar", "-C", to, "-xpf", "-")
	unpack.Stdin = &files
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var found []string
	for _, path := range []string{"/nvram/web_VARS.fd", "/swtpm/tpm2/tpm2-00.permall"} {
		info, err := os.Stat(to + h.root + path)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, fmt.Sprint(info.Mode(), info.Size()))
	}
	if fmt.Sprint(found) != "[-rw-r----- 70000 -rw-r--r-- 5]" {
		t.Errorf("unpacked they are %v", found)
	}
	if all, _ := filepath.Glob(to + "/*"); len(all) != 1 {
		t.Errorf("unpacked there is %q", all)
	}
	// Every prefix is refused: the document comes last.
	for n := 0; n < len(whole)-1024; n += 1 + n%997 {
		if d, _, err := readBundle(bytes.NewReader(whole[:n]), io.Discard); err == nil &&
			n < bytes.LastIndex(whole, []byte("</domain>"))+len("</domain>") {
			t.Fatalf("the first %d bytes give %+v", n, d)
		}
	}
}

// A domain that has never run has no files yet.
func TestBundleOfDocumentAlone(t *testing.T) {
	whole, words := bundle(t, uefiGuest("/none"))
	d, n, err := readBundle(bytes.NewReader(whole), io.Discard)
	if err != nil || n != 0 || words != nil || d.Domain.Name != "web" {
		t.Errorf("%+v, %d, %v, %q", d, n, err, words)
	}
	whole, _ = bundle(t, guestXL)
	if d, n, err = readBundle(bytes.NewReader(whole), io.Discard); err != nil || n != 0 || !d.XL || !d.whole() {
		t.Errorf("%+v, %d, %v", d, n, err)
	}
}

// Root unpacks it: nothing but the domain's own files may be in it.
func TestBundleRefused(t *testing.T) {
	document := tar.Header{Typeflag: tar.TypeReg, Name: "web.xml"}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	many := make([]tar.Header, maxMembers+2)
	for i := range many {
		many[i] = file(fmt.Sprintf("x/swtpm/%d", i))
	}
	for name, c := range map[string]struct {
		members []tar.Header
		want    string
	}{
		"another file": {[]tar.Header{file("etc/passwd"), document}, "/etc/passwd in the bundle is nothing of web"},
		"a way out": {[]tar.Header{file("x/swtpm/../../etc/passwd"), document},
			"/etc/passwd in the bundle is nothing of web"},
		"a name that is longer": {[]tar.Header{file("x/swtpm2/a"), document}, "/x/swtpm2/a in the bundle is nothing of web"},
		"a link": {[]tar.Header{{Typeflag: tar.TypeSymlink, Name: "x/swtpm/a", Linkname: "/etc"}, document},
			"not a small file"},
		"a device": {[]tar.Header{{Typeflag: tar.TypeBlock, Name: "x/swtpm/a"}, document}, "not a small file"},
		"too large": {[]tar.Header{{Typeflag: tar.TypeReg, Name: "x/swtpm/a", Size: maxMember + 1}},
			"not a small file"},
		"too many":         {many, "not a small file"},
		"no document":      {[]tar.Header{file("x/swtpm/a")}, "no document in it"},
		"two documents":    {[]tar.Header{document, document}, "goes on behind its document"},
		"a file behind it": {[]tar.Header{document, file("x/swtpm/a")}, "goes on behind its document"},
	} {
		var b bytes.Buffer
		out := tar.NewWriter(&b)
		for _, m := range c.members {
			content := make([]byte, m.Size)
			if m.Name == document.Name {
				content = []byte(uefiGuest("/x"))
				m.Size = int64(len(content))
			}
			if err := out.WriteHeader(&m); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if d, _, err := readBundle(&b, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want %q", name, d, err, c.want)
		}
	}
}

// What belongs to a domain and cannot travel is named.
func TestStays(t *testing.T) {
	d := read(t, "<domain><name>d</name><devices><hostdev mode='subsystem' type='scsi'/><hostdev mode='capabilities'/>"+
		"<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/share'/><target dir='x'/></filesystem>"+
		"<memory model='nvdimm'><source><path>/x</path></source></memory><memory model='dimm'/>"+
		"<tpm><backend type='passthrough'/></tpm></devices></domain>")
	want := "[a host device (scsi) a host device (capabilities) the shared directory /srv/share " +
		"the content of its nvdimm a TPM (passthrough)]"
	if fmt.Sprint(d.Stays) != want {
		t.Errorf("%v, want %s", d.Stays, want)
	}
	if d := read(t, "name='d'\npci = [ '01:00.0' ]\nusbdev = []\n"); fmt.Sprint(d.Stays) != "[what pci = [...] names]" {
		t.Errorf("%v", d.Stays)
	}
	for text, want := range map[string]string{
		"<os><nvram>\n /a\n</nvram></os>":                          "/a ",
		"<os><nvram type='file'><source file='/b'/></nvram></os>":  "/b ",
		"<os firmware='efi'/>":                                     "/var/lib/libvirt/qemu/nvram/d_VARS.fd ",
		"<os firmware='efi'><nvram type='block'/></os>":            " ",
		"<os firmware='bios'/>":                                    " ",
		"<devices><tpm><backend type='emulator'/></tpm></devices>": " /var/lib/libvirt/swtpm/4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
		"<devices><tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm></devices>": " ",
	} {
		d := read(t, "<domain><name>d</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>"+text+"</domain>").Domain
		if got := d.NVRAM + " " + d.TPM; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
