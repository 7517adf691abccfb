package domain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/allow"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// document returns the document by which a domain would be started on this host the
// next time. The toolstack by which it runs has the first word. Words say where the
// domain that runs is another one than that.
func document(ctx context.Context, lists []*list, name string) (doc *Document, words []string, err error) {
	var failures, none []string
	found := make(map[bool]*Document) // by whether it is that of an active domain
	for _, list := range lists {
		if found[true] != nil {
			break
		}
		a, err := list.ask(ctx, name)
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		if found[a.Active] != nil {
			continue // libvirt has it: what may lie in /etc/xen is not what starts it
		}
		doc, err := list.listing.Document(ctx, name, a)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			none = append(none, a.Toolstack+": "+reason(err, a))
			continue
		case err != nil:
			return nil, nil, err
		}
		found[a.Active] = doc
		if a.Active {
			words = differences(a.Domain, doc.Domain)
		}
	}
	switch {
	case found[true] != nil:
		return found[true], words, nil
	case len(failures) > 0: // it may be theirs
		return nil, nil, exit.Fail(exit.Unavailable, "cannot tell by what %s is started: %s",
			name, strings.Join(failures, "; "))
	case found[false] != nil:
		return found[false], nil, nil
	}
	return nil, nil, exit.Fail(exit.NoInput, "no document by which %s could be started (%s)",
		name, strings.Join(none, ", "))
}

// export returns a domain's document, made one that means the same on another host.
func export(ctx context.Context, lists []*list, judge *Judge, name string, words Words) (*Document, []byte, error) {
	doc, differ, err := document(ctx, lists, name)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range append(differ, judge.settle(doc)...) {
		words.Warn("%s: %s", name, w)
	}
	for _, what := range doc.Stays {
		words.Note("%s: not carried: %s", name, what)
	}
	for _, f := range doc.Files {
		words.Info("%s: it needs the %s %s on the other host, too", name, f.Kind, f.Path)
	}
	text, err := doc.Text()
	return doc, text, err
}

// keepBundle writes the document and what else belongs to the domain to a file.
func (d *Document) keepBundle(path string, text []byte, words Words) error {
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	left, err := d.writeBundle(p, text)
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, err)
	}
	for _, w := range left {
		words.Note("%s: not carried: %s", d.Domain.Name, w)
	}
	return p.Commit()
}

// reason says why a toolstack has no document.
func reason(err error, a Answer) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Sprintf("no configuration file %s", p.Path)
	}
	return a.State
}

// differences says which disks that are copied are not, or not so, in the definition.
func differences(live, defined *Domain) (words []string) {
	for _, disk := range live.Disks {
		if disk.leftOut() != "" {
			continue
		}
		i := slices.IndexFunc(defined.Disks, func(d Disk) bool { return d.Target == disk.Target })
		if i < 0 {
			words = append(words, fmt.Sprintf("disk %s is attached to the running domain, but not in its definition",
				disk.Target))
		} else if other := defined.Disks[i]; other.source() != disk.source() {
			words = append(words, fmt.Sprintf("disk %s is %s in the running domain, but %s in its definition",
				disk.Target, disk.source(), other.source()))
		}
	}
	return words
}

// settle names the disks as Disks does, by names that mean the same on another host:
// that host need not have the storage pools of this one. Words say which it cannot.
func (j *Judge) settle(doc *Document) (words []string) {
	for i, disk := range doc.Domain.Disks {
		if disk.Remote || disk.source() == "" {
			continue
		}
		path, err := j.path(disk)
		if err == nil && !strings.HasPrefix(path, "/") {
			err = fmt.Errorf("source %q is not the path of a file or device", path)
		}
		if err == nil {
			if found, err := j.Resolver.Resolve(path); err == nil {
				path = found.Path
			}
			if path != disk.Source {
				err = doc.setSource(i, path, isBlock(path))
			}
		}
		if err != nil {
			words = append(words, fmt.Sprintf("disk %s: %v", disk.Target, err))
		}
	}
	return words
}

