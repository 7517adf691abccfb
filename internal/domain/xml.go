package domain

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxXML bounds a document, in bytes: libvirt's own protocol carries no longer
// one (REMOTE_STRING_MAX in remote_protocol.x).
const maxXML = 4 << 20

// The parts of https://libvirt.org/formatdomain.html that matter here.
type xmlDomain struct {
	Type  string    `xml:"type,attr"`
	ID    string    `xml:"id,attr"`
	Name  string    `xml:"name"`
	UUID  string    `xml:"uuid"`
	Disks []xmlDisk `xml:"devices>disk"`
	OS    struct {
		Firmware string `xml:"firmware,attr"`
		NVRAM    struct {
			Path   string `xml:",chardata"`
			Type   string `xml:"type,attr"`
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
		} `xml:"nvram"`
	} `xml:"os"`
	TPMs []struct {
		Type   string `xml:"type,attr"`
		Source struct {
			Type string `xml:"type,attr"`
			Path string `xml:"path,attr"`
		} `xml:"source"`
	} `xml:"devices>tpm>backend"`
}

type xmlDisk struct {
	Type   string `xml:"type,attr"`
	Device string `xml:"device,attr"`
	Driver struct {
		Type string `xml:"type,attr"`
	} `xml:"driver"`
	Source struct {
		File     string `xml:"file,attr"`
		Dev      string `xml:"dev,attr"`
		Pool     string `xml:"pool,attr"`
		Volume   string `xml:"volume,attr"`
		Protocol string `xml:"protocol,attr"`

		DataStore *struct{} `xml:"dataStore"`
	} `xml:"source"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	Script struct {
		Path string `xml:"path,attr"`
	} `xml:"script"`
	BackendDomain struct {
		Name string `xml:"name,attr"`
	} `xml:"backenddomain"`
	BackingStore *struct {
		Type string `xml:"type,attr"`
	} `xml:"backingStore"`
	ReadOnly  *struct{} `xml:"readonly"`
	Shareable *struct{} `xml:"shareable"`
	Transient *struct{} `xml:"transient"`
}

// parseDocument reads one domain's document of at most 4 MiB: libvirt's XML, an xl
// configuration file, or what `xl list -l DOMAIN` prints.
func parseDocument(r io.Reader) (*Domain, error) {
	text, err := readText(r)
	if err != nil {
		return nil, err
	}
	if firstByte(text) == '[' {
		return parseXLDocument(text)
	}
	doc, err := readDocument(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return doc.Domain, nil
}

// parseXML reads one libvirt domain document of at most 4 MiB. Entities of the
// document's own are not expanded and nothing outside it is read: encoding/xml
// knows neither.
func parseXML(r io.Reader) (*Domain, error) {
	limited := &io.LimitedReader{R: r, N: maxXML + 1}
	d, err := decodeXML(limited)
	if limited.N <= 0 {
		return nil, fmt.Errorf("longer than %d MiB: no domain document", maxXML>>20)
	}
	return d, err
}

func decodeXML(r io.Reader) (*Domain, error) {
	decoder := newDecoder(r)
	start, err := nextElement(decoder)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errNoDocument
	case err != nil:
		return nil, err
	case start.Name.Local != "domain":
		return nil, fmt.Errorf("the document is a <%s>, not a <domain>", start.Name.Local)
	}
	var doc xmlDomain
	if err := decoder.DecodeElement(&doc, start); err != nil {
		return nil, err
	}
	if _, err := nextElement(decoder); err == nil {
		return nil, errors.New("there is more than one document")
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return doc.domain()
}

// parseXMLs reads one document after another.
func parseXMLs(text []byte) (all []*Domain, err error) {
	decoder := newDecoder(bytes.NewReader(text))
	for {
		start, err := nextElement(decoder)
		if errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		var doc xmlDomain
		if err := decoder.DecodeElement(&doc, start); err != nil {
			return nil, err
		}
		d, err := doc.domain()
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
}

// newDecoder reads UTF-8, which is all that libvirt writes.
func newDecoder(r io.Reader) *xml.Decoder {
	d := xml.NewDecoder(r)
	d.CharsetReader = func(string, io.Reader) (io.Reader, error) { return nil, errors.New("want UTF-8") }
	return d
}

// nextElement skips what may stand outside of a document's only element.
func nextElement(d *xml.Decoder) (*xml.StartElement, error) {
	for {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			return &t, nil
		case xml.CharData:
			if len(bytes.TrimSpace(bytes.TrimPrefix(t, []byte("\ufeff")))) > 0 {
				return nil, errors.New("text outside of the document")
			}
		}
	}
}

func (x *xmlDomain) domain() (*Domain, error) {
	d := &Domain{Name: x.Name, UUID: strings.ToLower(strings.TrimSpace(x.UUID)), ID: x.ID, Type: x.Type}
	if d.Name == "" {
		return nil, errors.New("the domain has no name")
	}
	d.NVRAM = cmp.Or(strings.TrimSpace(x.OS.NVRAM.Path), x.OS.NVRAM.Source.File)
	if d.NVRAM == "" && x.OS.NVRAM.Type == "" && x.OS.Firmware == "efi" {
		// libvirt 9.0 chooses the firmware at each start, and this is not in the definition.
		d.NVRAM = "/var/lib/libvirt/qemu/nvram/" + d.Name + "_VARS.fd"
	}
	for _, t := range x.TPMs {
		switch {
		case t.Type != "emulator":
		case t.Source.Path == "":
			d.TPM = "/var/lib/libvirt/swtpm/" + d.UUID // qemu_tpm.c
		default:
			d.TPM = t.Source.Path
		}
	}
	for _, x := range x.Disks {
		disk := x.disk()
		disk.Standalone = disk.Standalone && d.Type != "xen" // libxl has no word for that
		d.Disks = append(d.Disks, disk)
	}
	return d, d.checkTargets()
}

func (x *xmlDisk) disk() Disk {
	d := Disk{
		Target:     x.Target.Dev,
		Device:     x.Device,
		Format:     x.Driver.Type,
		ReadOnly:   x.ReadOnly != nil,
		Shareable:  x.Shareable != nil,
		Transient:  x.Transient != nil,
		Standalone: x.BackingStore != nil && x.BackingStore.Type == "",
	}
	if d.Device == "" {
		d.Device = "disk"
	}
	switch x.Type {
	case "volume":
		d.Pool, d.Volume = x.Source.Pool, x.Source.Volume
	case "block", "file", "":
		// Whichever is there: what the path is, stat tells.
		if d.Source = x.Source.File; d.Source == "" {
			d.Source = x.Source.Dev
		}
	case "network":
		d.Remote = true
		d.Trouble = strings.TrimSpace("network disk "+x.Source.Protocol) + ": not on this host"
	default:
		d.Trouble = fmt.Sprintf("disk of type %q", x.Type)
	}
	switch backend := x.BackendDomain.Name; {
	case backend != "" && backend != "Domain-0":
		d.Trouble = "its backend is the driver domain " + backend
	case !plainScript(x.Script.Path):
		d.Remote = true
		d.Trouble = scriptTrouble(x.Script.Path)
	case x.BackingStore != nil && x.BackingStore.Type != "":
		d.Trouble = strings.TrimSpace(d.Format+" image") + " with a backing store: a copy would be a part of it"
	case x.Source.DataStore != nil:
		d.Trouble = strings.TrimSpace(d.Format+" image") + " whose data is in another file: a copy would be a part of it"
	}
	return d
}
