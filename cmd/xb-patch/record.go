package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/state"
)

// recordOptions are those of --record alone.
type recordOptions struct {
	step, sent, set, target string
	stages                  []int
	staged                  bool // --stages was given
	stalled                 int
	verified, final         bool
	last                    time.Time
}

func (o *recordOptions) define(f *cli.Flags) {
	f.Func("step", cli.OneOf(&o.step, slices.Concat(runs.DiskSteps, runs.DomUSteps)...))
	f.Func("stages", func(s string) (err error) {
		o.stages, err = runs.ParseStages(s)
		o.staged = true
		return err
	})
	f.Func("stalled", func(s string) (err error) {
		if o.stalled, err = strconv.Atoi(s); err == nil && o.stalled <= 0 {
			err = fmt.Errorf("%q is no number of seconds", s)
		}
		return err
	})
	f.Path(&o.sent, "sent")
	f.Bool(&o.verified, "verified")
	f.Bool(&o.final, "final")
	f.Func("set", parseSet(&o.set))
	f.Path(&o.target, "target")
	f.Func("last", cli.Time(&o.last))
}

func (o *recordOptions) names() []string {
	return []string{"--step", "--stages", "--stalled", "--sent", "--verified", "--final", "--set", "--target", "--last"}
}

// checkRecord refuses a report that does not say what was done.
func (c *command) checkRecord() error {
	o := &c.report
	_, disk, ofDisk := strings.Cut(c.Disk, "/")
	if o.step == "" {
		if o.step = string(runs.Other); ofDisk {
			o.step = string(runs.CopyStep)
		}
	}
	good := !slices.ContainsFunc(o.stages, func(status int) bool { return status != 0 })
	switch {
	case c.Peer == "" || c.Disk == "" || !o.staged:
		return exit.Fail(exit.Usage, "--record needs --peer HOST, --disk DOMU[/DISK] and --stages STATUSES")
	case ofDisk && (disk == "" || len(c.operands) != 1 || c.Peer == allPeers || o.target == ""):
		return exit.Fail(exit.Usage, "--record of a disk needs --target and SOURCE, and one peer")
	case ofDisk && !slices.Contains(runs.DiskSteps, o.step), !ofDisk && !slices.Contains(runs.DomUSteps, o.step):
		return exit.Fail(exit.Usage, "--step %s does not go with --disk %s", o.step, c.Disk)
	case !ofDisk && len(c.operands) > 0:
		return exit.Fail(exit.Usage, "--record of a whole DomU takes no SOURCE")
	case good && o.step == string(runs.CopyStep) && o.sent == "" && !c.dryRun:
		return exit.Fail(exit.Usage, "--record of a copy needs --sent SUMMARY")
	}
	return nil
}

// allPeers is what --record calls all peers.
const allPeers = "-"

// recordRun is --record.
func (c *command) recordRun() error {
	o := &c.report
	domu, disk, _ := strings.Cut(c.Disk, "/")
	source, peer := c.Target, c.Peer
	if absolute, err := filepath.Abs(source); err == nil && source != "" {
		source = absolute
	}
	if peer == allPeers {
		peer = ""
	}
	r := runs.Report{DomU: domu, Disk: disk, Peer: peer, Source: source, Target: o.target,
		Step: runs.Step(o.step), Stages: o.stages, Stalled: o.stalled, Verified: o.verified, Final: o.final, Taken: c.Taken,
		Set: o.set, Last: o.last, DryRun: c.dryRun}
	if !cli.IsTerminal(c.Stdin) {
		if err := r.ReadWords(c.Stdin); err != nil {
			return err
		}
	}
	if o.sent != "" {
		r.Sent, r.Unsent = runs.ReadSent(o.sent)
	}
	lines, status := r.Record(state.Dir(c.StateDir))
	text := ""
	for _, line := range lines {
		text += line.Level + " " + line.Text + "\n"
	}
	if err := c.Print(text); err != nil || status == exit.OK {
		return err
	}
	return exit.Answer(status)
}