// fit makes of another host's document that of this one: the sources in places get the
// names that they have here, and the disks that are excluded or not here are left out,
// except for those that every host reaches. It returns in words what was left out, and what
// else the domain needs and is missing. A disk that is not allowed is an error.
func (d *Document) fit(
	places Places, excluded []string, allowed *allow.Rules, hasSecret func(Secret) (bool, error),
) (left, missing []string, err error) {
	used := make(map[string]bool)
	for i, disk := range d.Domain.Disks {
		place, moved := places[filepath.Clean(disk.Source)]
		used[filepath.Clean(disk.Source)] = true
		if !moved {
			place = disk.Source
		}
		info, err := os.Stat(place)
		switch {
		case disk.Remote:
			if err := allowed.Network(d.Domain.Name + "/" + disk.Target); err != nil {
				return nil, nil, err
			}
		case slices.Contains(excluded, disk.Target):
			d.drop(i)
			left = append(left, fmt.Sprintf("disk %s: it is excluded", disk.Target))
		case allowed != nil && disk.Trouble != "":
			return nil, nil, exit.Fail(exit.Refused, "%s: disk %s: %s: no such disk comes through the gate", d.Domain.Name, disk.Target,
				disk.Trouble)
		case disk.source() == "":
		case disk.Volume != "" || err != nil || !usable(info):
			what := fmt.Sprintf("%s %s", disk.Device, disk.Target)
			if disk.isMedium() {
				d.eject(i)
				what = "the medium of " + what
			} else {
				d.drop(i)
			}
			wanted := Disk{Source: place, Pool: disk.Pool, Volume: disk.Volume}
			left = append(left, fmt.Sprintf("%s: %s is not here", what, wanted.source()))
		default:
			if err := allowed.Named(place, d.Domain.Name+"/"+disk.Target); err != nil && disk.isMedium() {
				d.eject(i)
				left = append(left, fmt.Sprintf("the medium of %s %s: it may not be named", disk.Device, disk.Target))
				continue
			} else if err != nil {
				return nil, nil, err
			}
			if !moved {
				continue
			}
			if err := d.setSource(i, place, info.Mode().Type() == fs.ModeDevice); err != nil {
				return nil, nil, exit.Fail(exit.Config, "%s: disk %s: %w", d.Domain.Name, disk.Target, err)
			}
		}
	}
	for from := range places {
		if !used[filepath.Clean(from)] {
			missing = append(missing, fmt.Sprintf("%s, which is %s here, is no disk in the document", from, places[from]))
		}
	}
	return left, append(missing, d.missing(hasSecret)...), nil
}

// leftOut is the comment, for who will read the document, of what was left out.
func leftOut(left []string) (comment []string) {
	if left != nil {
		comment = []string{"Left out, for this host:"}
	}
	for _, what := range left {
		comment = append(comment, "  "+what)
	}
	return comment
}

// missing says what the domain needs besides its disks and is not on this host.
func (d *Document) missing(hasSecret func(Secret) (bool, error)) (words []string) {
	for _, f := range d.Files {
		if f.Kind == nvramTemplate && slices.Contains(d.carried, filepath.Clean(d.Domain.NVRAM)) {
			continue // nothing is made from it any more
		}
		if _, err := os.Stat(f.Path); err != nil {
			words = append(words, fmt.Sprintf("missing here: the %s %s", f.Kind, f.Path))
		}
	}
	for _, s := range d.Secrets {
		if slices.Contains(d.dropped, s.disk) {
			continue
		}
		switch found, err := hasSecret(s); {
		case err != nil:
			words = append(words, fmt.Sprintf("cannot tell whether the secret %s is here: %v", s, err))
		case !found:
			words = append(words, fmt.Sprintf("missing here: the secret %s", s))
		}
	}
	return words
}

// usable reports whether a disk can be such a file.
func usable(info fs.FileInfo) bool {
	return info.Mode().IsRegular() || info.Mode().Type() == fs.ModeDevice
}

func isBlock(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeDevice
}
