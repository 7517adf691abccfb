package domain

import (
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

const savedDocument = `<domain type='kvm'>
  <name>domu1</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/root.img'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/srv/data.img'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/srv/a.iso'/><target dev='hda' bus='ide'/><readonly/></disk>
  </devices>
</domain>
`

// The document that comes with memory gets the disks that the judged one has, and says nothing strange that this does not
// say: it is run by root.
func TestRefit(t *testing.T) {
	change := func(words ...string) string { return strings.NewReplacer(words...).Replace(savedDocument) }
	document := filepath.Join(t.TempDir(), "domu1.xml")
	judged := change("<source file='/srv/a.iso'/>", "", "/srv/root.img", "/vm/other.img", "pc-i440fx-7.2", "pc")
	for _, c := range []struct {
		what, saved, judged string
		status              int
		words               string
	}{
		{"other places", savedDocument, judged, exit.OK, ""},
		{"an emulator", change("/usr/bin/qemu", "/tmp/qemu"), judged, exit.Refused, "devices/emulator /tmp/qemu"},
		{"a command line", change("</devices>", "</devices><x:commandline xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0'/>"), judged,
			exit.Refused, "libvirt.org"},
		{"a disk more", change("dev='vda'", "dev='vdc'"), judged, exit.Config, "the disk vdc"},
		{"a host's directory", change("</devices>", "<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem></devices>"),
			judged, exit.Refused, "devices/filesystem"},
		{"another one's name", change("domu1", "domu2"), judged, exit.BadStream, "domu2"},
		{"another one's UUID", change("8444", "8445"), judged, exit.BadStream, "8445"},
		{"no document", "memory", judged, exit.BadStream, ""},
	} {
		testkit.Write(t, document, c.judged)
		text, err := refit("domu1", []byte(c.saved), document)
		if exit.StatusOf(err) != c.status || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: status %d, want %d: %v", c.what, exit.StatusOf(err), c.status, err)
		}
		if err == nil && (!strings.Contains(string(text), "'/vm/other.img'") || strings.Contains(string(text), "a.iso") ||
			!strings.Contains(string(text), "pc-i440fx-7.2")) {
			t.Errorf("%s:\n%s", c.what, text)
		}
	}
}

func TestUsedMemory(t *testing.T) {
	n, err := parseUsed(infoField(captured(t, "shutoff-dominfo.out"), usedMemory))
	if err != nil || n != 256<<20 {
		t.Errorf("%d, %v", n, err)
	}
	for _, field := range []string{"", "0 KiB", "much"} {
		if n, err := parseUsed(field); err == nil {
			t.Errorf("%q: %d", field, n)
		}
	}
}
