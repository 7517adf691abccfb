package domain

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Moment is what the disks of a domain were of at a time. Its document is a copy of the one that was stored when points in
// time were made of them: xml/at/NAME@TAKEN, with the suffixes of that. Nobody who stores documents can name it, for there
// is no slash in the name of a domain.
type Moment struct {
	Name string
	Of   time.Time
}

const timeForm = "2006-01-02T15:04:05Z"

func (m Moment) String() string { return m.Name + "@" + m.Of.UTC().Format(timeForm) }

func momentDir(dir state.Dir) string { return filepath.Join(storeDir(dir), "at") }

func storeDir(dir state.Dir) string { return filepath.Join(string(dir), "xml") }

// KeepDocument keeps the stored document, if there is one, as that of a moment, unless that has one.
func (m Moment) KeepDocument(dir state.Dir) error {
	to := filepath.Join(momentDir(dir), m.String())
	if _, err := (Copy{Document: to}).youngest(); err == nil {
		return nil
	}
	from := filepath.Join(storeDir(dir), m.Name)
	stored, err := Copy{Document: from}.youngest()
	if err != nil {
		return nil
	}
	if err := durable.MakeDir(momentDir(dir)); err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	err = copyFile(from+filesSuffix, to+filesSuffix) // first: without them the domain may not start
	if errors.Is(err, fs.ErrNotExist) {
		err = removeOld(to + filesSuffix)
	}
	if err != nil {
		return err
	}
	return copyFile(stored, to+filepath.Ext(stored))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return exit.Fail(exit.IOError, "cannot read: %w", err)
	}
	defer in.Close()
	p, err := durable.CreatePending(to)
	if err != nil {
		return err
	}
	defer p.Discard()
	if _, err := io.Copy(p, in); err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", to, err)
	}
	return p.Commit()
}

// Document returns where the document of a moment is, without what tells its kind, and whether it is that of a point in
// time: else it is the one that was stored last.
func (m Moment) Document(dir state.Dir) (path string, own bool) {
	path = filepath.Join(momentDir(dir), m.String())
	if _, err := (Copy{Document: path}).youngest(); err == nil {
		return path, true
	}
	return filepath.Join(storeDir(dir), m.Name), false
}

// Domain returns what the document of a moment says.
func (m Moment) Domain(dir state.Dir) (*Domain, error) {
	path, _ := m.Document(dir)
	file, err := Copy{Document: path}.youngest()
	if err != nil {
		file = path + XML.suffix() // which is missing, as its error says
	}
	return ParseFile(file, nil)
}

// DropDocuments removes documents of moments, by what these are called and since when they are there, with what a kill has
// left of them.
func DropDocuments(dir state.Dir, drop func(moment string, since time.Time) bool) error {
	entries, err := os.ReadDir(momentDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return exit.Fail(exit.IOError, "cannot read the documents of points in time: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		name := strings.TrimPrefix(entry.Name(), ".")
		at := strings.LastIndexByte(name, '@')
		end := at + 1 + len(timeForm)
		info, err := entry.Info()
		if err != nil || at < 0 || end > len(name) || !drop(name[:end], info.ModTime()) {
			continue
		}
		errs = append(errs, removeOld(filepath.Join(momentDir(dir), entry.Name())))
	}
	return errors.Join(errs...)
}
