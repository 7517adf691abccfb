package domain

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"xen-backup/internal/text"
)

// A document that came from another host is run by root of this one: an emulator or a script in it is a program, a
// kernel or the medium of a drive any file of this host, and there are arguments for QEMU. So it may say by itself only
// what concerns the guest. All else is strange, and somebody has to trust it.

// xmlAllowed are the elements below <domain> that a document may have: those that are named, and what is below those that
// end in a slash. A word with "=" is a value: of a text (PATH=FORM) or an attribute (PATH@NAME=FORM). Whatever is a path,
// and each attribute that can be one, needs such a word.
var xmlAllowed = newXMLRules(`
	name uuid uuid=[0-9A-Fa-f-]+ genid title description metadata memory currentMemory maxMemory vcpu vcpus/ iothreads iothreadids/
	cputune/ memtune/ numatune/ blkiotune/ memoryBacking/ cpu/ features/ clock/ pm/ perf/
	on_poweroff on_reboot on_crash resource/ resource/partition=/machine(/[\w.-]+)*
	sysinfo/ sysinfo@type=smbios
	seclabel/ seclabel@type=dynamic seclabel@relabel=yes
	bootloader bootloader=(/usr/(lib|libexec)/xen[\w.-]*/bin/|/usr/bin/)?pygrub
	os os/type os/boot os/bootmenu os/smbios os/bios os/cmdline os/firmware/
	os/loader os/loader=/usr/share/[\w./+-]+[.](fd|bin|rom|qcow2)|/usr/lib/xen[\w.-]*/boot/[\w.-]+
	os/nvram os/nvram=/var/lib/libvirt/qemu/nvram/[\w.+:@-]+ os/nvram@template=/usr/share/[\w./+-]+[.](fd|bin|qcow2)
	os/nvram@type=file os/nvram/source os/nvram/source@file=/var/lib/libvirt/qemu/nvram/[\w.+:@-]+
	devices
	devices/emulator
	devices/emulator=/usr/(bin|libexec|lib/xen[\w.-]*/bin|libexec/xen[\w.-]*/bin)/(qemu-system-\w+|qemu-kvm|kvm|qemu-dm)
	devices/disk devices/disk@type=file|block|volume devices/disk@device=disk|cdrom|floppy devices/disk@rawio=no
	devices/disk/driver devices/disk/source devices/disk/source@file=/.* devices/disk/source@dev=/.*
	devices/disk/target devices/disk/serial devices/disk/wwn devices/disk/vendor devices/disk/product devices/disk/boot
	devices/disk/readonly devices/disk/shareable devices/disk/transient devices/disk/address devices/disk/alias
	devices/disk/iotune/ devices/disk/blockio devices/disk/geometry devices/disk/backingStore
	devices/interface devices/interface@type=bridge|network devices/interface/mac devices/interface/source
	devices/interface/model devices/interface/target devices/interface/link devices/interface/mtu devices/interface/boot
	devices/interface/alias devices/interface/address devices/interface/driver/ devices/interface/virtualport/
	devices/interface/vlan/ devices/interface/bandwidth/ devices/interface/filterref/ devices/interface/coalesce/
	devices/interface/guest devices/interface/port devices/interface/acpi devices/interface/script
	devices/interface/script@path=(/etc/xen/scripts/)?vif-(bridge|route|nat|openvswitch)
	devices/controller devices/controller/driver devices/controller/address devices/controller/master
	devices/controller/model devices/controller/target/ devices/controller/alias
	devices/input devices/input@type=tablet|mouse|keyboard devices/input/address devices/input/alias devices/input/driver
	devices/graphics devices/graphics@type=vnc|spice devices/graphics/listen
	devices/graphics/listen@type=address|network|none devices/graphics/channel devices/graphics/image
	devices/graphics/jpeg devices/graphics/zlib devices/graphics/playback devices/graphics/streaming
	devices/graphics/clipboard devices/graphics/mouse devices/graphics/filetransfer
	devices/video devices/video/driver devices/video/address devices/video/alias devices/video/model/
	devices/video/model@type=vga|cirrus|qxl|virtio|vmvga|xen|bochs|none|ramfb
	devices/sound/ devices/audio devices/audio@type=none|spice
	devices/memballoon/ devices/watchdog/ devices/panic/ devices/vsock/ devices/hub/ devices/iommu/
	devices/rng devices/rng/rate devices/rng/address devices/rng/alias devices/rng/driver devices/rng/backend
	devices/rng/backend@model=random|builtin devices/rng/backend=/dev/(u?random|hwrng)
	devices/tpm devices/tpm/address devices/tpm/alias devices/tpm/backend devices/tpm/backend@type=emulator
	devices/tpm/backend/active_pcr_banks/ devices/tpm/backend/profile
	devices/memory devices/memory@model=dimm devices/memory/target/ devices/memory/address devices/memory/alias
	devices/redirdev devices/redirdev@type=spicevmc devices/redirdev/address devices/redirdev/alias devices/redirdev/boot
` + characterDevices("serial", "parallel", "console", "channel"))

