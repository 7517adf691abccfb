package main

import (
	"cmp"
	"context"

	"xen-backup/internal/allow"
	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/move"
	"xen-backup/internal/state"
)

// tell says of each domain whether it is active here, or whether this host knows it.
func tell(ctx context.Context, env *cli.Env, o *options, names []string) error {
	if len(names) == 0 {
		return exit.Fail(exit.Usage, "want a DOMAIN")
	}
	if err := domain.CheckNames(names...); err != nil {
		return err
	}
	for _, name := range names {
		if err := o.allowed.DomU(name); err != nil {
			return err
		}
	}
	l, _, err := newLocator(ctx, o)
	if err != nil {
		return err
	}
	var said []domain.Said
	if o.active {
		said = l.SayActive(ctx, names, o.final, env)
	} else {
		said = l.SayKnown(ctx, names)
	}
	text, failed := domain.Sum(said)
	return cmp.Or(env.Print(text), failed)
}

// tellStuck says whether a domain stands still because of an I/O error.
func tellStuck(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, _, err := ask(ctx, o, operands)
	if err != nil {
		return err
	}
	if l.Stuck(ctx, name) {
		return env.Print("yes\n")
	}
	return env.Print("no\n")
}

// tellStill says whether the answer to DOMAIN still is what --note has kept.
func tellStill(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, judge, err := ask(ctx, o, operands)
	if err != nil {
		return err
	}
	before, err := domain.ReadNote(o.still)
	if err != nil {
		return err
	}
	return l.Still(ctx, judge, name, before)
}

// tellWhetherMay says whether whoever asks may have something done with a domain here.
func tellWhetherMay(_ context.Context, _ *cli.Env, o *options, operands []string) error {
	name, err := oneName(operands)
	if err != nil {
		return err
	}
	if err := o.allowed.May(allow.Verb(o.may), name); err != nil || o.size == 0 {
		return err
	}
	places, err := state.Find(o.stateDir)
	if err != nil {
		return err
	}
	return move.CheckRoom(places.Dir, name, o.size)
}
