package domain

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// A test copy is a domain that is started beside the one that it is a copy of, from copies of its disks, to see whether
// it starts. Nothing of it may meet the other one, or anybody: it has another name and UUID, no network, nothing of the
// host, and no port or socket but a console of its own.

// TestCopy says what a test copy is to be.
type TestCopy struct {
	Name   string
	Disks  Places // the copies of the disks that are copied
	Memory int64  // bytes; 0: as much as the domain has
	Out    string // the document is Out.xml or Out.cfg, the console Out.console, what it says Out.log

	uuid string
}

// testCopyUUID begins the UUIDs of all test copies, by which one is told from whatever else may have its name.
const testCopyUUID = "78622d74-6573-4074-a000-"

// Make writes the document of a test copy of the domain whose document is in a file, as Store.Release has written it.
func (c *TestCopy) Make(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return exit.OpenFailed(err)
	}
	defer in.Close()
	doc, err := readDocument(in)
	if err != nil {
		return badDocument(file, err)
	}
	var random [6]byte
	rand.Read(random[:])
	c.uuid = testCopyUUID + hex.EncodeToString(random[:])
	nvram := doc.Domain.NVRAM
	if err := c.replaceDisks(doc); err != nil {
		return err
	}
	text, err := doc.Text()
	if err == nil {
		doc, err = readDocument(bytes.NewReader(text))
	}
	if err != nil {
		return err
	}
	text = doc.form.copyAs(c, doc)
	if again, err := readDocument(bytes.NewReader(text)); err != nil || again.Domain.Name != c.Name || again.Domain.UUID != c.uuid ||
		!slices.Equal(again.Domain.Copied(), doc.Domain.Copied()) {
		return exit.Fail(exit.Internal, "the document of the test copy is not what it should be: %w", err)
	}
	if err := CheckImages(text, imagesOf(doc.Domain)); err != nil {
		return err
	}
	files := strings.TrimSuffix(file, doc.format().suffix()) + filesSuffix
	if err := copyVariables(files, nvram, c.variables()); err != nil {
		return err
	}
	return keep(c.Out+doc.format().suffix(), text)
}

// imagesOf are what its disks are, by their targets.
func imagesOf(d *Domain) map[string]string {
	images := make(map[string]string)
	for _, disk := range d.Disks {
		images[disk.Target] = disk.Source
	}
	return images
}

// replaceDisks puts the copies of the disks in their places, and leaves out all others.
func (c *TestCopy) replaceDisks(doc *Document) error {
	copied := doc.Domain.Copied()
	for i, disk := range doc.Domain.Disks {
		place, ok := c.Disks[filepath.Clean(disk.Source)]
		switch {
		case !slices.Contains(copied, disk.Target):
			doc.drop(i)
		case !ok:
			return exit.Fail(exit.Usage, "disk %s: %s has no --map", disk.Target, disk.Source)
		default:
			if err := doc.setSource(i, place, isBlock(place)); err != nil {
				return exit.Fail(exit.Config, "disk %s: %w", disk.Target, err)
			}
		}
	}
	return nil
}

// variables is the file with those of its UEFI firmware.
func (c *TestCopy) variables() string { return c.Out + ".VARS" }

// copyVariables writes those that came with the domain, if any did, to a file.
func copyVariables(files, nvram, to string) error {
	in, err := os.Open(files)
	if errors.Is(err, fs.ErrNotExist) || nvram == "" {
		return nil // the firmware begins with new ones
	} else if err != nil {
		return exit.OpenFailed(err)
	}
	defer in.Close()
	members := tar.NewReader(in)
	for {
		header, err := members.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return exit.Fail(exit.BadStream, "%s: %w", files, err)
		case filepath.Clean("/"+header.Name) != filepath.Clean(nvram):
			continue
		}
		p, err := durable.CreatePending(to)
		if err != nil {
			return err
		}
		defer p.Discard()
		if _, err := io.Copy(p, io.LimitReader(members, maxMember)); err != nil {
			return exit.Fail(exit.CantCreate, "cannot write %s: %w", to, err)
		}
		return p.Commit()
	}
}

// xmlCopied are the elements that a test copy has, too, in the form of xmlAllowed.
var xmlCopied = newXMLRules(`
	title description memory currentMemory vcpu iothreads cpu/ features/ clock/ pm/ on_poweroff on_reboot
	os os/type os/boot os/bootmenu os/bios os/cmdline os/firmware/ os/loader os/kernel os/initrd os/dtb os/acpi/
	bootloader bootloader_args
	devices devices/emulator devices/disk/ devices/controller/ devices/input devices/input/address devices/video/
	devices/memballoon/ devices/rng/ devices/hub/ devices/iommu/ devices/panic/
	devices/interface devices/interface/mac devices/interface/source devices/interface/model devices/interface/address
	devices/interface/driver/ devices/interface/virtualport/ devices/interface/vlan/ devices/interface/boot
`)

const guestAgent = "org.qemu.guest_agent.0"

// copyAs writes the document anew: what is not copied is not in it.
func (f *xmlForm) copyAs(c *TestCopy, doc *Document) []byte {
	w := &xmlCopy{TestCopy: *c, doc: doc, xen: f.xen}
	decoder := newDecoder(bytes.NewReader(f.text))
	for {
		token, err := decoder.Token()
		if err != nil {
			return w.out.Bytes()
		}
		switch t := token.(type) {
		case xml.StartElement:
			w.path = append(w.path, t.Name.Local)
			if w.copies(t) {
				w.open(t)
				continue
			}
			var channel struct {
				Target struct {
					Name string `xml:"name,attr"`
				} `xml:"target"`
			}
			if err := decoder.DecodeElement(&channel, &t); err != nil {
				return nil
			}
			w.agent = w.agent || w.where() == "devices/channel" && channel.Target.Name == guestAgent
			w.path = w.path[:len(w.path)-1]
		case xml.CharData:
			w.words.Write(t)
		case xml.EndElement:
			w.close(t.Name.Local)
		}
	}
}

