// Command xb-patch applies a delta to a target so that the target is always a
// whole image: see xb-patch(1).
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
)

const usage = `Usage: xb-patch [OPTION]... DEV|FILE < DELTA
       xb-patch --dry-run [OPTION]... DEV|FILE < DELTA
       xb-patch --recover DEV|FILE
       xb-patch --adopt DOMU/DISK [--uuid UUID] DEV|FILE
       xb-patch --state DEV|FILE
       xb-patch --record ORIGIN --peer HOST < SUMMARY
       xb-patch --info [--json] [FILE]

Receive a delta, prove it and the target's content, and only then write: the
target holds the old image or the new one, or is flagged until --recover has
finished it.

      --spool DIR        keep the delta in DIR until it is applied
                         (default: below the state directory)
      --in-place         write while the delta arrives, without a spool; only for
                         a first copy, where there is nothing to lose
      --create           create FILE if it does not exist; never below /dev
      --owner USER[:GROUP]
                         with --create: whose FILE is to be (default: the caller's)
      --mode MODE        with --create: its permissions, octal (default: 600)
      --dry-run          write nothing; prove everything and say what it would do
      --recover          finish the apply that was interrupted on DEV
      --abandon-apply    give an interrupted apply up, and with it the image on
                         DEV: it needs a full copy then
      --force-diverged   overwrite changes on DEV that exist nowhere else
      --disk DOMU/DISK   whose standby DEV is: the delta is of this disk, and that
                         of another one is never applied
      --uuid UUID        with --disk, --adopt: the DomU's, which tells it from
                         another one of its name
      --sector-size N    the source's logical sectors have N bytes: at the first
                         contact it is said if the target's are others
      --toolstack NAME   ask only virsh or xl whose disk DEV is; auto (the default)
                         asks both
      --adopt DOMU/DISK  from now on DEV is the standby of this disk: for a DomU or
                         disk that was renamed; changes nothing else
      --state            print what is remembered of DEV as JSON
      --record           remember that the peer now has the image of ORIGIN that
                         xb-delta's --summary on stdin describes
      --peer HOST        the other host: what was sent to a third one is newer
                         than what it brings, and not overwritten
      --state-dir DIR    where this host remembers its devices
                         (default $XB_STATE_DIR or /var/lib/xen-backup)
      --info             describe the signature or delta in FILE or on stdin
      --json             with --info: as a JSON object
      --progress[=WHEN]  show progress: always, auto (default) or never
      --heartbeat        say on stdout every ten seconds whether it goes on
      --summary FILE     write the figures of the run to FILE as JSON
  -v, --verbose          say more
  -q, --quiet            say only errors
  -h, --help             print this help
  -V, --version          print the version

Exit status: 0 done, 64 usage, 65 bad or cut delta or wrong size, 66 no such
device, 69 it cannot be told who uses DEV, 73 no room for the spool, state or image, 74
I/O error, 75 busy, 76 not a delta, 78 unusable state, 80 not the basis or
diverged, 83 an apply is unfinished: recover first. See xb-patch(1).
`

func main() { cli.Main("xb-patch", usage, run) }

type options struct {
	target     string
	spool      string
	inPlace    bool
	create     bool
	owner      string
	mode       os.FileMode
	force      bool
	peer       string
	disk       string
	uuid       string
	sectorSize int64 // of the source; 0: not known
	toolstack  string
	stateDir   string
	progress   string
	summary    string

	heartbeat bool
}

