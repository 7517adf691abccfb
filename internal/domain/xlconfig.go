package domain

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"xen-backup/internal/text"
)

// A configuration file of xl (xl.cfg(5), and as libxlu_cfg_l.l and libxlu_cfg_y.y read
// it): assignments of an atom, which is a string or a number, or of a list, which
// may span lines and end with a comma. It is not Python, though it was once.

// xlForm says where things stand in such a file.
type xlForm struct {
	text  []byte
	disks []xlItem // of disk = [...]
	specs []xlDisk

	settings map[string]xlItem
}

// xlItem is an atom or a list.
type xlItem struct {
	span
	text  string
	list  []xlItem
	plain bool // text is what stands between the quotes, without escapes
	comma int  // in a list: where the comma after it ends, 0 if there is none
}

// xlFiles are the settings that name a file that the host must have, by what it is.
var xlFiles = []struct{ key, kind string }{
	{"kernel", "kernel"}, {"ramdisk", "ramdisk"}, {"bootloader", "boot loader"}, {"device_tree", "device tree"},
	{"firmware_override", "firmware"}, {"bios_path_override", "firmware"}, {"device_model_override", "emulator"},
}

func readXLConfig(text []byte) (*Document, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	p := &xlParser{text: string(text), line: 1, settings: make(map[string]xlItem)}
	if err := p.file(); err != nil {
		return nil, err
	}
	d := &Domain{Name: p.settings["name"].text, UUID: strings.ToLower(p.settings["uuid"].text), Type: "xen"}
	if d.Name == "" {
		return nil, errors.New("the domain has no name")
	}
	doc := &Document{Domain: d, XL: true, text: text}
	form := &xlForm{text: text, settings: p.settings}
	doc.form = form
	list, given := p.settings["disk"]
	if given && list.list == nil {
		return nil, errors.New("disk is no list")
	}
	for _, item := range list.list {
		var spec xlDisk
		if item.list != nil || strings.Contains(item.text, `\`) {
			return nil, errors.New("disk has a list in it, or a backslash")
		}
		if err := spec.parse(item.text); err != nil {
			return nil, err
		}
		form.disks = append(form.disks, item)
		form.specs = append(form.specs, spec)
		d.Disks = append(d.Disks, spec.disk())
	}
	for _, f := range xlFiles {
		if path := p.settings[f.key].text; strings.HasPrefix(path, "/") {
			doc.Files = append(doc.Files, File{f.kind, path})
		}
	}
	for _, key := range []string{"pci", "usbdev", "dtdev", "vtpm", "p9"} {
		if item := p.settings[key]; len(item.list) > 0 {
			doc.stays("what %s = [...] names", key)
		}
	}
	return doc, d.checkTargets()
}

// A configuration that was cut at the end of a line is still one. So one that travels
// has a last line that says so.
const xlEnd = "# end of the configuration\n"

// What we have written into a configuration that came from another host before.
const xlCommentsForm = `(?m)^# xen-backup: .*\n(#  .*\n)*`

var (
	xlComments = text.Pattern(xlCommentsForm)
	xlOwn      = text.Pattern(xlCommentsForm + `|\n?^` + xlEnd)
)

// endXL makes a configuration one that travels.
func endXL(text []byte) []byte {
	text = xlOwn().ReplaceAll(text, nil)
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	return append(text, xlEnd...)
}

// whole reports whether a document that came from another host is all of it.
func (d *Document) whole() bool { return !d.XL || bytes.HasSuffix(d.text, []byte("\n"+xlEnd)) }

func (f *xlForm) setSource(disk int, path string, block bool) ([]edit, error) {
	item, spec := f.disks[disk], &f.specs[disk]
	switch {
	case !item.plain:
		return nil, errors.New("its line has escapes in it")
	case strings.ContainsAny(path, `"'\`) || !printable(path):
		return nil, fmt.Errorf("the path %q cannot stand in a line of xl", path)
	case !spec.keyed && strings.ContainsAny(path, ",="):
		return nil, fmt.Errorf("the path %q can only stand after target=, at the end of the line", path)
	case spec.BackendType == "phy" && !block:
		return nil, fmt.Errorf("backendtype=phy does not go with the file %s", path)
	}
	return []edit{f.setTarget(disk, path)}, nil
}

func (f *xlForm) setTarget(disk int, path string) edit {
	at := f.disks[disk].from + 1 // the quote
	target := f.specs[disk].target
	return edit{at + target.from, at + target.to, path}
}

func (f *xlForm) eject(disk int) []edit { return []edit{f.setTarget(disk, "")} }

// drop removes the comma with the disk: no list may have two commas in a row.
func (f *xlForm) drop(disk int) edit {
	item := f.disks[disk]
	return edit{item.from, max(item.to, item.comma), ""}
}

func (f *xlForm) comment(lines []string) edit {
	return edit{0, 0, "# xen-backup: " + strings.Join(lines, "\n#   ") + "\n"}
}

func (f *xlForm) comments() []span { return spans(xlComments(), f.text) }

// xlParser reads a configuration file.
type xlParser struct {
	text     string
	at, line int
	settings map[string]xlItem
}

func (p *xlParser) fail(what string) error {
	rest := p.text[p.at:]
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	return fmt.Errorf("line %d: %s at %.40q: no configuration of xl", p.line, what, rest)
}

var (
	xlName    = text.Pattern(`^[A-Za-z_][A-Za-z0-9_]*`)
	xlNumber  = text.Pattern(`^-?[0-9][0-9A-Za-z]*`)
	xlString  = text.Pattern(`^(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")`)
	xlComment = text.Pattern(`^#[^\n]*`)
)

// skip passes blanks and, where they do not end anything, comments and line ends.
func (p *xlParser) skip(lines bool) {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t':
			p.at++
		case lines && c == '\n':
			p.at++
			p.line++
		case lines && c == '#':
			p.take(xlComment())
		default:
			return
		}
	}
}

// take passes what form matches.
func (p *xlParser) take(form *regexp.Regexp) string {
	word := form.FindString(p.text[p.at:])
	p.at += len(word)
	return word
}

// takeWord passes a fixed word.
func (p *xlParser) takeWord(word string) bool {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return false
	}
	p.at += len(word)
	return true
}

func (p *xlParser) file() error {
	for {
		p.skip(true)
		switch {
		case p.at == len(p.text):
			return nil
		case p.takeWord(";"):
		default:
			if err := p.assignment(); err != nil {
				return err
			}
		}
	}
}

// assignment reads one with the end of its line. Of two the last one counts; += adds
// to what was there.
func (p *xlParser) assignment() error {
	name := p.take(xlName())
	if name == "" {
		return p.fail("no setting")
	}
	p.skip(false)
	add := p.takeWord("+=")
	if !add && !p.takeWord("=") {
		return p.fail("no =")
	}
	p.skip(false)
	value, err := p.value(0)
	if err != nil {
		return err
	}
	p.skip(false)
	p.take(xlComment())
	if p.at < len(p.text) && p.text[p.at] != '\n' && p.text[p.at] != ';' {
		return p.fail("no end of the line")
	}
	if before, ok := p.settings[name]; add && ok {
		value.text = before.text + value.text
		if value.list != nil {
			value.list = append(before.list[:len(before.list):len(before.list)], value.list...)
		}
	}
	p.settings[name] = value
	return nil
}

func (p *xlParser) value(depth int) (xlItem, error) {
	if depth > 3 || !p.takeWord("[") {
		return p.atom()
	}
	item := xlItem{list: []xlItem{}}
	for {
		p.skip(true)
		if p.takeWord("]") {
			return item, nil
		}
		if n := len(item.list); n > 0 && item.list[n-1].comma == 0 {
			return item, p.fail("no comma")
		}
		element, err := p.value(depth + 1)
		if err != nil {
			return item, err
		}
		p.skip(true)
		if p.takeWord(",") {
			element.comma = p.at
		}
		item.list = append(item.list, element)
	}
}

func (p *xlParser) atom() (xlItem, error) {
	from := p.at
	if quoted := p.take(xlString()); quoted != "" {
		text := quoted[1 : len(quoted)-1]
		item := xlItem{span: span{from, p.at}, plain: !strings.Contains(text, `\`)}
		item.text = xlEscape().ReplaceAllStringFunc(text, func(s string) string { return s[1:] })
		return item, nil
	}
	if number := p.take(xlNumber()); number != "" {
		return xlItem{span: span{from, p.at}, text: number, plain: true}, nil
	}
	return xlItem{}, p.fail("no value")
}

// xlEscape is what may stand for a quote or backslash; others are for no name or path.
var xlEscape = text.Pattern(`\\["'\\]`)
