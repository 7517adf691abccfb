package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/standby"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// comingOptions are those of --prepare and --auto alone: what is coming, and what may be done for it.
type comingOptions struct {
	standby.Coming
	sized bool   // --size was given
	given string // the first of these options that was
	first string
}

// What goes with --prepare and --auto.
var (
	common = []string{"--allow", "--heartbeat", "--peer", "--disk", "--uuid", "--sector-size", "--toolstack", "--create-lv", "--first-copy",
		"--force-diverged", "--spool", "--state-dir", "--progress"}
	prepareOptions = append(slices.Clip(common), "--dry-run", "--size", "-b", "--block-size", "--hash", "--have")
	autoOptions    = append(slices.Clip(common), "--hold", "--taken", "--keep", "--owner", "--mode", "--background", "--read-limit",
		"--summary")
)

func (o *comingOptions) define(c *command, f *cli.Flags) {
	o.Header = stream.Header{BlockSize: stream.DefaultBlockSize, Hash: stream.XXH64}
	add := func(names string, set func(string) error) {
		f.Func(names, func(s string) error {
			o.given = cmp.Or(o.given, "--"+names[strings.LastIndexByte(names, ',')+1:])
			return set(s)
		})
	}
	add("size", func(s string) (err error) {
		o.sized = true
		o.Size, err = text.ParseSize(s)
		return err
	})
	add("b,block-size", func(s string) error {
		n, err := text.ParseSize(s)
		if err == nil {
			err = stream.CheckBlockSize(n)
		}
		o.Header.BlockSize = int(n)
		return err
	})
	add("hash", func(s string) (err error) { o.Header.Hash, err = stream.ParseHash(s); return err })
	add("have", func(s string) error {
		image, err := stream.ParseImage(s)
		o.Have = append(o.Have, image)
		return err
	})
	add("create-lv", func(s string) error {
		if strings.ContainsAny(s, "/ ") || s == "" || s[0] == '-' {
			return fmt.Errorf("%q is no name of a volume group", s)
		}
		c.CreateVG = s
		return nil
	})
	add("first-copy", cli.OneOf(&o.first, "spool", "in-place"))
}

// checkComing refuses a --prepare or --auto that does not say what is coming.
func (c *command) checkComing() error {
	switch {
	case c.Peer == "" || c.Disk == "":
		return exit.Fail(exit.Usage, "--prepare and --auto need --peer HOST and --disk DOMU/DISK")
	case c.prepare && !c.coming.sized:
		return exit.Fail(exit.Usage, "--prepare needs --size N")
	}
	c.FirstCopy = c.coming.first == "in-place"
	return nil
}

// prepareTarget is --prepare. Its answer is the last line, after those of the heartbeat.
func (c *command) prepareTarget() error {
	c.coming.DryRun = c.dryRun
	ready, err := standby.Prepare(c, c.Options, c.coming.Coming)
	if err != nil {
		return err
	}
	c.stop()
	return c.Print(ready.String() + "\n")
}