// characterDevices are those that lead to nothing but libvirt's own sockets and terminals.
func characterDevices(names ...string) (rules string) {
	for _, name := range names {
		rules += strings.ReplaceAll(`
			devices/X devices/X@type=pty|unix|spicevmc|null|vc|qemu-vdagent devices/X@tty=/dev/pts/\d+
			devices/X/target/ devices/X/address devices/X/alias devices/X/protocol devices/X/source
			devices/X/source@path=/dev/pts/\d+|(/var/lib|/run)/libvirt/qemu/channel/[\w./+-]+`, "X", name)
	}
	return rules
}

// xmlFileNames are attributes that may name a file, also without a slash.
var xmlFileNames = []string{"file", "path", "dir", "socket", "script", "rawio", "evdev", "rendernode", "tty", "template"}

// xmlRules are allowed elements and values.
type xmlRules struct {
	elements map[string]bool
	values   map[string]*regexp.Regexp
}

// newXMLRules reads rules when they are first asked for: they would be most of what a program does at its start, and few
// judge a document.
func newXMLRules(rules string) func() *xmlRules {
	return sync.OnceValue(func() *xmlRules {
		r := &xmlRules{make(map[string]bool), make(map[string]*regexp.Regexp)}
		for _, word := range strings.Fields(rules) {
			if where, form, isValue := strings.Cut(word, "="); isValue {
				r.values[where] = regexp.MustCompile("^(?:" + form + ")$")
			} else {
				r.elements[word] = true
			}
		}
		return r
	})
}

// allows reports whether an element may be there.
func (r *xmlRules) allows(where string) bool {
	if r.elements[where] || r.elements[where+"/"] {
		return true
	}
	for at := strings.LastIndexByte(where, '/'); at > 0; at = strings.LastIndexByte(where[:at], '/') {
		if r.elements[where[:at+1]] {
			return true
		}
	}
	return false
}

// allowsValue reports whether an element or attribute may have a value.
func (r *xmlRules) allowsValue(where, value string) bool {
	form := r.values[where]
	_, attribute, _ := strings.Cut(where, "@")
	switch {
	case value == "":
		return true
	case form != nil:
		return form.MatchString(value) && (!strings.Contains(value, "/") || path.Clean(value) == value)
	}
	return !strings.HasPrefix(value, "/") && !slices.Contains(xmlFileNames, attribute)
}

// strange returns in words what a document says that it may not say by itself.
func (d *Document) strange() (found []string) {
	for _, disk := range d.Domain.Disks {
		switch {
		case disk.Trouble != "":
			found = append(found, fmt.Sprintf("disk %s: %s", disk.Target, disk.Trouble))
		case disk.leftOut() != "" && disk.source() != "":
			found = append(found, fmt.Sprintf("disk %s, of which this host has no copy: %s", disk.Target, disk.source()))
		}
	}
	found = append(found, d.form.strange()...)
	for i := range found {
		found[i] = text.Printable(found[i])
	}
	return found
}

func (f *xmlForm) strange() (found []string) {
	decoder := newDecoder(bytes.NewReader(f.text))
	var names []string // of the elements that are open
	var words strings.Builder
	refuse := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	where := func() string { return strings.Join(names[1:], "/") }
	for {
		token, err := decoder.Token()
		if err != nil { // the end: it was parsed before
			return found
		}
		switch t := token.(type) {
		case xml.StartElement:
			words.Reset()
			names = append(names, t.Name.Local)
			if t.Name.Space == "" && (len(names) == 1 || xmlAllowed().allows(where())) && where() != "metadata" {
				f.strangeValues(where(), t.Attr, refuse)
				continue
			}
			var inside struct {
				Text string `xml:",innerxml"`
			}
			if decoder.DecodeElement(&inside, &t) != nil {
				return found
			}
			if where() != "metadata" { // which nobody acts upon
				refuse("%s %s", cmp.Or(t.Name.Space, where()), strings.TrimSpace(attributeWords(t.Attr)+" "+shortened(inside.Text)))
			}
			names = names[:len(names)-1]
		case xml.CharData:
			words.Write(t)
		case xml.EndElement:
			if value := strings.TrimSpace(words.String()); !xmlAllowed().allowsValue(where(), value) {
				refuse("%s %s", where(), value)
			}
			words.Reset()
			names = names[:len(names)-1]
		}
	}
}

