package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
)

// A document with what a lossy copy of it would lose.
const guestXML = `<?xml version="1.0"?>
<!-- ours -->
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; mail</name>
  <uuid>4DEA22B3-1D52-D8F3-2516-782E98AB3FA0</uuid>
  <metadata><app:disk xmlns:app="urn:x"><secret uuid="none"/></app:disk></metadata>
  <os>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF.fd</loader>
    <nvram template='/usr/share/VARS.fd'>/var/web.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu</emulator>
    <disk type="block" device="disk">
      <driver name="qemu" type="raw" io='native'/>
      <source dev="/dev/vg/a" index='1'><seclabel model='dac' relabel='no'/></source>
      <target dev="vda"/>
    </disk>
    <disk device='disk' type='volume'><source pool='p' volume='v' mode='host'/><target dev='vdb'/>
      <encryption format='luks'><secret type='passphrase' uuid='2A2A2A2A-0000-4000-8000-000000000001'/></encryption></disk>
    <disk type='file' device='cdrom'>
      <source file='/iso/a&amp;b.iso'/>
      <target dev='sda'/>
      <readonly/>
    </disk>
    <disk type='network' device='disk'>
      <auth username='u'><secret type='ceph' usage='pool x'/></auth>
      <source protocol='rbd' name='pool/img'><host name='h'/></source>
      <target dev='vdc'/>
    </disk>
    <disk type='file'><source file='/srv/extra.img'/><target dev='vdd'/></disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-foo'/><![CDATA[ <disk> ]]>
  </qemu:commandline>
</domain>
`

