package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/standby"
	"xen-backup/internal/text"
)

// promoteOptions are those of --promote alone.
type promoteOptions struct{ standby.Start }

func (o *promoteOptions) define(f *cli.Flags) {
	f.Path(&o.Document, "document")
	f.Bool(&o.Apart, "disks-of-different-times")
	f.Func("at", cli.Time(&o.At))
}

// parse takes the operands apart, DOMU/DISK=TARGET each.
func (o *promoteOptions) parse(operands []string, dryRun bool) error {
	for _, operand := range operands {
		disk, target, _ := strings.Cut(operand, "=")
		err := cli.Disk(new(string))(disk)
		if err == nil {
			target, err = text.Path(target)
		}
		if err == nil && !strings.HasPrefix(target, "/") {
			err = fmt.Errorf("%q is not DOMU/DISK=/PATH", operand)
		}
		if err != nil {
			return exit.Fail(exit.Usage, "%w", err)
		}
		o.Disks = append(o.Disks, standby.Disk{Name: disk, Target: target})
	}
	if len(o.Disks) == 0 || o.Document == "" {
		return exit.Fail(exit.Usage, "--promote needs --document FILE, and DOMU/DISK=TARGET of each disk")
	}
	if !o.At.IsZero() && !dryRun {
		return exit.Fail(exit.Usage, "--at goes with --promote --dry-run: xb-snap rollback makes standbys what they were")
	}
	return nil
}

// promoteDisks is --promote. Whoever starts the DomU reads the word "ready", and closes our standard input when it runs.
func (c *command) promoteDisks() error {
	c.start.Locked = !c.dryRun
	p, err := standby.Promote(c, c.Options, c.start.Start)
	if err != nil {
		return err
	}
	if err = c.Print(p.Rows() + "ready\n"); err == nil && !c.dryRun {
		_, err = io.Copy(io.Discard, c.Stdin)
	}
	return errors.Join(err, p.Close())
}