func (f *xmlForm) strangeValues(where string, attributes []xml.Attr, refuse func(string, ...any)) {
	for _, a := range attributes {
		name := a.Name.Local
		switch {
		case a.Name.Space == "xmlns" || a.Name.Space == "" && name == "xmlns":
		case a.Name.Space != "" || !xmlAllowed().allowsValue(where+"@"+name, a.Value):
			refuse("%s %s=%s", where, name, a.Value)
		}
	}
}

// shortened returns a text as a part of a line.
func shortened(s string) string {
	const most = 300
	if s = strings.Join(strings.Fields(s), " "); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func attributeWords(attributes []xml.Attr) string {
	var words []string
	for _, a := range attributes {
		words = append(words, a.Name.Local+"="+a.Value)
	}
	return strings.Join(words, " ")
}

// xlAllowed are the settings of a configuration of xl that concern the guest alone, and of others the values that do. Of
// a list each item must be allowed.
var xlAllowed = newXLRules(`
	name uuid=[0-9A-Fa-f-]+ type builder memory maxmem vcpus maxvcpus cpus cpus_soft cpu_weight cap nodes pool seed
	on_poweroff on_reboot on_watchdog on_crash on_soft_reset boot acpi acpi_s3 acpi_s4 acpi_laptop_slate apic pae nx smep smap hap
	hap_1gb hap_2mb viridian localtime rtc_timeoffset timer_mode tsc_mode hpet nestedhvm altp2m cpuid pvh pvshim passthrough
	vga videoram stdvga vnc vnclisten vncdisplay vncunused vncpasswd vncconsole sdl=0 opengl=0 spice usb keymap
	spicehost spiceport spicepasswd spiceagent_mouse usbdevice=(tablet|mouse|keyboard)
	serial=(pty|null|none) parallel=(none|null) soundhw xen_platform_pci max_grant_frames max_maptrack_frames
	max_event_channels event_channels claim_mode disable_migrate vif vfb disk root extra cmdline
	bios=(seabios|rombios|ovmf) firmware=(seabios|rombios|ovmf|bios|uefi) device_model_version=qemu-xen(-traditional)?
	bootloader=(/usr/(lib|libexec)/xen[\w.-]*/bin/|/usr/bin/)?pygrub
	kernel=/usr/lib/xen[\w.-]*/boot/[\w.-]+|/usr/lib/grub-xen/[\w.-]+|hvmloader
	device_model_override=/usr/(bin|lib/xen[\w.-]*/bin|libexec/xen[\w.-]*/bin)/(qemu-system-\w+|qemu-dm)
`)

// xlVif are the keys of a network card.
var xlVif = text.Pattern(`^(mac=[0-9A-Fa-f:]+|bridge=[\w.-]+|model=[\w-]+|type=\w+|vifname=[\w.-]+|rate=[\w/@]+|mtu=\d+|` +
	`devid=\d+|trusted=\d|script=(/etc/xen/scripts/)?vif-(bridge|route|nat|openvswitch))$`)

// newXLRules is newXMLRules for those of xl.
func newXLRules(rules string) func() map[string]*regexp.Regexp {
	return sync.OnceValue(func() map[string]*regexp.Regexp {
		values := make(map[string]*regexp.Regexp)
		for _, word := range strings.Fields(rules) {
			name, form, isValue := strings.Cut(word, "=")
			if !isValue {
				form = "[^/].*|" // no path
			}
			values[name] = regexp.MustCompile("(?s)^(?:" + form + ")$")
		}
		return values
	})
}

func (f *xlForm) strange() (found []string) {
	for _, name := range sortedKeys(f.settings) {
		if name == "disk" { // which is judged by itself
			continue
		}
		for _, value := range f.settings[name].words() {
			if form := xlAllowed()[name]; form == nil || !form.MatchString(value) || strings.Contains(value, "/../") ||
				name == "vif" && !allowedVif(value) {
				found = append(found, name+" = "+value)
			}
		}
	}
	return found
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// words returns the texts of an item and of all that it lists; of an empty list, one empty word.
func (i xlItem) words() (all []string) {
	if len(i.list) == 0 {
		return []string{i.text}
	}
	for j := range i.list {
		all = append(all, i.list[j].words()...)
	}
	return all
}

func allowedVif(spec string) bool {
	for key := range strings.SplitSeq(spec, ",") {
		if key = strings.TrimSpace(key); key != "" && !xlVif().MatchString(strings.ReplaceAll(key, " ", "")) {
			return false
		}
	}
	return true
}