func read(t *testing.T, text string) *Document {
	t.Helper()
	d, err := readDocument(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// changed returns a text in which each first word of a pair, which is in it once, is the second.
func changed(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(text, pairs[i]) != 1 {
			t.Fatalf("%q is %d times in it", pairs[i], strings.Count(text, pairs[i]))
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func documentText(t *testing.T, d *Document) string {
	t.Helper()
	text, err := d.Text()
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestReadXMLDocument(t *testing.T) {
	d := read(t, guestXML)
	if got := documentText(t, d); got != guestXML {
		t.Errorf("unchanged it is %s", got)
	}
	want := "[{firmware /usr/share/OVMF.fd} {template of UEFI variables /usr/share/VARS.fd} {emulator /usr/bin/qemu}] " +
		`[2a2a2a2a-0000-4000-8000-000000000001 "pool x" of type ceph]`
	if got := fmt.Sprint(d.Files, d.Secrets); got != want {
		t.Errorf("it needs %s, want %s", got, want)
	}
}

// Only what has to be other is.
func TestFitXML(t *testing.T) {
	dir := t.TempDir()
	a, extra := filepath.Join(dir, "a's <1>.img"), filepath.Join(dir, "extra.img")
	for _, path := range []string{a, extra} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := read(t, guestXML)
	if err := d.setSource(1, "/pool/v", false); err != nil {
		t.Fatal(err)
	}
	settled := documentText(t, d)
	named := changed(t, guestXML, "type='volume'", "type='file'", "pool='p' volume='v' mode='host'", "file='/pool/v'")
	if settled != named {
		t.Errorf("without the pool it is %s, want %s", settled, named)
	}
	asked := 0
	secret := func(s Secret) (bool, error) { asked++; return false, nil }
	d = read(t, settled)
	left, missing, err := d.fit(map[string]string{"/dev/vg/a": a, "/srv/extra.img": extra, "/dev/none": "/x"},
		[]string{"vdc", "vdd"}, nil, secret)
	if err != nil {
		t.Fatal(err)
	}
	d.comment(leftOut(left))
	escaped := strings.NewReplacer("'", "&#39;", "<", "&lt;", ">", "&gt;").Replace(a)
	want := changed(t, settled,
		`<disk type="block" device="disk">`, `<disk type="file" device="disk">`,
		`dev="/dev/vg/a"`, "file='"+escaped+"'",
		"\n      <source file='/iso/a&amp;b.iso'/>", "",
		"\n    <disk type='file'><source file='/srv/extra.img'/><target dev='vdd'/></disk>", "",
		"<domain ", "<!-- xen-backup: Left out, for this host:\n"+
			"    disk vdb: /pool/v is not here\n"+
			"    the medium of cdrom sda: /iso/a&b.iso is not here\n"+
			"    disk vdd: it is excluded\n-->\n<domain ")
	start := strings.Index(want, "\n    <disk device='disk' type='file'>")
	end := strings.Index(want, "\n    <disk type='file' device='cdrom'>")
	want = want[:start] + want[end:]
	if got := documentText(t, d); got != want {
		t.Errorf("here it is %s, want %s", got, want)
	}
	const wantWords = `disk vdb: /pool/v is not here
the medium of cdrom sda: /iso/a&b.iso is not here
disk vdd: it is excluded
/dev/none, which is /x here, is no disk in the document
missing here: the firmware /usr/share/OVMF.fd
missing here: the template of UEFI variables /usr/share/VARS.fd
missing here: the emulator /usr/bin/qemu
missing here: the secret "pool x" of type ceph`
	if got := strings.Join(append(left, missing...), "\n"); got != wantWords {
		t.Errorf("it says %s, want %s", got, wantWords)
	}
	if asked != 1 { // not that of a disk that is left out
		t.Errorf("%d secrets asked for", asked)
	}
}

// What was said on one host is not said on the next one.
func TestComments(t *testing.T) {
	set := Set{"mfrggzdfmztwq2lkmfrggzdfmq", "2026-11-26T23:47:28Z"}
	if err := errors.Join(set.check(), Set{}.check()); err != nil {
		t.Error(err)
	}
	for _, bad := range []Set{{"", set.Taken}, {set.Name, ""}, {set.Name + "a", set.Taken}, {"1" + set.Name[1:], set.Taken},
		{set.Name, "2026-11-26 23:47:28"}, {set.Name, set.Taken + "\n"}} {
		if bad.check() == nil {
			t.Errorf("%v is taken for a set", bad)
		}
	}
	const short = "<domain><name>d</name></domain>"
	for _, text := range []string{guestXML, guestXL, short, "<?xml version='1.0'?>" + short} {
		first := ""
		for range 3 {
			d := read(t, text)
			d.forget()
			if got := SetOf([]byte(documentText(t, d))); got != (Set{}) {
				t.Errorf("%v is still named", got)
			}
			d.comment([]string{set.String()})
			d.comment([]string{"Left out, for this host:", "  disk xvdb: it is excluded"})
			got := documentText(t, d)
			if first == "" {
				first = got
			}
			if got != first || SetOf([]byte(got)) != set {
				t.Errorf("after another store it names %v, and is %s", SetOf([]byte(got)), got)
			}
			text = got
		}
		again := read(t, text)
		again.forget()
		if got := documentText(t, again); strings.Contains(got, "xen-backup") || strings.Contains(got, "xvdb: it is") {
			t.Errorf("without them it is %s", got)
		}
	}
	if got := SetOf([]byte("<domain><description># xen-backup: " + set.String() + "</description></domain>")); got != (Set{}) {
		t.Errorf("%v is said by the domain itself", got)
	}
}

// A block device for a file, and the other way round.
func TestFitKind(t *testing.T) {
	h := newHost(t)
	block := h.node("dev/vg/a", 0o060000, 7, 99)
	file := h.file("a.img", "")
	xen := func(kind, source, driver string) string {
		return "<domain type='xen'><name>d</name><devices><disk " + kind + "><driver name='" + driver + "'/><source " +
			source + "/><target dev='xvda'/></disk></devices></domain>"
	}
	for _, c := range []struct{ before, to, after string }{
		{xen("type='block'", "dev='/dev/x'", "phy"), file, xen("type='file'", "file='"+file+"'", "qemu")},
		{xen("type='file'", "file='/dev/x'", "qemu"), block, xen("type='block'", "dev='"+block+"'", "qemu")},
		{xen("device='disk'", "file='/dev/x'", "qemu"), block, xen("type='block' device='disk'", "dev='"+block+"'", "qemu")},
		{xen("type = \"block\"", "dev = \"/dev/x\"", "phy"), block, xen("type = \"block\"", "dev='"+block+"'", "phy")},
	} {
		d := read(t, c.before)
		if _, _, err := d.fit(map[string]string{"/dev/x": c.to}, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := documentText(t, d); got != c.after {
			t.Errorf("%s becomes %s, want %s", c.before, got, c.after)
		}
	}
}

const guestXL = `# my domu
name = "domu1"
uuid = '4dea22b3-1d52-d8f3-2516-782e98ab3fa0'
kernel = "/boot/none"; memory=256 # MiB
extra = "a \"b\" \n"
vnuma = [ [ "pnode=0" ], [ "pnode=1", ], ]
disk = [ "phy:/dev/vg/a,xvda,w", # root
   'format=raw, vdev=xvdb, access=rw, target=/srv/b, c.img',
   "/iso/a.iso,raw,hdc,cdrom"
   , "vdev=xvdd,script=block-iscsi,target=iqn=x,portal=y" ]
disk += [ "vg/e,,xvde" ]
# end of the configuration
`

func TestFitXL(t *testing.T) {
	a := filepath.Join(t.TempDir(), "a.img")
	if err := os.WriteFile(a, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := read(t, guestXL)
	if !d.XL || !d.whole() || d.Domain.Name != "domu1" || d.Domain.UUID != "4dea22b3-1d52-d8f3-2516-782e98ab3fa0" ||
		documentText(t, d) != guestXL {
		t.Errorf("it is %+v, %s", d.Domain, documentText(t, d))
	}
	left, missing, err := d.fit(map[string]string{"/dev/vg/a": a, "/srv/b, c.img": a}, []string{"xvdd", "xvde"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.comment(leftOut(left))
	want := "# xen-backup: Left out, for this host:\n" +
		"#     the medium of cdrom hdc: /iso/a.iso is not here\n#     disk xvde: it is excluded\n" +
		changed(t, guestXL, "/dev/vg/a", a, "/srv/b, c.img", a, "/iso/a.iso", "", `"vg/e,,xvde"`, "")
	if got := documentText(t, d); got != want {
		t.Errorf("here it is %s, want %s", got, want)
	}
	said := "the medium of cdrom hdc: /iso/a.iso is not here\n" +
		"disk xvde: it is excluded\nmissing here: the kernel /boot/none"
	if got := strings.Join(append(left, missing...), "\n"); got != said {
		t.Errorf("it says %s", got)
	}
	if got := string(endXL([]byte(want))); strings.Contains(got, "Left out") || strings.Contains(got, "excluded") ||
		strings.Count(got, "end of the") != 1 {
		t.Errorf("on its way back it is %s", got)
	}
}

// The lists that stay when disks go out.
func TestDropXL(t *testing.T) {
	for before, after := range map[string]string{
		`[ 'a,,xvda', 'b,,xvdb', '/dev/null,,xvdc' ]`:    `[    ]`,
		`['a,,xvda','vdev=xvdb,script=x,target=b']`:      `['vdev=xvdb,script=x,target=b']`,
		`['vdev=xvdb,script=x,target=b','a,,xvda']`:      `['vdev=xvdb,script=x,target=b',]`,
		`['a,,xvda','script=x,b,,xvdb','c,,xvdc',]`:      `['script=x,b,,xvdb',]`,
		"['a,,xvda', # one\n'script=x,b,,xvdb' # two\n]": "[ # one\n'script=x,b,,xvdb' # two\n]",
	} {
		d := read(t, "name='d'\ndisk="+before+"\n")
		if _, _, err := d.fit(nil, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, got, _ := strings.Cut(documentText(t, d), "\ndisk="); got != after+"\n" {
			t.Errorf("%s becomes %s, want %s", before, got, after)
		}
	}
}

func TestXLConfigBad(t *testing.T) {
	for text, want := range map[string]string{
		"":                                          "no domain document",
		" \n":                                       "no domain document",
		"memory = 256\n":                            "no name",
		"name = 'd'\nimport os\n":                   `line 2: no = at "os"`,
		"name = 'd' + 'e'\n":                        `line 1: no end of the line at "+ 'e'"`,
		"name = 'd\n":                               "no value",
		"name = 'd'\ndisk = 'a,,xvda'\n":            "disk is no list",
		"name = 'd'\ndisk = [ 'a,,xvda' 'b' ]\n":    "no comma",
		"name = 'd'\ndisk = [ 'a,,xvda', , ]\n":     "no value",
		"name = 'd'\ndisk = [ 'a,,xvda'\n":          "no comma",
		"name = 'd'\ndisk = [ 'a' ]\n":              "no vdev",
		"name = 'd'\ndisk = [ ['a,,xvda'] ]\n":      "a list in it",
		"name = 'd'\ndisk = [ 'a\\x41,,xvda' ]\n":   "a backslash",
		"name = 'd'\ndisk = [ 'a,,b', 'b,,b' ]\n":   "two disks",
		"name = '\xff'\n":                           "not UTF-8",
		"[]":                                        "xl list -l",
		"name = 'd'\nx = " + strings.Repeat("[", 9): "no value",
	} {
		if d, err := readDocument(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", text, d, err, want)
		}
	}
	a := filepath.Join(t.TempDir(), "a,b.img")
	if err := os.WriteFile(a, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"/x,,xvda":                              "only stand after target=",
		"backendtype=phy,vdev=xvda,target=/x":   "backendtype=phy does not go",
		`vdev=xvda,script=a\'b/block,target=/x`: "escapes",
	} {
		d := read(t, "name='d'\ndisk=['"+spec+"']\n")
		_, _, err := d.fit(map[string]string{"/x": a}, nil, nil, nil)
		if exit.StatusOf(err) != exit.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// A cut document is none: nothing replaces the one that is there.
func TestCutDocument(t *testing.T) {
	for n := range guestXL {
		if d, err := readDocument(strings.NewReader(guestXL[:n])); err == nil && d.whole() {
			t.Fatalf("the first %d bytes are whole", n)
		}
	}
	for n := range strings.TrimSpace(guestXML) {
		if _, err := readDocument(strings.NewReader(guestXML[:n])); err == nil {
			t.Fatalf("the first %d bytes are a document", n)
		}
	}
}

func TestHasSecretFails(t *testing.T) {
	d := read(t, guestXML)
	_, words, err := d.fit(nil, nil, nil, func(Secret) (bool, error) { return false, errors.New("no libvirtd") })
	if err != nil || !strings.Contains(strings.Join(words, "\n"),
		`cannot tell whether the secret "pool x" of type ceph is here: no libvirtd`) {
		t.Errorf("%q, %v", words, err)
	}
}

// What a toolstack is asked for when the document is.
func TestDocument(t *testing.T) {
	const extra = "<disk type='block'><source dev='/dev/b'/><target dev='xvdb'/></disk></devices>"
	other := strings.NewReplacer("</devices>", extra)
	live := virshSays("@running-domstate-reason.out", "@running-dumpxml.out")
	config := filepath.Join(t.TempDir(), "domu1.cfg")
	text := strings.ReplaceAll(guestXL, "/dev/vg/a", "/dev/VolGroupXX/LogVolDomU1")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old.cfg") // of xm, in Python
	if err := os.WriteFile(old, []byte("import os\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		answers map[string]string
		config  string
		status  int
		want    string // how libvirt was asked at last, or the words of an error
		words   string
	}{
		"persistent": {answers: both(live, xlNone),
			want: "dumpxml --security-info --inactive --domain=domu1"},
		"off": {answers: both(shutOff, xlNone),
			want: "dumpxml --security-info --inactive --domain=domu1"},
		"libvirt, and a file of xm": {answers: both(live, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")), config: old,
			want: "dumpxml --security-info --inactive --domain=domu1"},
		"off, and a file of xm": {answers: both(shutOff, xlNone), config: old,
			want: "dumpxml --security-info --inactive --domain=domu1"},
		"only a file of xm": {answers: both(virshNone, xlNone), config: old, status: exit.Config,
			want: "no configuration of xl"},
		"unknown": {answers: both(virshNone, xlNone), config: "/none.cfg", status: exit.NoInput,
			want: "(virsh: not defined, xl: no configuration file /none.cfg)"},
		"no libvirtd": {answers: both(virshBroken, xlNone), config: config, status: exit.Unavailable,
			want: "cannot tell by what domu1 is started: virsh: failed to connect"},
		"xl": {answers: both(virshNone, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			config: config, want: "xl"},
		"xl, no libvirtd": {answers: both(virshBroken, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			config: config, want: "xl"},
		"xl, off": {answers: both(virshNone, xlNone), config: config, want: "xl"},
		"xl without its file": {answers: both(virshNone, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			config: "/none.cfg",
			status: exit.NoInput, want: "xl: no configuration file /none.cfg"},
		"started by xl": {answers: both(shutOff,
			xlSays("@xlcreate-xl-list.out", "@xlcreate-xl-list-l.out")), config: config, want: "xl"},
		"one more disk": {answers: both(both(live, xlNone),
			map[string]string{"virsh-dumpxml": other.Replace(captured(t, "running-dumpxml.out")),
				"virsh-dumpxml.2": "@running-dumpxml.out"}),
			want:  "dumpxml --security-info --inactive --domain=domu1",
			words: "disk xvdb is attached to the running domain, but not in its definition"},
		"another disk": {answers: both(both(live, xlNone),
			map[string]string{"virsh-dumpxml.2": strings.ReplaceAll(captured(t, "running-dumpxml.out"),
				"LogVolDomU1", "Other")}),
			want:  "dumpxml --security-info --inactive --domain=domu1",
			words: "disk xvda is /dev/VolGroupXX/LogVolDomU1 in the running domain, but /dev/VolGroupXX/Other in its definition"},
	} {
		t.Run(name, func(t *testing.T) {
			replay(t, c.answers)
			toolstacks, err := Installed("auto", "", c.config)
			if err != nil {
				t.Fatal(err)
			}
			l := Locator{Toolstacks: toolstacks}
			d, words, err := document(context.Background(), l.lists(), "domu1")
			asked, _ := os.ReadFile(filepath.Join(os.Getenv("REPLAY"), "virsh-dumpxml.asked"))
			lines := strings.Split(strings.TrimSpace(string(asked)), "\n")
			got := lines[len(lines)-1]
			if err != nil {
				got = err.Error()
			} else if d.XL {
				got = "xl"
			}
			if exit.StatusOf(err) != c.status || !strings.Contains(got, c.want) || err == nil && got != c.want ||
				strings.Join(words, "\n") != c.words {
				t.Errorf("%d, %q, %q; want %d, %q, %q", exit.StatusOf(err), got, words, c.status, c.want, c.words)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	config := filepath.Join(t.TempDir(), "domu1.cfg")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")
	for name, c := range map[string]struct {
		answers map[string]string
		config  string
		known   bool
		status  int
	}{
		"nobody":                   {answers: both(virshNone, xlNone)},
		"libvirt":                  {answers: both(shutOff, xlNone), known: true},
		"libvirt, xl fails":        {answers: both(shutOff, xlBroken), known: true},
		"xl":                       {answers: both(virshNone, running), known: true},
		"xl, off":                  {answers: both(virshNone, xlNone), config: config, known: true},
		"no libvirtd":              {answers: both(virshBroken, xlNone), status: exit.Unavailable},
		"no libvirtd, xl's config": {answers: both(virshBroken, xlNone), config: config, known: true},
	} {
		t.Run(name, func(t *testing.T) {
			replay(t, c.answers)
			toolstacks, err := Installed("auto", "", c.config)
			if err != nil {
				t.Fatal(err)
			}
			l := Locator{Toolstacks: toolstacks}
			known, errs := l.known(context.Background(), []string{"domu1"})
			if known[0] != c.known || exit.StatusOf(errs[0]) != c.status {
				t.Errorf("%v, %v", known, errs)
			}
		})
	}
}
