// Command xb-patch applies a delta to a target so that the target is always a
// whole image: see xb-patch(1).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-patch [OPTION]... DEV|FILE < DELTA
       xb-patch --dry-run [OPTION]... DEV|FILE < DELTA
       xb-patch --hold SET --taken TIME --peer HOST --disk DOMU/DISK
                [OPTION]... DEV|FILE < DELTA
       xb-patch --commit SET --peer HOST [OPTION]... DEV|FILE...
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
      --hold SET         prove and keep the delta, and write it when the set of all
                         disks of the DomU is committed; with --in-place: write it,
                         as one of the set
      --taken TIME       with --hold: when the source took the set's snapshots
                         (2026-11-26T23:47:28Z)
      --commit SET       make all targets that are held for SET the new images, or
                         none of them
      --dry-run          write nothing; prove everything and say what it would do
      --recover          finish the apply that was interrupted on DEV, and on the
                         other disks of its set
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

func run(env *cli.Env, args []string) error {
	o := standby.Options{Toolstack: "auto", Session: os.Getenv("SSH_CONNECTION")}
	s := session{Env: env}
	var mode struct{ dryRun, recover, abandon, state, record, info, json bool }
	var adopt, summary, commit string
	f := env.Flags()
	f.Path(&o.Spool, "spool")
	f.Bool(&o.InPlace, "in-place")
	f.Bool(&o.Create, "create")
	f.String(&o.Owner, "owner")
	f.Func("mode", parseMode(&o.Mode))
	f.Func("hold", parseSet(&o.Set))
	f.Func("taken", parseTaken(&o.Taken))
	f.Func("commit", parseSet(&commit))
	f.Bool(&mode.dryRun, "dry-run")
	f.Bool(&mode.recover, "recover")
	f.Bool(&mode.abandon, "abandon-apply")
	f.Bool(&o.Force, "force-diverged")
	f.Func("disk", parseDisk(&o.Disk))
	f.Func("uuid", parseUUID(&o.UUID))
	f.Func("sector-size", parseSectorSize(&o.SectorSize))
	f.Func("toolstack", cli.OneOf(&o.Toolstack, "auto", "virsh", "xl"))
	f.Func("adopt", parseDisk(&adopt))
	f.Bool(&mode.state, "state")
	f.Bool(&mode.record, "record")
	f.String(&o.Peer, "peer")
	f.Path(&o.StateDir, "state-dir")
	f.Bool(&mode.info, "info")
	f.Bool(&mode.json, "json")
	f.ProgressFlag(&s.mode)
	f.Bool(&s.heartbeat, "heartbeat")
	f.Path(&summary, "summary")
	operands, err := f.ParsePaths(args)
	if err != nil {
		return err
	}
	modes := 0
	for _, m := range []bool{mode.dryRun, mode.recover, mode.abandon, adopt != "", commit != "", mode.state, mode.record, mode.info} {
		if m {
			modes++
		}
	}
	switch {
	case modes > 1:
		return exit.Fail(exit.Usage,
			"--dry-run, --commit, --recover, --abandon-apply, --adopt, --state, --record and --info exclude each other")
	case mode.info && mode.json:
		return env.PrintInfo(f, operands, inspect.JSON)
	case mode.info:
		return env.PrintInfo(f, operands, inspect.Text)
	case mode.json:
		return exit.Fail(exit.Usage, "--json goes with --info")
	case commit != "" && len(operands) == 0:
		return exit.Fail(exit.Usage, "--commit wants all targets of the set")
	case commit == "" && len(operands) != 1:
		return exit.Fail(exit.Usage, "want one device or file, got %d operands", len(operands))
	case o.UUID != "" && o.Disk == "" && adopt == "":
		return exit.Fail(exit.Usage, "--uuid goes with --disk or --adopt")
	case (o.Owner != "" || o.Mode != 0) && !o.Create:
		return exit.Fail(exit.Usage, "--owner and --mode go with --create")
	case o.Spool != "" && o.InPlace:
		return exit.Fail(exit.Usage, "--in-place uses no spool")
	case o.Force && o.InPlace:
		return exit.Fail(exit.Usage, "--in-place is for first copies: what has diverged is overwritten through a spool")
	case commit != "" && o.Peer == "":
		return exit.Fail(exit.Usage, "--commit needs --peer HOST")
	case (o.Set == "") != o.Taken.IsZero():
		return exit.Fail(exit.Usage, "--hold and --taken go together")
	case o.Set != "" && !mode.dryRun && (o.Peer == "" || o.Disk == ""):
		return exit.Fail(exit.Usage, "--hold needs --peer HOST and --disk DOMU/DISK")
	case slices.Contains(operands, "-"):
		return exit.Fail(exit.Usage, "the target is a device or file, not a stream")
	}
	switch {
	case mode.state:
		err = f.Only("--state", "--state-dir")
	case mode.record:
		err = f.Only("--record", "--peer", "--state-dir")
	case commit != "":
		err = f.Only("--commit", "--peer", "--state-dir", "--progress", "--heartbeat", "--summary")
	case mode.recover:
		err = f.Only("--recover", "--peer", "--disk", "--uuid", "--toolstack", "--state-dir", "--progress", "--heartbeat",
			"--summary")
	case adopt != "":
		err = f.Only("--adopt", "--uuid", "--state-dir")
	case mode.abandon:
		err = f.Only("--abandon-apply", "--state-dir")
	}
	for _, target := range operands {
		err = errors.Join(err, cli.Distinct(target, summary))
	}
	if err := errors.Join(err, cli.CheckSummary(summary)); err != nil {
		return err
	}
	o.Target = operands[0]
	defer s.stop()
	switch {
	case mode.state:
		return printState(env, o)
	case mode.record:
		return record(env, o)
	case commit != "":
		deltas, err := standby.Commit(&s, o, commit, operands)
		if err != nil {
			return err
		}
		return s.summarizeAll(deltas, summary)
	case mode.recover:
		d, err := standby.Recover(&s, o)
		if d == nil || err != nil {
			return err
		}
		return s.summarize(*d, summary)
	case mode.abandon:
		return standby.Abandon(&s, o)
	case adopt != "":
		o.Disk = adopt
		return standby.Adopt(&s, o)
	}
	in, err := env.BinaryIn()
	if err != nil {
		return err
	}
	var d rdiff.Delta
	if mode.dryRun {
		if d, err = standby.DryRun(&s, o, in); err == nil {
			err = env.Print(fmt.Sprintf("%s: would write %d blocks and zero %d of %d bytes each; image size %d, now %d\n",
				o.Target, d.Literals, d.Zeroes, d.BlockSize, d.Source.Size, d.Basis.Size))
		}
	} else {
		d, err = standby.Patch(&s, o, in)
	}
	if err != nil {
		return err
	}
	return s.summarize(d, summary)
}

