package domain

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"xen-backup/internal/text"
)

// xmlForm says where things stand in a document of libvirt.
type xmlForm struct {
	text  []byte
	root  int // where its only element begins
	disks []xmlMarks
	xen   bool
}

// xmlMarks are the places of one disk.
type xmlMarks struct {
	whole, tag     span // <disk ...>...</disk>, <disk ...>
	driver, source xmlTag
	sourceWhole    span
}

type span struct{ from, to int }

// xmlTag is a start tag and what it says.
type xmlTag struct {
	span
	attr []xml.Attr
}

func (t *xmlTag) value(name string) string {
	for _, a := range t.attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}

func readXMLDocument(text []byte) (*Document, error) {
	d, err := parseXML(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	doc := &Document{Domain: d, text: text}
	form := &xmlForm{text: text, xen: d.Type == "xen"}
	doc.form = form
	if err := form.mark(doc); err != nil {
		return nil, err
	}
	if len(form.disks) != len(d.Disks) {
		return nil, fmt.Errorf("%d disks, or %d", len(form.disks), len(d.Disks))
	}
	return doc, nil
}

// maxDepth is what libvirt's own parser takes at most by default. What mark does for
// an element costs time by its depth: of a document of 4 MiB, hours.
const maxDepth = 256

// mark walks through the document, which has been parsed before.
func (f *xmlForm) mark(doc *Document) error {
	decoder := newDecoder(bytes.NewReader(f.text))
	var path []string
	var words strings.Builder // of the innermost element
	var open xmlTag
	for {
		from := int(decoder.InputOffset())
		token, err := decoder.Token()
		to := int(decoder.InputOffset())
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if path = append(path, t.Name.Local); len(path) > maxDepth {
				return fmt.Errorf("more than %d elements deep: no domain document", maxDepth)
			}
			open = xmlTag{span{from, to}, t.Attr}
			words.Reset()
			f.begin(strings.Join(path, "/"), open)
			disk := -1
			if strings.HasPrefix(strings.Join(path, "/"), "domain/devices/disk/") {
				disk = len(f.disks) - 1
			}
			doc.noteElement(path, &open, disk)
		case xml.EndElement:
			f.end(strings.Join(path, "/"), to)
			doc.noteText(path, strings.TrimSpace(words.String()))
			words.Reset()
			path = path[:len(path)-1]
		case xml.CharData:
			words.Write(t)
		}
	}
}

func (f *xmlForm) begin(path string, tag xmlTag) {
	switch path {
	case "domain":
		f.root = tag.from
	case "domain/devices/disk":
		f.disks = append(f.disks, xmlMarks{whole: tag.span, tag: tag.span})
	case "domain/devices/disk/driver":
		f.disks[len(f.disks)-1].driver = tag
	case "domain/devices/disk/source":
		f.disks[len(f.disks)-1].source = tag
		f.disks[len(f.disks)-1].sourceWhole = tag.span
	}
}

func (f *xmlForm) end(path string, to int) {
	switch path {
	case "domain/devices/disk":
		f.disks[len(f.disks)-1].whole.to = to
	case "domain/devices/disk/source":
		f.disks[len(f.disks)-1].sourceWhole.to = to
	}
}

// Elements that hold the name of a file that the host must have, by what it is.
var xmlFiles = map[string]string{
	"domain/bootloader":       "boot loader",
	"domain/os/kernel":        "kernel",
	"domain/os/initrd":        "ramdisk",
	"domain/os/dtb":           "device tree",
	"domain/os/loader":        "firmware",
	"domain/devices/emulator": "emulator",
}

// nvramTemplate is needed as long as the domain has no variables of its own.
const nvramTemplate = "template of UEFI variables"

// noteText notes the files that are named by the text of an element.
func (d *Document) noteText(path []string, text string) {
	if kind := xmlFiles[strings.Join(path, "/")]; kind != "" && strings.HasPrefix(text, "/") {
		d.Files = append(d.Files, File{kind, text})
	}
}

