package domain

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Release writes the kept document of a domain to out.xml or out.cfg, for its start on this host, and what came with it
// to out.files.tar. What is written is what was judged: another host may store another document meanwhile. One that says
// what is strange is refused, until somebody trusts it. It returns the disks that are copied, a line each.
func (s *Store) Release(name, out string, trust bool, words Words) (rows string, err error) {
	path, err := s.path(name)
	if err != nil {
		return "", err
	}
	base := cmp.Or(s.Moment, path)
	kept, err := Copy{Document: base}.youngest()
	if err != nil {
		return "", exit.Fail(exit.NoInput, "no document of %s is kept here: neither %s.xml nor %s.cfg", name, base, base)
	}
	doc, files, err := s.readKept(name, base, kept)
	if err != nil {
		return "", err
	}
	if err := s.checkTrust(doc, path, kept, trust, words); err != nil {
		return "", err
	}
	for _, what := range doc.missing(s.hasSecret) {
		words.Warn("%s: %s", name, what)
	}
	for _, comment := range doc.form.comments() {
		if note := string(doc.text[comment.from:comment.to]); strings.Contains(note, "Left out") {
			words.Warn("%s: %s", name, text.Printable(strings.Join(strings.Fields(strings.Trim(note, "<!-#>\n")), " ")))
		}
	}
	if files != nil {
		if err := keep(out+filesSuffix, files); err != nil {
			return "", err
		}
	}
	if err := keep(out+doc.format().suffix(), doc.text); err != nil {
		return "", err
	}
	for _, disk := range doc.Domain.Disks {
		if slices.Contains(doc.Domain.Copied(), disk.Target) {
			rows += disk.Target + "\t" + text.Operand(disk.Source) + "\n"
		}
	}
	return rows, nil
}

// readKept reads a document that was kept, and the files that came with it, all of which belong to the domain.
func (s *Store) readKept(name, path, kept string) (doc *Document, files []byte, err error) {
	document, err := os.ReadFile(kept)
	if err != nil {
		return nil, nil, exit.Fail(exit.IOError, "cannot read: %w", err)
	}
	if doc, err = readDocument(bytes.NewReader(document)); err != nil {
		return nil, nil, badDocument(kept, err)
	}
	if !doc.whole() || doc.Domain.Name != name {
		return nil, nil, exit.Fail(exit.BadStream, "%s: not a whole document of %s", kept, name)
	}
	tar, err := os.Open(path + filesSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return doc, nil, nil
	} else if err != nil {
		return nil, nil, exit.Fail(exit.IOError, "cannot read: %w", err)
	}
	defer tar.Close()
	var checked bytes.Buffer
	if err := doc.readFiles(tar, &checked); err != nil {
		return nil, nil, badDocument(path+filesSuffix, err)
	}
	return doc, checked.Bytes(), nil
}

// checkTrust refuses a document that says what is strange, unless somebody has trusted just this one, at trust or before:
// what was trusted is in a file, a line each, for the document of a point in time is an earlier one.
func (s *Store) checkTrust(doc *Document, path, kept string, trust bool, words Words) error {
	strange := doc.strange()
	if len(strange) == 0 {
		return nil
	}
	sum := doc.sum()
	trusted, err := os.ReadFile(path + ".trusted")
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return exit.Fail(exit.IOError, "cannot read what is trusted: %w", err)
	case bytes.Contains(trusted, []byte(sum)):
		return nil
	}
	for _, what := range strange {
		words.Warn("%s: its document has what is not for the guest alone: %s", doc.Domain.Name, what)
	}
	if !trust {
		return exit.Fail(exit.Refused, "%s came from another host and is not trusted: read it; if this host may do all that it "+
			"says, once: --trust-document", kept)
	}
	if s.DryRun {
		return nil
	}
	return keep(path+".trusted", append(trusted, sum...))
}

// sum is the checksum of a document without our comments, which each copy of its disks brings with it.
func (d *Document) sum() string {
	h, at := sha256.New(), 0
	for _, s := range d.form.comments() {
		h.Write(d.text[at:s.from])
		at = s.to
	}
	h.Write(d.text[at:])
	return fmt.Sprintf("sha256:%x\n", h.Sum(nil))
}