// printState is --state.
func printState(env *cli.Env, o standby.Options) error {
	m, err := standby.State(o)
	if err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return exit.Fail(exit.Internal, "state: %w", err)
	}
	return env.Print(string(text) + "\n")
}

// record is --record.
func record(env *cli.Env, o standby.Options) error {
	if o.Peer == "" {
		return exit.Fail(exit.Usage, "--record needs --peer HOST")
	}
	in, err := env.BinaryIn()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return err
	}
	var s cli.Summary
	if err := json.Unmarshal(text, &s); err != nil {
		return exit.Fail(exit.BadStream, "standard input is no summary of xb-delta: %w", err)
	}
	if s.Command != "xb-delta" || s.BytesSent == 0 {
		return exit.Fail(exit.BadStream, "standard input is no summary of an xb-delta that sent a delta")
	}
	image, err := s.Image()
	if err != nil {
		return exit.Fail(exit.BadStream, "standard input is no summary of xb-delta: %w", err)
	}
	return standby.Record(o, image)
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

// parseDisk takes DOMU/DISK apart, just to see that it is one.
func parseDisk(p *string) func(string) error {
	return func(s string) error {
		domu, disk, _ := strings.Cut(s, "/")
		odd := func(r rune) bool { return !unicode.IsGraphic(r) }
		if domu == "" || disk == "" || strings.Contains(disk, "/") || !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
			return fmt.Errorf("%q is not DOMU/DISK, as in domu1/xvda", s)
		}
		*p = s
		return nil
	}
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func parseUUID(p *string) func(string) error {
	return func(s string) error {
		if *p = strings.ToLower(s); !uuidForm.MatchString(*p) {
			return fmt.Errorf("%q is no UUID", s)
		}
		return nil
	}
}

func parseSet(p *string) func(string) error {
	return func(s string) error {
		*p = s
		return state.CheckSet(s)
	}
}

// parseTaken reads a time, of which there is one form only.
func parseTaken(p *time.Time) func(string) error {
	return func(s string) (err error) {
		if *p, err = time.Parse("2006-01-02T15:04:05Z", s); err != nil || p.IsZero() {
			return fmt.Errorf("%q is no time as 2026-11-26T23:47:28Z", s)
		}
		return nil
	}
}

// parseSectorSize reads the argument of --sector-size.
func parseSectorSize(size *int64) func(string) error {
	return func(s string) (err error) {
		if *size, err = text.ParseSize(s); err == nil && (*size < 512 || *size&(*size-1) != 0) {
			err = exit.Fail(exit.Usage, "%q is no sector size", s)
		}
		return err
	}
}
