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
type promoteOptions struct {
	document string
	apart    bool // the disks may be of different times
	disks    []standby.Disk
}

func (o *promoteOptions) define(f *cli.Flags) {
	f.Path(&o.document, "document")
	f.Bool(&o.apart, "disks-of-different-times")
}

// parse takes the operands apart, DOMU/DISK=TARGET each.
func (o *promoteOptions) parse(operands []string) error {
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
		o.disks = append(o.disks, standby.Disk{Name: disk, Target: target})
	}
	if len(o.disks) == 0 || o.document == "" {
		return exit.Fail(exit.Usage, "--promote needs --document FILE, and DOMU/DISK=TARGET of each disk")
	}
	return nil
}

// promoteDisks is --promote. Whoever starts the DomU reads the word "ready", and closes our standard input when it runs.
func (c *command) promoteDisks() error {
	p, err := standby.Promote(c, c.Options, c.start.disks, c.start.document, c.start.apart, !c.dryRun)
	if err != nil {
		return err
	}
	if err = c.Print(p.Rows() + "ready\n"); err == nil && !c.dryRun {
		_, err = io.Copy(io.Discard, c.Stdin)
	}
	return errors.Join(err, p.Close())
}
