package domain

import (
	"context"
	"errors"

	"xen-backup/internal/exit"
)

// Said is one word of a domain: yes, no, busy or unknown.
type Said struct {
	Name string
	Word string
	Err  error // why it is neither yes nor no
	Why  error // why it is a no
}

// SayActive says of each domain whether it is active here. One that is has a yes, also
// if its disks cannot be copied: this is asked before somebody writes to its standby.
// final says that a copy is to be the last one, for which saved memory counts.
func (l *Locator) SayActive(ctx context.Context, names []string, final bool, words Words) (said []Said) {
	for i, found := range l.locateAll(ctx, names) {
		s := Said{Name: names[i]}
		if s.Word, s.Err = activeWord(names[i], found, final); s.Word == "no" {
			s.Why = found.Err
			words.Info("%v", found.Err)
		}
		said = append(said, s)
	}
	return said
}

// SayKnown says of each domain whether this host knows it.
func (l *Locator) SayKnown(ctx context.Context, names []string) (said []Said) {
	known, errs := l.known(ctx, names)
	for i, name := range names {
		word := "no"
		switch {
		case errs[i] != nil:
			word = "unknown"
		case known[i]:
			word = "yes"
		}
		said = append(said, Said{Name: name, Word: word, Err: errs[i]})
	}
	return said
}

// Sum returns what is to be printed: one word, or one line for each of several domains. The
// error joins those of all.
func Sum(said []Said) (text string, failure error) {
	for _, s := range said {
		if len(said) > 1 {
			text += s.Name + "\t" + s.Word + "\n"
		} else if s.Err == nil {
			text += s.Word + "\n"
		}
		failure = worse(failure, s.Err)
	}
	return text, failure
}

// activeWord puts an answer in a word; an error says why it is neither yes nor no.
func activeWord(name string, found Found, final bool) (string, error) {
	switch status := exit.StatusOf(found.Err); {
	case found.Err == nil:
		return "yes", nil
	case status == exit.No && found.Half: // in a moment it is here, or there
		return "busy", exit.Fail(exit.Busy, "%w", found.Err)
	case status == exit.No && found.Saved != "":
		// The memory belongs to the disks as they are. With others under it the guest would
		// write what it knew of the old ones, and without it a part of its data is lost.
		return "busy", exit.Fail(exit.Busy, "%s is not active here, but its memory is saved %s", name, found.Saved)
	case status == exit.No && final && found.memoryInFile():
		return "busy", exit.Fail(exit.Busy, "%w, and a part of its data is only in the memory that was saved: "+
			"virsh restore it and shut it down, or give the memory up: start it and shut it down", found.Err)
	case status == exit.No:
		return "no", nil
	case status == exit.Busy:
		return "busy", found.Err
	}
	return "unknown", found.Err
}

// worse joins the words of two errors. What could not be asked outweighs what may be
// other in a moment.
func worse(a, b error) error {
	if a == nil || b == nil {
		return errors.Join(a, b)
	}
	status := exit.StatusOf(a)
	if status == exit.Busy {
		status = exit.StatusOf(b)
	}
	return exit.Fail(status, "%w\n%w", a, b)
}
