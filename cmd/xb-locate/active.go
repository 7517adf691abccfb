package main

import (
	"context"
	"errors"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
)

// tellActive says of each domain whether it is active here. One that is has a yes, also
// if its disks cannot be copied: this is asked before somebody writes to its standby.
func tellActive(ctx context.Context, env *cli.Env, o *options, names []string) error {
	if len(names) == 0 {
		return cli.Fail(cli.Usage, "want a DOMAIN")
	}
	if err := checkNames(names); err != nil {
		return err
	}
	l, err := newLocator(o, newJudge(ctx, o))
	if err != nil {
		return err
	}
	var b strings.Builder
	var failure error
	for i, found := range l.LocateAll(ctx, names) {
		word, err := activeWord(found)
		if len(names) > 1 {
			b.WriteString(names[i] + "\t")
		}
		if word == "yes" || word == "no" || len(names) > 1 {
			b.WriteString(word + "\n")
		}
		failure = worse(failure, err)
	}
	if err := env.Print(b.String()); err != nil {
		return err
	}
	return failure
}

// activeWord puts an answer in a word; an error says why it is neither yes nor no.
func activeWord(found domain.Found) (string, error) {
	switch status := cli.StatusOf(found.Err); {
	case found.Err == nil:
		return "yes", nil
	case status == cli.No && found.Half: // in a moment it is here, or there
		return "busy", cli.Fail(cli.Busy, "%w", found.Err)
	case status == cli.No:
		return "no", nil
	case status == cli.Busy:
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
	status := cli.StatusOf(a)
	if status == cli.Busy {
		status = cli.StatusOf(b)
	}
	return cli.Fail(status, "%w\n%w", a, b)
}
