package domain

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"xen-backup/internal/allow"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Store keeps the documents of other hosts' domains, made ones of this host: NAME.xml or
// NAME.cfg, and NAME.files.tar with what else belongs to the domain. Each is whole or
// not there, and nobody but root reads them: there are passwords in them.
type Store struct {
	Places  Places       // what the disks are here
	Dropped []string     // targets of disks that are left out
	Set     Set          // that the document belongs to
	Format  Format       // that it has to have; "" for any
	Allow   *allow.Rules // what the document may name; nil: anything
	DryRun  bool         // what is trusted now is not remembered
	Moment  string       // whose document is released, as Moment.Document; "": the one that was stored last

	dir       string
	hasSecret func(Secret) (bool, error) // reports whether libvirt has it on this host
}

const filesSuffix = ".files.tar" // of the name of a file with what came in a bundle

// NewStore returns the store in a state directory. uri is libvirt's.
func NewStore(ctx context.Context, dir state.Dir, uri string) *Store {
	libvirt := newVirsh(uri)
	return &Store{
		dir:       storeDir(dir),
		hasSecret: func(s Secret) (bool, error) { return libvirt.hasSecret(ctx, s) },
	}
}

// Keep reads a domain's bundle or document and keeps it. If it fails, what was kept before
// still is. Words say what was left out and what is missing here.
func (s *Store) Keep(name string, in io.Reader, words Words) error {
	if err := s.Set.check(); err != nil {
		return err
	}
	if err := s.Allow.DomU(name); err != nil {
		return err
	}
	path, err := s.path(name)
	if err != nil {
		return err
	}
	files, err := durable.CreatePending(path + filesSuffix)
	if err != nil {
		return err
	}
	defer files.Discard()
	doc, carried, err := s.readWhole(name, in, files)
	if err != nil {
		return err
	}
	if err := s.checkBelongings(doc.Domain); err != nil {
		return err
	}
	left, missing, err := doc.fit(s.Places, s.Dropped, s.Allow, s.hasSecret)
	if err != nil {
		return err
	}
	comment := leftOut(left)
	if carried {
		comment = append(comment, "Its UEFI variables and TPM are to be put in place before it is defined:",
			"  tar -C / -xpf "+path+filesSuffix)
	}
	doc.forget()
	if s.Set != (Set{}) {
		doc.comment([]string{s.Set.String()})
	}
	if comment != nil {
		doc.comment(comment)
	}
	text, err := doc.Text()
	if err != nil {
		return err
	}
	// The files first: without them, or with older ones, the domain may not start.
	if carried {
		err = files.Commit()
	} else {
		err = removeOld(path + filesSuffix)
	}
	if err != nil {
		return err
	}
	if err := keep(path+doc.format().suffix(), text); err != nil {
		return err
	}
	if err := removeOld(path + doc.format().other().suffix()); err != nil {
		return err
	}
	for _, what := range left {
		words.Note("%s: left out: %s", name, what)
	}
	for _, what := range missing {
		words.Warn("%s: %s", name, what)
	}
	return nil
}

// readWhole reads the bundle or document of a domain, all of it. carried reports whether
// files came with it, which are written to files.
func (s *Store) readWhole(name string, in io.Reader, files io.Writer) (doc *Document, carried bool, err error) {
	doc, n, err := readBundle(in, files)
	switch {
	case err != nil:
		return nil, false, badDocument("standard input", err)
	case s.Format != "" && doc.format() != s.Format:
		return nil, false, exit.Fail(exit.BadStream, "standard input: a document of the format %s, not %s", doc.format(), s.Format)
	case !doc.whole():
		return nil, false, exit.Fail(exit.BadStream,
			"standard input: the configuration is cut, or xb-locate has not written it")
	case doc.Domain.Name != name:
		return nil, false, exit.Fail(exit.BadStream, "this is the document of %s, not of %s", doc.Domain.Name, name)
	}
	return doc, n > 0, nil
}

// checkBelongings demands of a document that comes through the gate that its UEFI variables and TPM are where libvirt has
// those of a domain of that name, or where the gate allows them: what comes with it will be unpacked there, by root.
func (s *Store) checkBelongings(d *Domain) error {
	const libvirt = "/var/lib/libvirt/"
	nvram := regexp.MustCompile("^" + libvirt + "qemu/nvram/" + regexp.QuoteMeta(d.Name) + `(_VARS|_vars)?\.(fd|qcow2|bin)$`)
	if d.NVRAM != "" && !nvram.MatchString(d.NVRAM) {
		if err := s.Allow.Named(d.NVRAM, d.Name+"/nvram"); err != nil {
			return err
		}
	}
	if d.TPM == "" || uuidForm().MatchString(d.UUID) && d.TPM == libvirt+"swtpm/"+d.UUID {
		return nil
	}
	return s.Allow.Named(d.TPM, d.Name+"/tpm")
}

// path returns where a domain's documents are, without what tells their kinds, and makes
// the directory or keeps others out of the one that is there.
func (s *Store) path(name string) (string, error) {
	if err := CheckNames(name); err != nil {
		return "", err
	}
	if strings.HasPrefix(name, ".") || strings.Contains(name, "/") {
		return "", exit.Fail(exit.Usage, "bad name of a domain: %q", name)
	}
	if err := durable.MakeDir(s.dir); err != nil {
		return "", exit.Fail(exit.CantCreate, "cannot create %s: %w", s.dir, err)
	}
	if err := os.Chmod(s.dir, 0o700); err != nil {
		return "", exit.Fail(exit.CantCreate, "cannot keep others out of %s: %w", s.dir, err)
	}
	return filepath.Join(s.dir, name), nil
}

// keep puts text in the place of what a file held.
func keep(path string, text []byte) error {
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := p.Write(text); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, err)
	}
	return p.Commit()
}

// removeOld removes the document that another toolstack had of the domain: it names
// what was its disks then.
func removeOld(path string) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return exit.Fail(exit.CantCreate, "cannot remove the older document: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// HasDocument reports whether a document of a domain is kept below a state directory.
func HasDocument(dir state.Dir, name string) bool {
	for _, format := range []Format{XML, XL} {
		if _, err := os.Stat(filepath.Join(storeDir(dir), name+format.suffix())); err == nil {
			return true
		}
	}
	return false
}