// noteElement notes what is named by attributes.
func (d *Document) noteElement(path []string, tag *xmlTag, disk int) {
	where := strings.Join(path, "/")
	if template := tag.value("template"); where == "domain/os/nvram" && template != "" {
		d.Files = append(d.Files, File{nvramTemplate, template})
	}
	switch name := path[len(path)-1]; {
	case where == "domain/devices/hostdev":
		d.stays("a host device (%s)", cmp.Or(tag.value("type"), tag.value("mode")))
	case where == "domain/devices/filesystem/source":
		d.stays("the shared directory %s",
			cmp.Or(tag.value("dir"), tag.value("file"), tag.value("name"), tag.value("socket"), tag.value("volume")))
	case where == "domain/devices/memory" && slices.Contains([]string{"nvdimm", "virtio-pmem"}, tag.value("model")):
		d.stays("the content of its %s", tag.value("model"))
	case where == "domain/devices/tpm/backend" && tag.value("type") != "emulator":
		d.stays("a TPM (%s)", tag.value("type"))
	case where == "domain/os/nvram" && tag.value("type") != "" && tag.value("type") != "file":
		d.stays("the UEFI variables (%s)", tag.value("type"))
	case path[min(1, len(path)-1)] != "devices":
	case name == "secret" && (tag.value("uuid") != "" || tag.value("usage") != ""):
		d.Secrets = append(d.Secrets, Secret{strings.ToLower(tag.value("uuid")), tag.value("type"), tag.value("usage"), disk})
	case name == "encryption" && tag.value("secret") != "": // of a TPM's state
		d.Secrets = append(d.Secrets, Secret{UUID: strings.ToLower(tag.value("secret")), disk: disk})
	}
}

func (d *Document) stays(format string, args ...any) {
	d.Stays = append(d.Stays, fmt.Sprintf(format, args...))
}

// setSource makes the disk one of type block or file, whatever it was.
func (f *xmlForm) setSource(disk int, path string, block bool) ([]edit, error) {
	m := f.disks[disk]
	kind, name := "file", "file"
	if block {
		kind, name = "block", "dev"
	}
	edits := []edit{f.setAttribute(m.tag, "type", kind)}
	source := name + "='" + escapeXML(path) + "'"
	for _, a := range f.attributes(m.source.span) {
		switch {
		case !slices.Contains([]string{"file", "dev", "pool", "volume", "mode"}, a.name):
		case source != "":
			edits = append(edits, edit{a.whole.from, a.whole.to, source})
			source = ""
		default:
			edits = append(edits, f.cut(a.whole))
		}
	}
	if source != "" {
		at := m.source.from + len("<source")
		edits = append(edits, edit{at, at, " " + source})
	}
	// Xen's block backend takes devices only.
	if driver := m.driver.value("name"); f.xen && !block && driver == "phy" {
		edits = append(edits, f.setAttribute(m.driver.span, "name", "qemu"))
	}
	return edits, nil
}

func (f *xmlForm) eject(disk int) []edit {
	m := f.disks[disk]
	edits := []edit{f.cut(m.sourceWhole)}
	for _, a := range m.source.attr {
		if a.Name.Local == "volume" { // such a disk must have a source
			edits = append(edits, f.setAttribute(m.tag, "type", "file"))
		}
	}
	return edits
}

func (f *xmlForm) drop(disk int) edit { return f.cut(f.disks[disk].whole) }

// cut removes a place together with the white space before it.
func (f *xmlForm) cut(s span) edit {
	before := bytes.TrimRight(f.text[:s.from], " \t\r\n")
	return edit{len(before), s.to, ""}
}

func (f *xmlForm) comment(lines []string) edit {
	text := "xen-backup: " + strings.Join(lines, "\n  ")
	for strings.Contains(text, "--") { // not allowed in a comment
		text = strings.ReplaceAll(text, "--", "- -")
	}
	end := " -->\n"
	if len(lines) > 1 {
		end = "\n-->\n"
	}
	return edit{f.root, f.root, "<!-- " + text + end}
}

var xmlOwn = text.Pattern(`(?s)<!-- xen-backup: .*?-->\n?`)

func (f *xmlForm) comments() []span { return spans(xmlOwn(), f.text[:f.root]) }

// xmlAttribute is one attribute in the text of a start tag.
type xmlAttribute struct {
	name         string
	whole, value span // name='value', and value without the quotes
}

var xmlAttributeForm = text.Pattern(`([^\s=/<>"']+)\s*=\s*("[^"]*"|'[^']*')`)

// attributes finds those of a start tag, which is well-formed.
func (f *xmlForm) attributes(tag span) (found []xmlAttribute) {
	for _, m := range xmlAttributeForm().FindAllSubmatchIndex(f.text[tag.from:tag.to], -1) {
		for i := range m {
			m[i] += tag.from
		}
		found = append(found, xmlAttribute{string(f.text[m[2]:m[3]]), span{m[0], m[1]}, span{m[4] + 1, m[5] - 1}})
	}
	return found
}

// setAttribute changes an attribute of a start tag, or adds it.
func (f *xmlForm) setAttribute(tag span, name, value string) edit {
	for _, a := range f.attributes(tag) {
		if a.name == name {
			return edit{a.value.from, a.value.to, escapeXML(value)}
		}
	}
	at := tag.from + len("<") + len(xmlName().Find(f.text[tag.from+1:tag.to]))
	return edit{at, at, " " + name + "='" + escapeXML(value) + "'"}
}

var xmlName = text.Pattern(`^[^\s/>]+`)

// escapeXML makes s fit between quotes of either kind.
func escapeXML(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