// xmlCopy is the document of a test copy that is being written.
type xmlCopy struct {
	TestCopy
	doc   *Document
	xen   bool
	path  []string // of the element that is open
	words strings.Builder
	agent bool // a guest agent can be reached
	out   bytes.Buffer
}

func (w *xmlCopy) where() string { return strings.Join(w.path[1:], "/") }

// copies reports whether the test copy has an element, too.
func (w *xmlCopy) copies(t xml.StartElement) bool {
	where, tag := w.where(), xmlTag{attr: t.Attr}
	switch {
	case len(w.path) == 1:
		return true
	case t.Name.Space != "" || !xmlCopied().allows(where):
		return false
	case where == "devices/interface":
		return !w.xen // whose cards have no link that could be down
	case where == "devices/input":
		return slices.Contains([]string{"tablet", "mouse", "keyboard"}, tag.value("type"))
	case where == "cpu/numa":
		return w.Memory == 0
	}
	return true
}

// Attributes that lead to the host, or that a test copy has other ones of, and what the elements of others are.
var xmlNotCopied = []string{"vcpu@cpuset", "@id", "devices/video/model@ram", "devices/video/model@vram", "devices/video/model@vgamem"}

func (w *xmlCopy) open(t xml.StartElement) {
	where := w.where()
	w.out.WriteString("<" + t.Name.Local)
	for _, a := range t.Attr {
		value := a.Value
		switch {
		case a.Name.Space != "" || a.Name.Local == "xmlns" || slices.Contains(xmlNotCopied, where+"@"+a.Name.Local):
			continue
		case where == "devices/video/model" && a.Name.Local == "type" && value == "qxl": // which is nothing without spice
			value = "vga"
		case w.Memory > 0 && (where == "memory" || where == "currentMemory") && a.Name.Local == "unit":
			continue
		}
		fmt.Fprintf(&w.out, " %s='%s'", a.Name.Local, escapeXML(value))
	}
	w.out.WriteString(">")
	w.words.Reset()
	switch where {
	case "":
		fmt.Fprintf(&w.out, "\n<name>%s</name>\n<uuid>%s</uuid>\n", escapeXML(w.Name), w.uuid)
	case "devices/interface":
		w.out.WriteString("<link state='down'/>")
	}
}

func (w *xmlCopy) close(name string) {
	where, words := w.where(), strings.TrimSpace(w.words.String())
	w.words.Reset()
	if w.Memory > 0 && (where == "memory" || where == "currentMemory") {
		words = fmt.Sprint(w.Memory >> 10) // KiB
	}
	w.out.WriteString(escapeXML(words))
	switch {
	case where == "os" && w.doc.Domain.NVRAM != "":
		fmt.Fprintf(&w.out, "<nvram%s>%s</nvram>", w.template(), escapeXML(w.variables()))
	case where == "devices" && w.xen:
		w.out.WriteString("<console type='pty'/>\n")
	case where == "devices":
		fmt.Fprintf(&w.out, "<serial type='unix'><source mode='bind' path='%s'/><log file='%s' append='off'/></serial>\n",
			escapeXML(w.Out+".console"), escapeXML(w.Out+".log"))
		if w.agent {
			fmt.Fprintf(&w.out, "<channel type='unix'><target type='virtio' name='%s'/></channel>\n", guestAgent)
		}
	}
	w.out.WriteString("</" + name + ">\n")
	w.path = w.path[:len(w.path)-1]
}

// template is the attribute of that name, of what new variables are made of.
func (w *xmlCopy) template() string {
	for _, f := range w.doc.Files {
		if f.Kind == nvramTemplate {
			return " template='" + escapeXML(f.Path) + "'"
		}
	}
	return ""
}

// xlCopied are the settings of xl that a test copy has, too.
var xlCopied = strings.Fields(`
	type builder memory maxmem vcpus maxvcpus cpuid on_poweroff on_reboot boot acpi acpi_s3 acpi_s4 apic pae nx smep smap
	hap hap_1gb hap_2mb viridian localtime rtc_timeoffset timer_mode tsc_mode hpet nestedhvm pvh pvshim xen_platform_pci bios
	firmware device_model_version device_model_override firmware_override bios_path_override kernel ramdisk root extra
	cmdline bootloader bootloader_args stdvga vga videoram disk`)

func (f *xlForm) copyAs(c *TestCopy, _ *Document) []byte {
	settings := map[string]string{"name": quoteXL(c.Name), "uuid": quoteXL(c.uuid), "on_crash": quoteXL("destroy")}
	for _, name := range xlCopied {
		if item, ok := f.settings[name]; ok {
			settings[name] = item.source()
		}
	}
	if c.Memory > 0 {
		settings["memory"] = fmt.Sprint(max(1, c.Memory>>20))
		delete(settings, "maxmem")
	}
	if f.settings["type"].text == "hvm" || f.settings["builder"].text == "hvm" {
		settings["serial"] = quoteXL("pty")
	}
	var out bytes.Buffer
	for _, name := range sortedKeys(settings) {
		fmt.Fprintf(&out, "%s = %s\n", name, settings[name])
	}
	return out.Bytes()
}

// source returns an item as it stands in a configuration.
func (i xlItem) source() string {
	if i.list == nil {
		return quoteXL(i.text)
	}
	var items []string
	for _, item := range i.list {
		items = append(items, item.source())
	}
	return "[ " + strings.Join(items, ", ") + " ]"
}

func quoteXL(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
