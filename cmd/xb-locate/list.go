package main

import (
	"cmp"
	"context"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
)

// locate lists the disks of a domain that is active here.
func locate(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, judge, err := ask(ctx, o, operands)
	if err != nil {
		return err
	}
	answer, err := l.Locate(ctx, name)
	if err != nil {
		return err
	}
	env.Info("%s: %s is %s", answer.Toolstack, name, answer.State)
	return list(env, o, judge, answer)
}

// listDocument lists the disks of a document of libvirt or xl.
func listDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	if o.xml == "" || len(operands) > 0 {
		return exit.Fail(exit.Usage, "want --xml FILE, and no DOMAIN")
	}
	d, err := domain.ParseFile(o.xml, env.Stdin)
	if err != nil {
		return err
	}
	return list(env, o, newJudge(ctx, o), domain.Answer{Domain: d})
}

// list prints the disks of a domain. What cannot be copied is the error.
func list(env *cli.Env, o *options, judge *domain.Judge, a domain.Answer) error {
	disks, failed := judge.List(a, o.all, env)
	if disks == nil {
		return failed
	}
	text := disks.Text(o.all)
	if o.json {
		text = disks.JSON()
	}
	if o.note != "" && failed == nil {
		if err := disks.Note(o.note); err != nil {
			return err
		}
	}
	return cmp.Or(env.Print(text), failed)
}
