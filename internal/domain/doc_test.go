package domain

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"xen-backup/internal/testkit"
)

func captured(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/captured/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParseXMLCaptured(t *testing.T) {
	for name, want := range map[string]Domain{
		"running-dumpxml.out":      {Name: "domu1", ID: "1", Type: "xen"},
		"paused-dumpxml.out":       {Name: "domu1", ID: "1", Type: "xen"},
		"crashed-dumpxml.out":      {Name: "domu1", ID: "17", Type: "xen"},
		"shutoff-dumpxml.out":      {Name: "domu1", Type: "xen"},
		"xlcreate-dumpxml.out":     {Name: "domu1", Type: "xen"},
		"qemu-dumpxml.out":         {Name: "qdom1", ID: "1", Type: "qemu", UUID: "b9fd7d9c-5e0d-4a35-9b2c-0d5f7a3c11aa"},
		"running-dumpxml-dom0.out": {Name: "Domain-0", ID: "0", Type: "xen", UUID: "00000000-0000-0000-0000-000000000000"},
	} {
		switch want.Name {
		case "domu1":
			want.UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
			want.Disks = []Disk{{Target: "xvda", Device: "disk", Format: "raw", Source: "/dev/VolGroupXX/LogVolDomU1"}}
		case "qdom1":
			want.Disks = []Disk{{Target: "vda", Device: "disk", Format: "raw", Source: "/dev/VolGroupXX/LogVolIdle",
				Standalone: true}}
		}
		d, err := parseXML(strings.NewReader(captured(t, name)))
		if err != nil || !reflect.DeepEqual(*d, want) {
			t.Errorf("%s: %v, %+v; want %+v", name, err, d, want)
		}
	}
}

func TestParseDocument(t *testing.T) {
	want := []Disk{{Target: "xvda", Device: "disk", Format: "raw", Source: "/dev/VolGroupXX/LogVolDomU1"}}
	for _, name := range []string{"running-dumpxml.out", "running-xl-list-l.out"} {
		d, err := parseDocument(strings.NewReader(captured(t, name)))
		if err != nil || d.Name != "domu1" || !reflect.DeepEqual(d.Disks, want) {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
	for text, want := range map[string]string{
		"":                                       "no domain document",
		"[":                                      "no JSON list of domains",
		"[]":                                     "0 domains",
		"[{}]":                                   "want one",
		captured(t, "running-xl-list-l-all.out"): "2 domains",
		"[" + strings.Repeat(" ", maxXML):        "longer than 4 MiB",
	} {
		if d, err := parseDocument(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.70q: %+v, %v; want %q", text, d, err, want)
		}
	}
}

const smallest = `<domain type='kvm'><name>d</name><devices><disk><source file='/f'/><target dev='vda'/></disk></devices></domain>`

func TestParseXMLBad(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "no domain document",
		"error: failed\n":          "text outside",
		smallest + "x":             "text outside",
		smallest + smallest:        "more than one document",
		smallest[:len(smallest)-1]: "unexpected EOF",
		"<domainsnapshot/>":        "not a <domain>",
		"<domain/>":                "no name",
		"<domain><name>d</name><devices><disk/></devices></domain>":                         "no target",
		strings.Replace(smallest, "</disk>", "</disk><disk><target dev='vda'/></disk>", 1):  "two disks",
		strings.Replace(smallest, "'vda'", "'v&#10;da'", 1):                                 `target "v\nda"`,
		"<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name>":    "invalid character entity &e;",
		"<?xml version='1.0' encoding='EBCDIC'?>" + smallest:                                "\"EBCDIC\": want UTF-8",
		"<domain><name>d</name><devices>" + strings.Repeat("<a>", 100000) + "</a></domain>": "element <a>",
		"<domain><name>d</name>" + strings.Repeat("<!-- -->", maxXML/8) + "</domain>":       "longer than 4 MiB",
		"\xff\xfe<\x00d\x00": "invalid UTF-8",
	} {
		d, err := parseXML(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.70q: %+v, %v; want %q", text, d, err, want)
		}
	}
	broken := errors.New("broken")
	cut := io.MultiReader(strings.NewReader(smallest[:40]), iotest.ErrReader(broken))
	if _, err := parseXML(cut); !errors.Is(err, broken) {
		t.Errorf("a failed read gives %v", err)
	}
}

// Every prefix of a document is refused.
func TestParseXMLPrefixes(t *testing.T) {
	text := strings.TrimSpace(captured(t, "running-dumpxml.out"))
	for n := range text {
		if d, err := parseXML(strings.NewReader(text[:n])); err == nil {
			t.Fatalf("the first %d bytes give %+v", n, d)
		}
	}
}

// The billion laughs: entities defined by the document are not expanded at all.
func TestParseXMLBomb(t *testing.T) {
	bomb := "<!DOCTYPE lolz [<!ENTITY a 'lollollollol'>"
	for c := 'b'; c < 'k'; c++ {
		bomb += "<!ENTITY " + string(c) + " '" + strings.Repeat("&"+string(c-1)+";", 10) + "'>"
	}
	bomb += "]>" + strings.Replace(smallest, "<name>d", "<name>&j;", 1)
	_, err := parseXML(strings.NewReader(bomb))
	var syntax *xml.SyntaxError
	if !errors.As(err, &syntax) {
		t.Errorf("the bomb gives %v", err)
	}
}

// 100 MB cost what 4 MiB cost.
func TestParseXMLBounded(t *testing.T) {
	for _, unit := range testkit.Some(t, 1, "<disk><target dev='x'/></disk>", "<a>", "&amp;") {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		read := &counter{r: io.MultiReader(strings.NewReader("<domain><name>d</name><devices>"),
			io.LimitReader(&endless{unit: unit}, 100<<20))}
		_, err := parseXML(read)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("100 MiB of %q are accepted", unit)
		}
		if read.n > maxXML+64<<10 {
			t.Errorf("%d bytes of %q read", read.n, unit)
		}
		if after.HeapSys > before.HeapSys+500<<20 {
			t.Errorf("%q took %d MiB", unit, (after.HeapSys-before.HeapSys)>>20)
		}
	}
}

type endless struct {
	unit string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.unit[e.at%len(e.unit)]
		e.at++
	}
	return len(p), nil
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestXLCaptured(t *testing.T) {
	for name, want := range map[string]xlRow{
		"running-xl-list.out":     {"domu1", "1", 256, "-b----"},
		"xlcreate-xl-list.out":    {"domu1", "6", 256, "r-----"},
		"xlcreate-gone.out":       {"domu1", "6", 256, "--ps--"},
		"paused-xl-list.out":      {"domu1", "1", 256, "--p---"},
		"startpaused-xl-list.out": {"domu1", "2", 256, "--p---"},
		"crashed-xl-list.out":     {"domu1", "17", 256, "---sc-"},
		"saving-xl-list.out":      {"domu1", "1", 112, "---ss-"},
		"saved-xl-list.out":       {"domu1", "1", 112, "--pss-"},
	} {
		rows, err := parseXLList(captured(t, name))
		if err != nil || len(rows) != 2 || rows[1] != want {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
	want := []Disk{{Target: "xvda", Device: "disk", Source: "/dev/VolGroupXX/LogVolDomU1", Format: "raw"}}
	for _, name := range []string{"running-xl-list-l-all.out", "running-xl-list-l.out", "xlcreate-xl-list-l.out"} {
		list, err := parseXL([]byte(captured(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		d, err := list[len(list)-1].domain()
		if err != nil || d.Name != "domu1" || d.UUID != "4dea22b3-1d52-d8f3-2516-782e98ab3fa0" ||
			!reflect.DeepEqual(d.Disks, want) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestXLListOdd(t *testing.T) {
	const header = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"
	rows, err := parseXLList(header + "my domu 1  2 " +
		"                              3   256     1     ------      15.4\n" +
		"(null)                                       4     0     1     --ps-d       2.0\n" +
		"preserved                                    5   256     1     ---sr-       2.0\n" +
		"watched                                      6   256     1     ---sw-       2.0\n" +
		"reset                                        7   256     1     ---sS-       2.0\n" +
		"unknown                                      8   256     1     ---s?-       2.0\n")
	if err != nil || len(rows) != 6 || rows[0] != (xlRow{"my domu 1  2", "3", 256, "------"}) || rows[1].Name != "(null)" {
		t.Errorf("%v, %v", rows, err)
	}
	for _, text := range []string{"", "(domain (domid 1))\n", header + "domu1 1\n", header + "libxl: error\n"} {
		if rows, err := parseXLList(text); err == nil {
			t.Errorf("%q gives %v", text, rows)
		}
	}
}

func TestXLDisks(t *testing.T) {
	disk := func(text string) (Disk, error) {
		list, err := parseXL([]byte(`[{"domid": 3, "config": {"c_info": {"name": "d"}, "disks": [` + text + `]}}]`))
		if err != nil {
			return Disk{}, err
		}
		d, err := list[0].domain()
		if err != nil {
			return Disk{}, err
		}
		return d.Disks[0], nil
	}
	plain := Disk{Target: "hda", Device: "disk", Source: "/dev/vg/guest-volume", Format: "raw"}
	cdrom := Disk{Target: "hdc", Device: "cdrom", Source: "/root/image.iso", Format: "raw", ReadOnly: true}
	empty := Disk{Target: "hdc", Device: "cdrom", ReadOnly: true}
	with := func(d Disk, f func(*Disk)) Disk { f(&d); return d }
	anyFormat := with(plain, func(d *Disk) { d.Format = "" })
	for text, want := range map[string]Disk{
		// What libxl's JSON can hold.
		`{"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "backend": "phy", "format": "raw", "removable": 1, "readwrite": 1}`:      plain,
		`{"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "backend": "qdisk", "format": "raw", "readwrite": 1, "script": "block"}`: plain,
		`{"pdev_path": "vg/guest-volume", "vdev": "hda", "format": "raw", "readwrite": 1}`:                                             plain,
		`{"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "format": "raw"}`: with(plain,
			func(d *Disk) { d.ReadOnly = true }),
		`{"pdev_path": "/root/image.iso", "vdev": "hdc", "format": "raw", "is_cdrom": 1, "removable": 1}`: cdrom,
		`{"vdev": "hdc", "format": "empty", "is_cdrom": 1}`:                                               empty,
		`{"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "format": "raw", "readwrite": 1, "backend_domid": 4}`: with(plain,
			func(d *Disk) { d.Trouble = "its backend is the driver domain 4" }),
		`{"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "format": "raw", "readwrite": 1, "backend_domname": "storage"}`: with(plain,
			func(d *Disk) { d.Trouble = "its backend is the driver domain storage" }),
		`{"pdev_path": "r0", "vdev": "hda", "format": "raw", "readwrite": 1, "script": "block-drbd"}`: with(plain,
			func(d *Disk) {
				d.Source, d.Remote = "r0", true
				d.Trouble = "DRBD replicates it (script block-drbd): nothing may be written below DRBD"
			}),
		`{"pdev_path": "rbd:pool/img:id=a", "vdev": "hda", "backend": "qdisk", "format": "raw", "readwrite": 1}`: with(plain,
			func(d *Disk) {
				d.Source, d.Remote, d.Trouble = "rbd:pool/img:id=a", true, `its source "rbd:pool/img:id=a" is no path on this host`
			}),
		// The examples of xl-disk-configuration(5), and every prefix.
		`"/dev/vg/guest-volume,,hda"`:                                    anyFormat,
		`"/dev/vg/guest-volume,raw,hda,rw"`:                              plain,
		`"format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume"`: plain,
		`"raw:/dev/vg/guest-volume,hda,w"`:                               plain,
		`"phy:/dev/vg/guest-volume,hda,w"`:                               plain,
		`"phy:vg/guest-volume,hda,w"`:                                    plain,
		`"tap:aio:/dev/vg/guest-volume,hda,w"`:                           plain,
		`"tap2:aio:/dev/vg/guest-volume,hda"`:                            plain,
		`"file:/dev/vg/guest-volume,hda:disk,w"`:                         plain,
		`"vdev=hda,/dev/vg/guest-volume,raw,w,discard,direct-io-safe"`:   plain,
		`"/dev/vg/guest-volume,raw,hda,r"`:                               with(plain, func(d *Disk) { d.ReadOnly = true }),
		`"tap:qcow2:/dev/vg/guest-volume,hda,w"`:                         with(plain, func(d *Disk) { d.Format = "qcow2" }),
		`"format=vhd,vdev=hda,target=/a,b=c"`: {
			Target: "hda", Device: "disk", Source: "/a,b=c", Format: "vhd",
		},
		`"/root/image.iso,,hdc,cdrom"`:                                             with(cdrom, func(d *Disk) { d.Format = "" }),
		`"/root/image.iso,,hdc,,cdrom"`:                                            with(cdrom, func(d *Disk) { d.Format = "" }),
		`"/root/image.iso,raw,hdc,devtype=cdrom"`:                                  cdrom,
		`"format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso"`: cdrom,
		`"raw:/root/image.iso,hdc:cdrom,ro"`:                                       cdrom,
		`",hdc:cdrom,r"`:                                                           empty,
		`"drbd:r0,hda,w"`: with(plain, func(d *Disk) {
			d.Source, d.Remote = "r0", true
			d.Trouble = "DRBD replicates it (script block-drbd): nothing may be written below DRBD"
		}),
		`"vdev=hda,script=block-iscsi,target=iqn=x,portal=y"`: {
			Target: "hda", Device: "disk", Source: "iqn=x,portal=y",
			Remote: true, Trouble: "its device is made by the script block-iscsi",
		},
		`"backend=storage,vdev=hda,target=/dev/a"`: {
			Target: "hda", Device: "disk", Source: "/dev/a", Trouble: "its backend is the driver domain storage",
		},
	} {
		if got, err := disk(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{`"/dev/vg/a"`, `"a,raw,hda,w,x"`, `{"pdev_path": "/a"}`, `{"vdev": 1}`, `7`,
		`"/a,raw,hda,w!"`, `"vdev=hda,access=W,target=/a"`, `"vdev=hda,devtype=CDROM,target=/a"`, `["a"]`,
		`"a,,hda","b,,hda"`} {
		if got, err := disk(text); err == nil {
			t.Errorf("%s gives %+v", text, got)
		}
	}
	for _, text := range []string{"", "{}", "[", "(domain)", `[{"domid": "x"}]`,
		"[{\"domid\": 1, \"config\": {\"c_info\": {\"name\": \"\xff\"}}}]", strings.Repeat("[", 1<<20)} {
		if list, err := parseXL([]byte(text)); err == nil {
			t.Errorf("%.20q gives %+v", text, list)
		}
	}
}
