package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// listOptions are those of --list alone.
type listOptions struct {
	order, when       bool
	metrics, expected string
	maxAge            time.Duration
	since             time.Time
}

func (o *listOptions) define(f *cli.Flags) {
	f.Bool(&o.order, "order")
	f.Bool(&o.when, "when")
	f.Path(&o.metrics, "metrics")
	f.Path(&o.expected, "expected")
	f.Func("max-age", func(s string) (err error) { o.maxAge, err = text.ParseAge(s); return err })
	f.Func("since", parseSince(&o.since))
}

// parseSince reads a time, also as date +%s prints it.
func parseSince(p *time.Time) func(string) error {
	return func(s string) error {
		if seconds, err := strconv.ParseUint(s, 10, 40); err == nil {
			*p = time.Unix(int64(seconds), 0)
			return nil
		}
		return cli.Time(p)(s)
	}
}

func (o *listOptions) names() []string {
	return []string{"--allow", "--peer", "--order", "--when", "--since", "--metrics", "--expected", "--max-age", "--json"}
}

// checkList refuses what has no one answer.
func (c *command) checkList() error {
	o, asked := &c.listing, 0
	for _, one := range []bool{o.order, o.when, !o.since.IsZero(), o.expected != ""} {
		if one {
			asked++
		}
	}
	switch {
	case asked > 1:
		return exit.Fail(exit.Usage, "--order, --when, --since and --expected exclude each other")
	case (!o.since.IsZero() || o.expected != "") && len(c.operands) > 0:
		return exit.Fail(exit.Usage, "--since and --expected take no DOMU")
	case (o.expected == "") != (o.maxAge == 0):
		return exit.Fail(exit.Usage, "--expected and --max-age go together")
	case c.json && asked > 0 && o.expected == "":
		return exit.Fail(exit.Usage, "--json does not go with --order, --when and --since")
	case o.metrics != "" && (o.order || o.when):
		return exit.Fail(exit.Usage, "--metrics does not go with --order and --when")
	case o.when && len(c.operands) == 0:
		return exit.Fail(exit.Usage, "--when needs DOMU/DISK")
	}
	if o.when {
		for _, disk := range c.operands {
			if err := cli.Disk(new(string))(disk); err != nil {
				return exit.Fail(exit.Usage, "%w", err)
			}
		}
	}
	return nil
}

// printList is --list.
func (c *command) printList() error {
	dir, now := state.Dir(c.StateDir), time.Now()
	if c.listing.expected != "" {
		return c.printVerdict(dir, now)
	}
	if err := c.writeMetrics(dir, now); err != nil {
		return err
	}
	words, err := c.answer(dir, now)
	if err != nil || words == "" {
		return err
	}
	return c.Print(strings.TrimSuffix(words, "\n") + "\n")
}

// answer returns the answer to a question that has no verdict.
func (c *command) answer(dir state.Dir, now time.Time) (string, error) {
	switch {
	case c.listing.order:
		domus, err := runs.Order(dir, c.operands)
		return strings.Join(domus, "\n"), err
	case c.listing.when:
		for _, disk := range c.operands {
			if err := c.Allow.Disk(disk); err != nil {
				return "", err
			}
		}
		return runs.When(dir, c.operands)
	case !c.listing.since.IsZero():
		return runs.Since(dir, c.listing.since, now)
	}
	all, err := runs.Look(dir, c.operands, now)
	switch {
	case err != nil:
		return "", err
	case c.json:
		return all.JSON()
	}
	return all.Text(), nil
}

// writeMetrics writes the file of --metrics, if it is wanted.
func (c *command) writeMetrics(dir state.Dir, now time.Time) error {
	if c.listing.metrics == "" {
		return nil
	}
	all, err := runs.Look(dir, nil, now)
	if err != nil {
		return err
	}
	return all.WriteMetrics(c.listing.metrics)
}

// printVerdict is --expected. Whatever cannot be found out has a status of its own, which Nagios knows, and no other.
func (c *command) printVerdict(dir state.Dir, now time.Time) error {
	verdict, err := c.judge(dir, now)
	if err != nil {
		verdict = runs.Untold(err, c.listing.maxAge, now)
	}
	words := verdict.Text()
	if c.json {
		if words, err = verdict.JSON(); err != nil {
			return err
		}
	}
	if err := c.Print(words); err != nil || verdict.Status() == runs.Good {
		return err
	}
	return exit.Answer(int(verdict.Status()))
}

func (c *command) judge(dir state.Dir, now time.Time) (*runs.Verdict, error) {
	in := c.Stdin
	if c.listing.expected != "-" {
		f, err := os.Open(c.listing.expected)
		if err != nil {
			return nil, exit.OpenFailed(err)
		}
		defer f.Close()
		in = f
	}
	expected, err := runs.ReadExpected(in)
	if err == nil {
		err = c.writeMetrics(dir, now)
	}
	if err != nil {
		return nil, err
	}
	var domus []string
	for _, e := range expected {
		domus = append(domus, e.DomU)
	}
	all, err := runs.Look(dir, domus, now)
	if err != nil {
		return nil, err
	}
	return runs.Judge(expected, all, c.listing.maxAge), nil
}
