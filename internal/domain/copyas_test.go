package domain

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// copyAs returns the document of a test copy, and what is beside it.
func copyAs(t *testing.T, suffix, document string, c TestCopy) (text, beside string, err error) {
	t.Helper()
	from, out := filepath.Join(t.TempDir(), "d"+suffix), t.TempDir()
	if err := os.WriteFile(from, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Out = filepath.Join(out, "copy")
	if err := c.Make(from); err != nil {
		return "", "", err
	}
	made, err := os.ReadFile(c.Out + suffix)
	text = regexp.MustCompile(testCopyUUID+"[0-9a-f]{12}").ReplaceAllString(string(made), "UUID")
	return strings.ReplaceAll(text, out, "OUT"), testkit.Names(t, out), err
}

// Of a domain's own a test copy has what it needs to start, and nothing that could meet the domain or anybody.
func TestCopyAsXML(t *testing.T) {
	const more = `<hostdev mode='subsystem' type='pci'/><filesystem><source dir='/'/></filesystem><graphics type='vnc' port='5901'/>
<serial type='tcp'><source mode='bind' host='0.0.0.0' service='1'/></serial><redirdev type='spicevmc'/><shmem name='x'/><vsock><cid auto='no'/></vsock>
<disk type='file'><source file='/srv/shared'/><target dev='vdb'/><shareable/></disk>
<video><model type='qxl' ram='65536' vram='65536'/></video>
</devices><qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-x'/></qemu:commandline>`
	document := strings.Replace(plainGuest, "</devices>", more, 1)
	document = strings.Replace(document, "<source bridge='br0'/>",
		"<mac address='00:16:3e:5c:81:0a'/><source bridge='br0'/><target dev='vnet7'/><link state='up'/>", 1)
	document = strings.Replace(document, "</name>", "</name><sysinfo type='smbios'/><genid/>", 1)
	c := TestCopy{Name: "d.test", Disks: Places{"/dev/vg/d": "/srv/snap's"}, Memory: 1 << 30}
	text, beside, err := copyAs(t, ".xml", document, c)
	if err != nil || beside != "copy.xml" {
		t.Fatalf("%v, there is %s", err, beside)
	}
	for _, want := range []string{"<name>d.test</name>", "<uuid>UUID</uuid>", "<memory>1048576</memory>", "file='/srv/snap&#39;s'", "<link state='down'/>",
		"<mac address='00:16:3e:5c:81:0a'>", "name='org.qemu.guest_agent.0'", "path='OUT/copy.console'", "file='OUT/copy.log'",
		"<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>OUT/copy.VARS</nvram>", "<model type='vga'>", "/usr/bin/qemu-system-x86_64"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%s is not in it once:\n%s", want, text)
		}
	}
	for _, never := range []string{"00000000-0000-4000-8000", "hostdev", "filesystem", "graphics", "5901", "tcp", "redirdev", "shmem", "vsock", "qemu:", "'up'",
		"vnet7", "sysinfo", "genid", "/srv/shared", " vram", "tpm", "/var/lib/libvirt", "<script", "metadata", "/dev/vg/d", "hda"} {
		if strings.Contains(text, never) {
			t.Errorf("%s is in it:\n%s", never, text)
		}
	}
	xen := strings.Replace(document, "type='kvm'", "type='xen'", 1)
	if text, _, err = copyAs(t, ".xml", xen, c); err != nil || strings.Contains(text, "interface") || !strings.Contains(text, "<console type='pty'/>") {
		t.Errorf("of Xen: %v\n%s", err, text)
	}
	c.Memory = 0
	if text, _, err = copyAs(t, ".xml", document, c); err != nil || !strings.Contains(text, "<memory unit='KiB'>65536</memory>") {
		t.Errorf("%v\n%s", err, text)
	}
	c.Disks = Places{"/dev/vg/other": "/srv/snap"}
	_, _, err = copyAs(t, ".xml", document, c)
	testkit.WantStatus(t, "a disk of the domain itself", err, exit.Usage)
	lies := filepath.Join(t.TempDir(), "lies")
	testkit.Write(t, lies, "no qcow2 image at all, and a guest may write a header that names a file of this host")
	c.Disks = Places{"/dev/vg/d": lies}
	_, _, err = copyAs(t, ".xml", strings.ReplaceAll(document, "type='raw'", "type='qcow2'"), c)
	testkit.WantStatus(t, "an image of another format", err, exit.Config)
}

func TestCopyAsXL(t *testing.T) {
	document := strings.Replace(plainConfig, "memory = 256\n", "memory = 256\nmaxmem = 512\ntype = 'hvm'\nvnc = 1\npci = [ '01:00.0' ]\n", 1)
	document = strings.Replace(document, `xvda,rw" ]`, `xvda,rw", "/srv/x.iso,raw,xvdb,cdrom" ]`, 1)
	text, _, err := copyAs(t, ".cfg", document, TestCopy{Name: "d.test", Disks: Places{"/dev/vg/d": "/srv/snap"}, Memory: 128 << 20})
	want := `bootloader = "pygrub"
disk = [ "/srv/snap,raw,xvda,rw" ]
memory = 128
name = "d.test"
on_crash = "destroy"
serial = "pty"
type = "hvm"
uuid = "UUID"
vcpus = "2"
`
	if err != nil || text != want {
		t.Errorf("%v:\n%s", err, text)
	}
}

// The variables of the firmware are copied: the test copy shall not change those of the domain.
func TestCopyAsVariables(t *testing.T) {
	s := &Store{dir: t.TempDir(), hasSecret: func(Secret) (bool, error) { return true, nil }}
	uefi, out := t.TempDir(), t.TempDir()
	for _, dir := range []string{"/nvram", "/swtpm"} {
		if err := os.Mkdir(uefi+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(uefi+"/nvram/web_VARS.fd", []byte("variables"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, _ := bundle(t, uefiGuest(uefi))
	if err := s.Keep("web", strings.NewReader(string(whole)), new(warnings)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release("web", out+"/web", true, new(warnings)); err != nil {
		t.Fatal(err)
	}
	if err := (&TestCopy{Name: "x", Out: out + "/copy"}).Make(out + "/web.xml"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(out + "/copy.VARS"); err != nil || string(text) != "variables" {
		t.Errorf("%q, %v", text, err)
	}
}
