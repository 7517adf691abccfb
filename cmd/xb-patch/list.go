package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/state"
)

// listOptions are those of --list alone.
type listOptions struct {
	order bool
	since time.Time
}

func (o *listOptions) define(f *cli.Flags) {
	f.Bool(&o.order, "order")
	f.Func("since", parseSince(&o.since))
}

// parseSince reads a time, also as date +%s prints it.
func parseSince(p *time.Time) func(string) error {
	return func(s string) error {
		if seconds, err := strconv.ParseUint(s, 10, 40); err == nil {
			*p = time.Unix(int64(seconds), 0)
			return nil
		}
		return parseTaken(p)(s)
	}
}

func (o *listOptions) names() []string { return []string{"--order", "--since"} }

// checkList refuses what has no one answer.
func (c *command) checkList() error {
	o := &c.listing
	switch {
	case o.order && !o.since.IsZero():
		return exit.Fail(exit.Usage, "--order and --since exclude each other")
	case !o.order && o.since.IsZero():
		return exit.Fail(exit.Usage, "--list needs --order or --since")
	case !o.since.IsZero() && len(c.operands) > 0:
		return exit.Fail(exit.Usage, "--since takes no DOMU")
	}
	return nil
}

// printList is --list.
func (c *command) printList() error {
	dir, now := state.Dir(c.StateDir), time.Now()
	if c.listing.order {
		domus, err := runs.Order(dir, c.operands)
		if err != nil || len(domus) == 0 {
			return err
		}
		return c.Print(strings.Join(domus, "\n") + "\n")
	}
	line, err := runs.Since(dir, c.listing.since, now)
	if err != nil || line == "" {
		return err
	}
	return c.Print(fmt.Sprintln(line))
}
