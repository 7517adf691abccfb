package main

import (
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
	order, when bool
	since       time.Time
}

func (o *listOptions) define(f *cli.Flags) {
	f.Bool(&o.order, "order")
	f.Bool(&o.when, "when")
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

func (o *listOptions) names() []string { return []string{"--order", "--when", "--since"} }

// checkList refuses what has no one answer.
func (c *command) checkList() error {
	o, asked := &c.listing, 0
	for _, one := range []bool{o.order, o.when, !o.since.IsZero()} {
		if one {
			asked++
		}
	}
	switch {
	case asked != 1:
		return exit.Fail(exit.Usage, "--list needs one of --order, --when and --since")
	case !o.since.IsZero() && len(c.operands) > 0:
		return exit.Fail(exit.Usage, "--since takes no DOMU")
	case o.when && len(c.operands) == 0:
		return exit.Fail(exit.Usage, "--when needs DOMU/DISK")
	}
	if o.when {
		for _, disk := range c.operands {
			if err := parseDisk(new(string))(disk); err != nil {
				return exit.Fail(exit.Usage, "%w", err)
			}
		}
	}
	return nil
}

// printList is --list.
func (c *command) printList() error {
	dir, now := state.Dir(c.StateDir), time.Now()
	var text string
	var err error
	switch {
	case c.listing.order:
		var domus []string
		domus, err = runs.Order(dir, c.operands)
		text = strings.Join(domus, "\n")
	case c.listing.when:
		text, err = runs.When(dir, c.operands)
	default:
		text, err = runs.Since(dir, c.listing.since, now)
	}
	if err != nil || text == "" {
		return err
	}
	return c.Print(text + "\n")
}
