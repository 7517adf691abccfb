package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/exit"
)

// words returns a setter of an option that takes a list as the script's settings are, words with
// blanks between them.
func words(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, strings.Fields(value)...)
		return nil
	}
}

// tellHere says of each host whether it is this one.
func tellHere(ctx context.Context, env *cli.Env, o *options, names []string) error {
	if len(names) == 0 {
		return exit.Fail(exit.Usage, "want a DOM0")
	}
	answers := dom0s.Here(ctx, names, o.dom0s.Local)
	var b strings.Builder
	for i, name := range names {
		if slices.Index(names, name) == i {
			fmt.Fprintf(&b, "%s\t%s\n", name, answers[name])
		}
	}
	return env.Print(b.String())
}

// printTargets prints this host with its disks, and the others with the names of these there.
func printTargets(ctx context.Context, env *cli.Env, o *options, sources []string) error {
	o.dom0s.Sources = sources
	plan, err := o.dom0s.Make(ctx, env)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\t%s\n", plan.Local, strings.Join(sources, " "))
	for _, dom0 := range plan.Remotes {
		fmt.Fprintf(&b, "%s\t%s\n", dom0, strings.Join(plan.Targets[dom0], " "))
	}
	return env.Print(b.String())
}
