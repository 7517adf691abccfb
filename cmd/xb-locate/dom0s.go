package main

import (
	"context"
	"fmt"
	"strings"

	"xen-backup/internal/cli"
)

// words returns a setter of an option that takes a list as the script's settings are, words with
// blanks between them.
func words(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, strings.Fields(value)...)
		return nil
	}
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
