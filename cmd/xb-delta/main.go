// Command xb-delta compares a source with a target's signature and writes the
// delta between them: see xb-delta(1).
package main

import (
	"errors"
	"strconv"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-delta [OPTION]... SOURCE < SIGNATURE > DELTA
       xb-delta [OPTION]... --signature FILE SOURCE|- > DELTA
       xb-delta [OPTION]... --since OLD --basis RECORD SOURCE < EXTENTS > DELTA
       xb-delta --check [OPTION]... SOURCE < SIGNATURE
       xb-delta --info [--json] [FILE]

Read a target's signature and the source, a snapshot's device or a file, and
write what makes the target equal to the source, for xb-patch. With --since: read
only what the storage says has changed since an image that the target holds.

      --signature FILE      read the signature from FILE, not from stdin
      --since OLD           compare with OLD, the snapshot that the target was made
                            equal to, and only in the extents of xb-snap changes
      --basis RECORD        what xb-snap base prints of OLD
      --extents FILE        read the extents from FILE, not from stdin
      --level N             compress: 0 (not at all) to 19, default 1
      --bwlimit RATE        write at most RATE bytes a second
      --background          let guests' own reads and writes go first
      --read-limit RATE     read at most RATE bytes a second of SOURCE
      --new-signature FILE  write the source's own signature to FILE; adopt it
                            only once the delta was applied
      --check               write no delta; say how much differs
      --allow-live          read a volume although others may write to it; the
                            image can then be one that never existed
      --info                describe the signature or delta in FILE or on stdin
      --json                with --info: as a JSON object
      --progress[=WHEN]     show progress: always, auto (default) or never
      --progress-file FILE  write it to FILE every second
      --heartbeat           say on stderr every ten seconds whether it goes on
      --summary FILE        write the figures of the run to FILE as JSON
  -v, --verbose             say more
  -q, --quiet               say only errors
  -h, --help                print this help
  -V, --version             print the version

Sizes are bytes, or have a unit K, M, G or T (powers of 1024).
Exit status: 0 done or equal, 1 differs (--check), 64 usage, 65 bad or cut
signature or list of extents, 66 no such source, 69 cannot tell if it is written
to, 73 cannot create FILE, 74 I/O error, 75 the source is live, 76 not a
signature, 80 OLD is not the snapshot of RECORD, 82 a snapshot has become
invalid. See xb-delta(1).
`

func main() { cli.Main("xb-delta", usage, run) }

type options struct {
	source       string
	signature    string
	since        string
	basis        string
	extents      string
	level        int
	bwlimit      int64
	newSignature string
	check        bool
	allowLive    bool
	progress     string
	progressFile string
	heartbeat    bool
	pace         cli.Pace
	summary      string
}

func run(env *cli.Env, args []string) error {
	o := options{level: stream.DefaultLevel}
	var info, asJSON bool
	f := env.Flags()
	f.Path(&o.signature, "signature")
	f.Path(&o.since, "since")
	f.Path(&o.basis, "basis")
	f.Path(&o.extents, "extents")
	f.Func("level", func(s string) (err error) {
		if o.level, err = strconv.Atoi(s); err != nil || o.level < 0 || o.level > stream.MaxLevel {
			return exit.Fail(exit.Usage, "%q is no level from 0 to %d", s, stream.MaxLevel)
		}
		return nil
	})
	f.Func("bwlimit", func(s string) (err error) {
		if o.bwlimit, err = text.ParseSize(s); err == nil && o.bwlimit == 0 {
			err = exit.Fail(exit.Usage, "a rate of 0 never ends")
		}
		return err
	})
	f.Path(&o.newSignature, "new-signature")
	f.Bool(&o.check, "check")
	f.Bool(&o.allowLive, "allow-live")
	f.Bool(&info, "info")
	f.Bool(&asJSON, "json")
	f.ProgressFlag(&o.progress)
	f.Path(&o.progressFile, "progress-file")
	f.Bool(&o.heartbeat, "heartbeat")
	f.PaceFlags(&o.pace)
	f.Path(&o.summary, "summary")
	operands, err := f.ParsePaths(args)
	switch {
	case err != nil:
		return err
	case info && asJSON:
		return env.PrintInfo(f, operands, inspect.JSON)
	case info:
		return env.PrintInfo(f, operands, inspect.Text)
	case asJSON:
		return exit.Fail(exit.Usage, "--json goes with --info")
	case len(operands) != 1:
		return exit.Fail(exit.Usage, "want one source, got %d operands", len(operands))
	case o.since != "" || o.basis != "" || o.extents != "":
		if err := o.checkTracked(operands[0]); err != nil {
			return err
		}
	case operands[0] == "-" && (o.signature == "" || o.signature == "-"):
		return exit.Fail(exit.Usage, "with the source on standard input the signature needs --signature FILE")
	case operands[0] == "-" && o.pace.Limited():
		return exit.Fail(exit.Usage, "--read-limit needs a device or file")
	}
	switch {
	case o.check && o.newSignature != "":
		return exit.Fail(exit.Usage, "--check makes no delta, and so no --new-signature either")
	case o.newSignature == "-":
		return exit.Fail(exit.Usage, "--new-signature wants a file: standard output is for the delta")
	}
	o.source = operands[0]
	err = errors.Join(
		cli.Distinct(o.source, o.newSignature, o.summary, o.progressFile),
		cli.Distinct(o.signature, o.newSignature, o.summary, o.progressFile),
		cli.Distinct(o.since, o.summary, o.progressFile),
		cli.Distinct(o.basis, o.extents, o.summary, o.progressFile),
		cli.CheckSummary(o.summary),
	)
	if err != nil {
		return err
	}
	return delta(env, o)
}

// checkTracked refuses what does not go with --since.
func (o options) checkTracked(source string) error {
	switch {
	case o.since == "" || o.basis == "":
		return exit.Fail(exit.Usage, "--since OLD and --basis RECORD go together")
	case o.signature != "" || o.newSignature != "":
		return exit.Fail(exit.Usage, "--since needs no signature and makes none")
	case o.allowLive:
		return exit.Fail(exit.Usage, "--since reads only snapshots, and none to which others may write")
	case source == "-" || o.since == "-":
		return exit.Fail(exit.Usage, "--since compares two snapshots, not standard input")
	case o.basis == "-" && (o.extents == "" || o.extents == "-"):
		return exit.Fail(exit.Usage, "with the record on standard input the extents need --extents FILE")
	}
	return nil
}
