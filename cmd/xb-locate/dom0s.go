package main

import (
	"context"
	"fmt"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
)

// words returns a setter of an option that takes a list as the script's settings are, words with
// blanks between them.
func words(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, strings.Fields(value)...)
		return nil
	}
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
