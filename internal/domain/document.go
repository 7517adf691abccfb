package domain

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"xen-backup/internal/exit"
)

// Document is the text by which a toolstack starts a domain. What is changed in it is
// changed in place, so that all the rest stays as it is: other namespaces, comments,
// and what only a newer libvirt or xl understands.
type Document struct {
	Domain  *Domain
	XL      bool     // xl's configuration, not libvirt's XML
	Files   []File   // of the host, that the domain does not start without
	Secrets []Secret // of libvirt's, likewise
	Stays   []string // what belongs to the domain and cannot travel, in words

	text    []byte
	form    form
	edits   []edit
	dropped []int
	carried []string // files that came with it
}

// Format of a document: XML for libvirt, XL for xl.
type Format string

const (
	XML Format = "xml"
	XL  Format = "xl"
)

func (d *Document) format() Format {
	if d.XL {
		return XL
	}
	return XML
}

// suffix is that of the name of a file with such a document.
func (f Format) suffix() string {
	if f == XL {
		return ".cfg"
	}
	return ".xml"
}

func (f Format) other() Format {
	if f == XL {
		return XML
	}
	return XL
}

// File is a file of the host: a kernel, firmware.
type File struct{ Kind, Path string }

// Secret is one of libvirt's secrets, by its UUID or by its type and usage.
type Secret struct {
	UUID, Type, Usage string

	disk int // that needs it, -1 for none
}

func (s Secret) String() string {
	if s.UUID != "" {
		return s.UUID
	}
	return fmt.Sprintf("%q of type %s", s.Usage, s.Type)
}

// edit puts something else in the place of text[from:to].
type edit struct {
	from, to int
	text     string
}

// form knows where in a document things stand.
type form interface {
	setSource(disk int, path string, block bool) ([]edit, error)
	eject(disk int) []edit
	drop(disk int) edit
	comment(lines []string) edit
	comments() []span  // ours
	strange() []string // see Document.strange
	copyAs(c *TestCopy, doc *Document) []byte
}

// readDocument reads a document of at most 4 MiB by which a domain can be started:
// libvirt's XML or xl's configuration file.
func readDocument(r io.Reader) (*Document, error) {
	text, err := readText(r)
	if err != nil {
		return nil, err
	}
	switch firstByte(text) {
	case 0:
		return nil, errNoDocument
	case '<':
		return readXMLDocument(text)
	case '[':
		return nil, errors.New("this is what xl list -l prints: no domain can be started by it")
	}
	return readXLConfig(text)
}

// ParseFile parses the document in a file, or in stdin if the file is "-". The error's status
// is NoInput if there is no such file, IOError if it cannot be read, and BadStream if it
// is no document.
func ParseFile(path string, stdin io.Reader) (*Domain, error) {
	in, name := stdin, "standard input"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, exit.Fail(exit.NoInput, "cannot read: %w", err)
		}
		defer f.Close()
		in, name = f, path
	}
	d, err := parseDocument(in)
	if err != nil {
		return nil, badDocument(name, err)
	}
	return d, nil
}

// badDocument gives the failure to read a document its status.
func badDocument(name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return exit.Fail(exit.IOError, "cannot read: %w", err)
	}
	return exit.Fail(exit.BadStream, "%s: %w", name, err)
}

var errNoDocument = errors.New("no domain document in it")

func readText(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxXML+1))
	if err == nil && len(text) > maxXML {
		err = fmt.Errorf("longer than %d MiB: no domain document", maxXML>>20)
	}
	return text, err
}

// firstByte returns that of a document's text, 0 if there is none.
func firstByte(text []byte) byte {
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff")))
	if len(text) == 0 {
		return 0
	}
	return text[0]
}

// setSource gives a disk another source on this host.
func (d *Document) setSource(disk int, path string, block bool) error {
	edits, err := d.form.setSource(disk, path, block)
	if err != nil {
		return err
	}
	d.edits = append(d.edits, edits...)
	to := &d.Domain.Disks[disk]
	to.Source, to.Pool, to.Volume = path, "", ""
	return nil
}

// eject takes the medium out of a drive.
func (d *Document) eject(disk int) {
	d.edits = append(d.edits, d.form.eject(disk)...)
	from := &d.Domain.Disks[disk]
	from.Source, from.Pool, from.Volume = "", "", ""
}

// drop removes a disk.
func (d *Document) drop(disk int) {
	d.edits = append(d.edits, d.form.drop(disk))
	d.dropped = append(d.dropped, disk)
}

// comment adds a comment at the document's begin.
func (d *Document) comment(lines []string) { d.edits = append(d.edits, d.form.comment(lines)) }

// forget removes the comments that were added on another host, or on an earlier way through
// this one: they are no longer true.
func (d *Document) forget() {
	for _, s := range d.form.comments() {
		d.edits = append(d.edits, edit{s.from, s.to, ""})
	}
}

// Text returns the document with all changes, and proves that it says what it should.
func (d *Document) Text() ([]byte, error) {
	text := d.edited()
	again, err := readDocument(bytes.NewReader(text))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "the changed document: %w", err)
	}
	var want, got []string
	for i, disk := range d.Domain.Disks {
		if !slices.Contains(d.dropped, i) {
			want = append(want, disk.Target+" "+disk.source())
		}
	}
	for _, disk := range again.Domain.Disks {
		got = append(got, disk.Target+" "+disk.source())
	}
	if again.Domain.Name != d.Domain.Name || !slices.Equal(got, want) {
		return nil, exit.Fail(exit.Internal, "the changed document has the disks %q, not %q", got, want)
	}
	return text, nil
}

func (d *Document) edited() []byte {
	// What is added at a place goes before what is removed there.
	slices.SortStableFunc(d.edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var out bytes.Buffer
	at := 0
	for _, e := range d.edits {
		out.Write(d.text[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(d.text[at:])
	return out.Bytes()
}

// spans returns what a form matches in a text.
func spans(form *regexp.Regexp, text []byte) (found []span) {
	for _, m := range form.FindAllIndex(text, -1) {
		found = append(found, span{m[0], m[1]})
	}
	return found
}
