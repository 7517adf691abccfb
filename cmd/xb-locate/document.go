package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// printDocument prints the document by which a domain can be started on another host.
func printDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, err := oneName(operands)
	if err != nil {
		return err
	}
	judge := newJudge(ctx, o)
	l, err := newLocator(o, judge)
	if err != nil {
		return err
	}
	doc, words, err := l.Document(ctx, name)
	if err != nil {
		return err
	}
	for _, w := range append(words, judge.Settle(doc)...) {
		env.Warn("%s: %s", name, w)
	}
	for _, what := range doc.Stays {
		env.Warn("%s: not carried: %s", name, what)
	}
	for _, f := range doc.Files {
		env.Info("%s: it needs the %s %s on the other host, too", name, f.Kind, f.Path)
	}
	text, err := doc.Text()
	if err != nil {
		return err
	}
	if err := writeBundle(env, o.bundle, doc, text); err != nil {
		return err
	}
	return env.Print(string(text))
}

// writeBundle writes the document and what else belongs to the domain to a file.
func writeBundle(env *cli.Env, path string, doc *domain.Document, text []byte) error {
	if path == "" {
		return nil
	}
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	words, err := doc.WriteBundle(p, text)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, err)
	}
	for _, w := range words {
		env.Warn("%s: not carried: %s", doc.Domain.Name, w)
	}
	return p.Commit()
}

// storeDocument keeps another host's document, made one of this host.
func storeDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name := o.store
	switch {
	case len(operands) > 0:
		return exit.Fail(exit.Usage, "--store goes without another DOMAIN: the document is on standard input")
	case strings.HasPrefix(name, ".") || strings.Contains(name, "/"):
		return exit.Fail(exit.Usage, "bad name of a domain: %q", name)
	}
	if err := checkNames([]string{name}); err != nil {
		return err
	}
	path, err := o.documentPath(name)
	if err != nil {
		return err
	}
	files, err := durable.CreatePending(path + ".files.tar")
	if err != nil {
		return err
	}
	defer files.Discard()
	doc, carried, err := domain.ReadBundle(env.Stdin, files)
	switch {
	case err != nil:
		return badDocument("standard input", err)
	case !doc.Whole():
		return exit.Fail(exit.BadStream, "standard input: the configuration is cut, or --document has not printed it")
	case doc.Domain.Name != name:
		return exit.Fail(exit.BadStream, "this is the document of %s, not of %s", doc.Domain.Name, name)
	}
	virsh := domain.NewVirsh(o.uri)
	words, left, err := doc.Fit(o.places, o.drop, func(s domain.Secret) (bool, error) { return virsh.HasSecret(ctx, s) })
	if err != nil {
		return err
	}
	if carried > 0 {
		left = append(left, "Its UEFI variables and TPM are to be put in place before it is defined:", "  tar -C / -xpf "+path+".files.tar")
	}
	if left != nil {
		doc.Comment(left)
	}
	text, err := doc.Text()
	if err != nil {
		return err
	}
	// The files first: without them, or with older ones, the domain may not start.
	if carried > 0 {
		err = files.Commit()
	} else {
		err = removeOld(path + ".files.tar")
	}
	if err != nil {
		return err
	}
	suffix, other := ".xml", ".cfg"
	if doc.XL {
		suffix, other = other, suffix
	}
	if err := keep(path+suffix, text); err != nil {
		return err
	}
	if err := removeOld(path + other); err != nil {
		return err
	}
	for _, w := range words {
		env.Warn("%s: %s", name, w)
	}
	return nil
}

// documentPath returns where the documents of a domain of another host are, without what
// tells their kinds. There are passwords in them.
func (o *options) documentPath(name string) (string, error) {
	dir := filepath.Join(string(state.Find(o.stateDir)), "xml")
	if err := durable.MakeDir(dir); err != nil {
		return "", exit.Fail(exit.CantCreate, "cannot create %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", exit.Fail(exit.CantCreate, "cannot keep others out of %s: %w", dir, err)
	}
	return filepath.Join(dir, name), nil
}

// printUUID prints the UUID that a document keeps, or nothing: xl gives a domain without
// one in its configuration another at every start.
func printUUID(env *cli.Env, d *domain.Domain) error {
	if d.UUID == "" || d.Passing {
		return nil
	}
	return env.Print(d.UUID + "\n")
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

// addPlace takes the argument of --map.
func (o *options) addPlace(rule string) error {
	from, to, ok := strings.Cut(rule, "=")
	switch {
	case !ok:
		return errors.New("want A=B")
	case strings.Contains(to, "="):
		return errors.New("want one =; in a file: URI another is %3D: " + rule)
	}
	from, err := localPath(from)
	if err != nil {
		return err
	}
	to, err = localPath(to)
	if err != nil {
		return err
	}
	if o.places == nil {
		o.places = make(map[string]string)
	}
	if other, ok := o.places[from]; ok && other != to {
		return errors.New(from + " cannot be both " + other + " and " + to)
	}
	for a, b := range o.places {
		if b == to && a != from {
			return errors.New(a + " and " + from + " cannot both be " + to)
		}
	}
	o.places[from] = to
	return nil
}

// localPath takes an absolute path or a file: URI.
func localPath(s string) (string, error) {
	path, err := text.Path(s)
	if err == nil && !strings.HasPrefix(path, "/") {
		err = errors.New("it is no absolute path: " + path)
	}
	return filepath.Clean(path), err
}