func run(env *cli.Env, args []string) error {
	o := options{toolstack: "auto"}
	var mode struct{ dryRun, recover, abandon, state, record, info, json bool }
	var adopt string
	f := env.Flags()
	f.Path(&o.spool, "spool")
	f.Bool(&o.inPlace, "in-place")
	f.Bool(&o.create, "create")
	f.String(&o.owner, "owner")
	f.Func("mode", parseMode(&o.mode))
	f.Bool(&mode.dryRun, "dry-run")
	f.Bool(&mode.recover, "recover")
	f.Bool(&mode.abandon, "abandon-apply")
	f.Bool(&o.force, "force-diverged")
	f.Func("disk", parseDisk(&o.disk))
	f.Func("uuid", parseUUID(&o.uuid))
	f.Func("sector-size", parseSectorSize(&o.sectorSize))
	f.Func("toolstack", cli.OneOf(&o.toolstack, "auto", "virsh", "xl"))
	f.Func("adopt", parseDisk(&adopt))
	f.Bool(&mode.state, "state")
	f.Bool(&mode.record, "record")
	f.String(&o.peer, "peer")
	f.Path(&o.stateDir, "state-dir")
	f.Bool(&mode.info, "info")
	f.Bool(&mode.json, "json")
	f.ProgressFlag(&o.progress)
	f.Bool(&o.heartbeat, "heartbeat")
	f.Path(&o.summary, "summary")
	operands, err := f.ParsePaths(args)
	if err != nil {
		return err
	}
	modes := 0
	for _, m := range []bool{mode.dryRun, mode.recover, mode.abandon, adopt != "", mode.state, mode.record, mode.info} {
		if m {
			modes++
		}
	}
	switch {
	case modes > 1:
		return exit.Fail(exit.Usage, "--dry-run, --recover, --abandon-apply, --adopt, --state, --record and --info exclude each other")
	case mode.info && mode.json:
		return env.PrintInfo(f, operands, inspect.JSON)
	case mode.info:
		return env.PrintInfo(f, operands, inspect.Text)
	case mode.json:
		return exit.Fail(exit.Usage, "--json goes with --info")
	case len(operands) != 1:
		return exit.Fail(exit.Usage, "want one device or file, got %d operands", len(operands))
	case o.uuid != "" && o.disk == "" && adopt == "":
		return exit.Fail(exit.Usage, "--uuid goes with --disk or --adopt")
	case (o.owner != "" || o.mode != 0) && !o.create:
		return exit.Fail(exit.Usage, "--owner and --mode go with --create")
	case o.spool != "" && o.inPlace:
		return exit.Fail(exit.Usage, "--in-place uses no spool")
	case o.force && o.inPlace:
		return exit.Fail(exit.Usage, "--in-place is for first copies: what has diverged is overwritten through a spool")
	case operands[0] == "-":
		return exit.Fail(exit.Usage, "the target is a device or file, not a stream")
	}
	switch {
	case mode.state:
		err = f.Only("--state", "--state-dir")
	case mode.record:
		err = f.Only("--record", "--peer", "--state-dir")
	case mode.recover:
		err = f.Only("--recover", "--peer", "--disk", "--uuid", "--toolstack", "--state-dir", "--progress", "--heartbeat", "--summary")
	case adopt != "":
		err = f.Only("--adopt", "--uuid", "--state-dir")
	case mode.abandon:
		err = f.Only("--abandon-apply", "--state-dir")
	}
	if err := errors.Join(err, cli.Distinct(operands[0], o.summary), cli.CheckSummary(o.summary)); err != nil {
		return err
	}
	o.target = operands[0]
	p := &patcher{env: env, options: o}
	switch {
	case mode.state:
		return p.printState()
	case mode.record:
		return p.recordSent()
	case mode.recover:
		return p.recover()
	case mode.abandon:
		return p.abandon()
	case adopt != "":
		return p.adoptTarget(adopt)
	case mode.dryRun:
		return p.dryRun()
	case o.inPlace:
		return p.copyInPlace()
	}
	return p.patch()
}

func parseMode(p *os.FileMode) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 8, 9)
		if err != nil || n&0o600 != 0o600 {
			return fmt.Errorf("%q is no mode of a file that its owner can read and write, as 640 is", s)
		}
		*p = os.FileMode(n)
		return nil
	}
}
