package domain

import (
	"encoding/json"
	"slices"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// List is the answer to who asks for the disks of a domain.
type List struct {
	Domain    string  `json:"domain"`
	State     string  `json:"state,omitempty"`
	Toolstack string  `json:"toolstack,omitempty"`
	Disks     []Entry `json:"disks"`

	of *Domain
}

// List lists the disks of a.Domain that are to be copied, or all. If one of them can't be
// copied the error's status is Config, and there is a list only of all: one that looks
// whole and is not would become a copy that is not.
func (j *Judge) List(a Answer, all bool, words Words) (*List, error) {
	name := a.Domain.Name
	entries := j.Disks(a.Domain)
	l := &List{name, a.State, a.Toolstack, []Entry{}, a.Domain}
	var failed []string
	for _, e := range entries {
		switch {
		case e.Failed:
			failed = append(failed, e.Target+": "+e.Skip)
		case e.Notice != "" && (a.Toolstack != "" || e.Skip != ""): // else its document may be another host's
			words.Warn("%s: disk %s: %s", name, e.Target, e.Notice)
		}
		if all || e.Skip == "" {
			l.Disks = append(l.Disks, e)
		}
	}
	for _, target := range j.Exclude {
		if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Target == target }) {
			words.Warn("%s has no disk %s to exclude", name, target)
		}
	}
	var err error
	if failed != nil {
		err = exit.Fail(exit.Config, "%s has disks that cannot be copied; --exclude TARGET leaves one out\n%s",
			name, strings.Join(failed, "\n"))
		if !all {
			return nil, err
		}
	}
	if len(l.Disks) == 0 {
		words.Warn("%s has no disk to copy", name)
	}
	return l, err
}

// Note keeps in a file what Still will ask of.
func (l *List) Note(path string) error {
	n, err := newNote(l.of, l.Disks)
	if err != nil {
		return err
	}
	return n.write(path)
}

// JSON returns the list as one JSON object in a line.
func (l *List) JSON() string {
	var b strings.Builder
	json.NewEncoder(&b).Encode(l) // strings are all that is in it: it cannot fail
	return b.String()
}

// Text returns the list as lines of target and source, and why a disk is left out if that
// is asked for, with a tab between two.
func (l *List) Text(reasons bool) string {
	var b strings.Builder
	for _, e := range l.Disks {
		columns := []string{e.Target, e.Source}
		if reasons {
			columns = append(columns, e.Skip)
		}
		for i, c := range columns {
			if columns[i] = text.Printable(strings.ReplaceAll(c, "\t", " ")); c == "" {
				columns[i] = "-" // a shell's read would join two tabs
			}
		}
		b.WriteString(strings.Join(columns, "\t") + "\n")
	}
	return b.String()
}
