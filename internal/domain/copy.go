package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Copy is what somebody needs who copies a domain, found out by asking each toolstack at most once.
type Copy struct {
	Note     string // file for what Still will ask of; "" for none
	Document string // file for the document, without the suffix that tells its format
	Bundle   string // file for what Store.Keep takes
	Final    bool   // the domain is to be shut off
}

// Look finds out about a domain and keeps its document. It returns the disks that are to be
// copied, one a line (see row). The errors are those of Locate and Judge.List.
func (l *Locator) Look(ctx context.Context, judge *Judge, name string, c Copy, words Words) (string, error) {
	found := l.locateAll(ctx, []string{name})[0]
	if c.Final {
		return c.lookFinal(ctx, judge, name, found, words)
	}
	if found.Err != nil {
		return "", found.Err
	}
	words.Info("%s: %s is %s", found.Toolstack, name, found.State)
	if err := l.Moves.Runs(name); err != nil {
		return "", err
	}
	disks, err := judge.List(found.Answer, false, words)
	if err != nil {
		return "", err
	}
	if c.Note != "" {
		if err := disks.Note(c.Note); err != nil {
			return "", err
		}
	}
	doc, err := c.keepDocument(ctx, judge, name, found, words)
	if err != nil {
		// Its disks are worth a copy all the same.
		words.Error("%s: the other hosts get no document to start it from: %v", name, err)
		return disks.rows(found.Domain, "-")
	}
	return disks.rows(doc.Domain, doc.format())
}

// lookFinal is Look for a domain that does not run: it is the document that says what its disks
// are. That of a domain which its toolstack has forgotten, as libvirt does with one that was
// never defined, was kept when it ran.
func (c Copy) lookFinal(ctx context.Context, judge *Judge, name string, found Found, words Words) (string, error) {
	word, err := activeWord(name, found, true)
	switch {
	case err != nil:
		return "", err
	case word == "yes":
		return "", exit.Fail(exit.Busy, "%s still runs here (%s: %s): shut it down", name, found.Toolstack, found.State)
	}
	words.Info("%v", found.Err)
	doc, err := c.keepDocument(ctx, judge, name, found, words)
	if exit.StatusOf(err) == exit.NoInput && c.Document != "" {
		words.Info("%v", err)
		doc, err = c.keptDocument()
	}
	if err != nil {
		return "", err
	}
	disks, err := judge.List(Answer{Domain: doc.Domain}, false, words)
	if err != nil {
		return "", err
	}
	return disks.rows(doc.Domain, doc.format())
}

// keepDocument keeps the domain's document in the files that are wanted. If there is none, no
// bundle of another time is left: it would travel in its place. One that cannot be kept travels.
func (c Copy) keepDocument(ctx context.Context, judge *Judge, name string, found Found, words Words) (*Document, error) {
	doc, text, err := export(ctx, found.lists, judge, name, words)
	if err == nil && c.Bundle != "" {
		err = doc.keepBundle(c.Bundle, text, words)
	}
	if err == nil && c.Document != "" {
		if err := keep(c.Document+doc.format().suffix(), text); err != nil {
			words.Error("%s: its document is not kept here: %v", name, err)
		}
	}
	if err != nil && c.Bundle != "" {
		if err := os.Remove(c.Bundle); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, exit.Fail(exit.CantCreate, "cannot remove the older bundle: %w", err)
		}
	}
	return doc, err
}

// keptDocument reads the document that was kept last, and makes it the bundle.
func (c Copy) keptDocument() (*Document, error) {
	path, err := c.youngest()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, exit.Fail(exit.NoInput, "cannot read: %w", err)
	}
	defer file.Close()
	doc, err := readDocument(file)
	if err != nil {
		return nil, badDocument(path, err)
	}
	if c.Bundle == "" {
		return doc, nil
	}
	return doc, keep(c.Bundle, doc.text)
}

// youngest returns the file of a document that was kept last, of two formats.
func (c Copy) youngest() (path string, err error) {
	var last fs.FileInfo
	for _, format := range []Format{XML, XL} {
		info, err := os.Stat(c.Document + format.suffix())
		if err == nil && (last == nil || info.ModTime().After(last.ModTime())) {
			path, last = c.Document+format.suffix(), info
		}
	}
	if last == nil {
		return "", exit.Fail(exit.NoInput, "nobody knows it, and there is no %s%s or %s of it", c.Document, XML.suffix(),
			XL.suffix())
	}
	return path, nil
}

// rows returns the disks, each with all that its copy needs, the domain's UUID, and the format of
// its document.
func (l *List) rows(d *Domain, format Format) (string, error) {
	var b strings.Builder
	for _, e := range l.Disks {
		row, err := e.row()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\n", row, cmp.Or(d.KeptUUID(), "-"), format)
	}
	return b.String(), nil
}

// row returns a disk's target and source, the source as a word that means the same to a shell; its
// size and that of its logical sectors; owner and mode of an image file, by which another one of
// it can be used in its place. "-" stands for what there is not.
func (e *Entry) row() (string, error) {
	file, err := blockdev.Open(e.Source)
	if err != nil {
		return "", err
	}
	defer file.Close()
	owner, mode := "-", "-"
	if !file.IsBlock() {
		info, err := file.OS().Stat()
		if err != nil {
			return "", err
		}
		owner = ownerOf(info)
		if perm := info.Mode().Perm(); perm&0o600 == 0o600 {
			mode = fmt.Sprintf("%o", perm)
		}
	}
	return fmt.Sprintf("%s\t%s\t%d\t%d\t%s\t%s",
		e.Target, text.Operand(e.Source), file.Size(), file.SectorSize(), owner, mode), nil
}

// ownerOf returns owner and group by their names, which another host may have other numbers for.
func ownerOf(info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	u, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10))
	if err != nil {
		return "-"
	}
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(stat.Gid), 10))
	if err != nil || text.Operand(u.Username+":"+g.Name) != u.Username+":"+g.Name {
		return "-"
	}
	return u.Username + ":" + g.Name
}
