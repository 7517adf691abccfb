package domain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

const plainGuest = `<domain type='kvm'><name>d</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
<memory unit='KiB'>65536</memory><resource><partition>/machine</partition></resource>
<metadata><app:x xmlns:app='urn:x' path='/etc'>/etc/shadow</app:x></metadata>
<os><type arch='x86_64' machine='pc'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/d_VARS.fd</nvram></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/d'/><target dev='vda'/></disk>
<disk type='file' device='cdrom'><target dev='hda'/><readonly/></disk>
<interface type='bridge'><source bridge='br0'/><script path='vif-bridge'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
</devices></domain>
`

// What concerns the guest alone is not strange; each thing by which a document could get at this host is.
func TestStrangeXML(t *testing.T) {
	if found := read(t, plainGuest).strange(); found != nil {
		t.Errorf("strange: %q", found)
	}
	for _, name := range []string{"qemu-dumpxml.out", "shutoff-dumpxml.out"} {
		found := strings.Join(read(t, captured(t, name)).strange(), "|")
		want := ""
		if name == "shutoff-dumpxml.out" { // which has a kernel and ramdisk of its host
			want = "os/kernel /root/lab/domu-vmlinuz|os/initrd /root/lab/domu-initrd.img"
		}
		if found != want {
			t.Errorf("%s: strange: %q, want %q", name, found, want)
		}
	}
	for _, c := range []struct{ from, to, want string }{
		{"/usr/bin/qemu-system-x86_64", "/tmp/evil", "devices/emulator /tmp/evil"},
		{"/usr/bin/qemu-system-x86_64", "/usr/bin/../../tmp/qemu-system-x86_64", "devices/emulator"},
		{"/usr/bin/qemu-system-x86_64", "qemu-system-x86_64", "devices/emulator"},
		{"/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-x86_64<x/>", "devices/emulator/x"},
		{"path='vif-bridge'", "path='/tmp/evil'", "devices/interface/script path=/tmp/evil"},
		{"path='vif-bridge'", "path='../../tmp/evil'", "devices/interface/script"},
		{"type='bridge'", "type='ethernet'", "devices/interface type=ethernet"},
		{"</devices>", "</devices><qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-x'/>" +
			"</qemu:commandline>", "libvirt.org/schemas/domain/qemu"},
		{"<type arch", "<kernel>/etc/shadow</kernel><type arch", "os/kernel"},
		{"</devices>", "<hostdev mode='subsystem' type='pci'/></devices>", "devices/hostdev"},
		{"</devices>", "<filesystem><source dir='/'/></filesystem></devices>", "devices/filesystem"},
		{"</devices>", "<serial type='file'><source path='/etc/cron.d/x'/></serial></devices>", "devices/serial type=file"},
		{"</devices>", "<serial type='pty'><log file='/etc/cron.d/x'/></serial></devices>", "devices/serial/log"},
		{"</devices>", "<serial type='pty'><source path='x'/></serial></devices>", "devices/serial/source path=x"},
		{"</devices>", "<input type='evdev'><source dev='/dev/input/event0'/></input></devices>", "devices/input type=evdev"},
		{"</devices>", "<graphics type='vnc' socket='/x'/></devices>", "devices/graphics socket=/x"},
		{"</devices>", "<interface type='bridge'><rom file='/etc/shadow'/></interface></devices>", "devices/interface/rom"},
		{"</name>", "</name><sysinfo type='fwcfg'><entry name='x' file='etc/shadow'/></sysinfo>", "sysinfo"},
		{"</name>", "</name><seclabel type='none'/>", "seclabel type=none"},
		{"<target dev='hda'/>", "<source file='/etc/shadow'/><target dev='hda'/>", "disk hda, of which this host has no copy: /etc/shadow"},
		{"<target dev='vda'/>", "<target dev='vda'/><shareable/>", "disk vda, of which this host has no copy"},
		{"<target dev='vda'/>", "<target dev='vda'/><backingStore type='file'><source file='/b'/></backingStore>", "disk vda"},
		{"/var/lib/libvirt/qemu/nvram/d_VARS.fd", "/etc/cron.d/x", "os/nvram /etc/cron.d/x"},
		{"4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "../../../etc/cron.d", "uuid ../../../etc/cron.d"},
		{"version='2.0'/>", "version='2.0'><source type='dir' path='/etc'/></backend>", "devices/tpm/backend/source"},
		{"/dev/urandom", "/etc/shadow", "devices/rng/backend /etc/shadow"},
	} {
		text := strings.Replace(plainGuest, c.from, c.to, 1)
		if found := read(t, text).strange(); len(found) == 0 || !strings.Contains(strings.Join(found, "|"), c.want) {
			t.Errorf("%s: strange: %q, want %s", c.to, found, c.want)
		}
	}
}

const plainConfig = `name = "d"
uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
bootloader = "pygrub"
memory = 256
vcpus = 2
vif = [ "mac=00:16:3e:5c:81:0a, bridge=xenbr0,script=vif-bridge" ]
disk = [ "/dev/vg/d,raw,xvda,rw" ]
on_crash = "restart"
` + xlEnd

func TestStrangeXL(t *testing.T) {
	if found := read(t, plainConfig).strange(); found != nil {
		t.Errorf("strange: %q", found)
	}
	for _, c := range []struct{ from, to, want string }{
		{`"pygrub"`, `"/tmp/evil"`, "bootloader = /tmp/evil"},
		{`"pygrub"`, `"/usr/bin/../../tmp/pygrub"`, "bootloader = "},
		{"script=vif-bridge", "script=/tmp/evil", "vif = "},
		{"bridge=xenbr0", "bridge=xenbr0,backend=x", "vif = "},
		{"memory = 256", `kernel = "/etc/shadow"`, "kernel = /etc/shadow"},
		{"memory = 256", `device_model_args = [ "-x" ]`, "device_model_args = -x"},
		{"memory = 256", `device_model_args = [ ]`, "device_model_args = "},
		{"memory = 256", `pci = [ "01:00.0" ]`, "pci = 01:00.0"},
		{"memory = 256", `serial = "file:/etc/cron.d/x"`, "serial = "},
		{"memory = 256", `serial = [ "pty", "file:/etc/cron.d/x" ]`, "serial = file"},
		{"memory = 256", `unheard_of = 1`, "unheard_of = 1"},
		{"/dev/vg/d,raw,xvda,rw", "/dev/vg/d,raw,xvda,r", "disk xvda, of which this host has no copy"},
		{"/dev/vg/d,raw,xvda,rw", "vdev=xvda,script=block-x,target=x", "disk xvda"},
		{"uuid = \"4dea", "uuid = \"../4dea", "uuid = "},
	} {
		text := strings.Replace(plainConfig, c.from, c.to, 1)
		if found := read(t, text).strange(); len(found) == 0 || !strings.Contains(strings.Join(found, "|"), c.want) {
			t.Errorf("%s: strange: %q, want %s", c.to, found, c.want)
		}
	}
}

// A strange document is released when just this one was trusted once, whatever set it is of.
func TestRelease(t *testing.T) {
	s := &Store{dir: t.TempDir(), hasSecret: func(Secret) (bool, error) { return true, nil }}
	disk := filepath.Join(t.TempDir(), "d.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	strange := "<domain type='kvm'><name>d</name><devices><emulator>/tmp/mine</emulator><disk type='file'><source file='" + disk +
		"'/><target dev='vda'/></disk></devices></domain>"
	sets := strings.NewReplacer("1", strings.Repeat("a", 26), "2", strings.Repeat("b", 26))
	for _, step := range []struct {
		document, set string
		trust         bool
		status        int
		words         string
	}{
		{strange, "1", false, exit.Refused, "devices/emulator /tmp/mine"},
		{strange, "1", true, exit.OK, "devices/emulator /tmp/mine"},
		{strange, "2", false, exit.OK, ""},
		{strings.ReplaceAll(strange, "/tmp/mine", "/tmp/other"), "2", false, exit.Refused, "devices/emulator /tmp/other"},
		{strings.ReplaceAll(strange, "/tmp/mine", "/usr/bin/kvm"), "2", false, exit.OK, ""},
		{strange, "", false, exit.OK, ""},
	} {
		if s.Set = (Set{}); step.set != "" {
			s.Set = Set{sets.Replace(step.set), "2026-11-26T23:47:28Z"}
		}
		if err := s.Keep("d", strings.NewReader(step.document), new(warnings)); err != nil {
			t.Fatal(err)
		}
		words, out := new(warnings), filepath.Join(t.TempDir(), "d")
		rows, err := s.Release("d", out, step.trust, words)
		said := strings.Join(*words, "\n")
		if exit.StatusOf(err) != step.status || !strings.Contains(said, step.words) || step.words == "" && strings.Contains(said, "guest alone") {
			t.Errorf("%+v: %v: %q", step, err, said)
		}
		if _, written := os.Stat(out + ".xml"); (written == nil) != (err == nil) || err == nil && rows != "vda\t"+disk+"\n" {
			t.Errorf("%+v: %v, %q", step, written, rows)
		}
	}
	if _, err := s.Release("none", filepath.Join(s.dir, "out"), true, new(warnings)); exit.StatusOf(err) != exit.NoInput {
		t.Errorf("no document: %v", err)
	}
}

// Files that came with an older document do not get where this one would lead them.
func TestReleaseFiles(t *testing.T) {
	s := &Store{dir: t.TempDir(), hasSecret: func(Secret) (bool, error) { return true, nil }}
	uefi := t.TempDir()
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
	out := t.TempDir()
	if _, err := s.Release("web", out+"/web", true, new(warnings)); err != nil || testkit.Names(t, out) != "web.files.tar web.xml" {
		t.Errorf("%v, there is %s", err, testkit.Names(t, out))
	}
	path := filepath.Join(s.dir, "web.xml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), uefi, "/elsewhere")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release("web", out+"/again", true, new(warnings)); exit.StatusOf(err) != exit.BadStream ||
		testkit.Names(t, out) != "web.files.tar web.xml" {
		t.Errorf("%v, there is %s", err, testkit.Names(t, out))
	}
}
