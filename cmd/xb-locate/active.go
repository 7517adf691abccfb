package main

import (
	"context"
	"errors"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
)

// tellActive says of each domain whether it is active here. One that is has a yes, also
// if its disks cannot be copied: this is asked before somebody writes to its standby.
func tellActive(ctx context.Context, env *cli.Env, o *options, names []string) error {
	l, err := locatorFor(ctx, o, names)
	if err != nil {
		return err
	}
	found := l.LocateAll(ctx, names)
	return tell(env, names, func(i int) (string, error) {
		word, err := activeWord(names[i], found[i], o.final)
		if word == "no" {
			env.Info("%v", found[i].Err)
		}
		return word, err
	})
}

// tellKnown says of each domain whether this host knows it.
func tellKnown(ctx context.Context, env *cli.Env, o *options, names []string) error {
	l, err := locatorFor(ctx, o, names)
	if err != nil {
		return err
	}
	known, errs := l.Known(ctx, names)
	return tell(env, names, func(i int) (string, error) {
		switch {
		case errs[i] != nil:
			return "unknown", errs[i]
		case known[i]:
			return "yes", nil
		}
		return "no", nil
	})
}

func locatorFor(ctx context.Context, o *options, names []string) (*domain.Locator, error) {
	if len(names) == 0 {
		return nil, exit.Fail(exit.Usage, "want a DOMAIN")
	}
	if err := checkNames(names); err != nil {
		return nil, err
	}
	return newLocator(o, newJudge(ctx, o))
}

// tell prints one word, or one line for each of several names.
func tell(env *cli.Env, names []string, word func(int) (string, error)) error {
	var b strings.Builder
	var failure error
	for i, name := range names {
		w, err := word(i)
		if len(names) > 1 {
			b.WriteString(name + "\t" + w + "\n")
		} else if err == nil {
			b.WriteString(w + "\n")
		}
		failure = worse(failure, err)
	}
	if err := env.Print(b.String()); err != nil {
		return err
	}
	return failure
}

// activeWord puts an answer in a word; an error says why it is neither yes nor no.
func activeWord(name string, found domain.Found, final bool) (string, error) {
	switch status := exit.StatusOf(found.Err); {
	case found.Err == nil:
		return "yes", nil
	case status == exit.No && found.Half: // in a moment it is here, or there
		return "busy", exit.Fail(exit.Busy, "%w", found.Err)
	case status == exit.No && found.Saved != "":
		// The memory belongs to the disks as they are. With others under it the guest would
		// write what it knew of the old ones, and without it a part of its data is lost.
		return "busy", exit.Fail(exit.Busy, "%s is not active here, but its memory is saved %s", name, found.Saved)
	case status == exit.No && final && found.MemoryInFile():
		return "busy", exit.Fail(exit.Busy, "%w, and a part of its data is only in the memory that was saved: virsh restore it and shut it down, "+
			"or give the memory up: start it and shut it down", found.Err)
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
