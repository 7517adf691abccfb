package main

import (
	"context"
	"fmt"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/domain"
)

// words returns a setter of an option that takes a list as the script's settings are, words with
// blanks between them.
func words(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, strings.Fields(value)...)
		return nil
	}
}

// copyDisks tells all that a copy of a domain needs.
func copyDisks(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, judge, err := ask(ctx, o, operands)
	if err != nil {
		return err
	}
	rows, err := l.Look(ctx, judge, name, domain.Copy{Note: o.note, Document: o.kept, Bundle: o.bundle, Final: o.final}, env)
	if err == nil && len(o.dom0s.Dom0s) > 0 {
		rows, err = withTargets(ctx, env, o.dom0s, rows)
	}
	if err != nil {
		return err
	}
	return env.Print(rows)
}

// withTargets returns the rows of all disks once for each other host, with the names of both hosts and that
// of the disk there before them.
func withTargets(ctx context.Context, env *cli.Env, order dom0s.Order, rows string) (string, error) {
	disks := strings.SplitAfter(rows, "\n")
	disks = disks[:len(disks)-1]
	for _, disk := range disks {
		order.Sources = append(order.Sources, strings.Split(disk, "\t")[1])
	}
	plan, err := order.Make(ctx, env)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, dom0 := range plan.Remotes {
		for i, disk := range disks {
			fmt.Fprintf(&b, "%s\t%s\t%s\t%s", plan.Local, dom0, plan.Targets[dom0][i], disk)
		}
	}
	return b.String(), nil
}
