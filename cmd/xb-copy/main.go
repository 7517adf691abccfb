// Command xb-copy brings the standbys of a DomU on other Dom0s up to date: see xb-copy(1).
package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/replicate"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-copy --connect --run DIR [--connect-timeout SECONDS] DOM0...
       xb-copy --known --run DIR [--toolstack auto|virsh|xl] DOMU DOM0...
       xb-copy --prepare --run DIR --domu DOMU [--dry-run] [OPTION]... < ROWS
       xb-copy --run DIR --domu DOMU [OPTION]... < ROWS
       xb-copy --move --domu DOMU --to DOM0 --confs DIR [--for TIME]
               [--with-memory|--undo|--finish] [--the-other-host-is-off] [--uri URI]
               [--toolstack auto|virsh|xl] [--connect-timeout SECONDS] [--state-dir DIR]

Bring the standbys of a DomU on other Dom0s up to date, over ssh: all of its disks,
and the document by which it starts from them. xen-backup.sh calls it.

      --connect          open a connection to each DOM0, tell in DIR/dom0s which can be
                         reached, say ready, and keep them open until standard input
                         ends
      --known            say yes if one of the DOM0s knows DOMU, no if none does, and
                         maybe if one that cannot be asked may
      --prepare          ask each Dom0 whether DOMU is active there, too, and have it
                         look at its standbys; print the rows of those that are ready

      --move             for xen-failover: shut DOMU off, copy it to DOM0 for a last time,
                         and have it started there; whatever fails before it was to
                         start there has it start here again
      --confs DIR        with --move: where its conf file is
      --for TIME         with --move: how long DOMU may take to shut down (5m)
      --with-memory      with --move: save DOMU, and have it go on there from its memory
      --undo             with --move: that was interrupted, and DOMU is to go on here
      --finish           the same, and it is to go on there
      --the-other-host-is-off
                         with --undo: do not ask DOM0
      --uri URI          with --move: connect virsh to URI

      --run DIR          where the connections are; for files, too
      --connect-timeout SECONDS
                         until a Dom0 answers (15); four times that until it lets us in
      --domu DOMU        whose disks are in ROWS, which xb-locate --copy --dom0s prints,
                         and to copy xb-patch --prepare
      --to DOM0          copy to this one only
      --jobs N           copies at once, of all Dom0s (4)
      --at-once N        so many DomUs are copied at once (1)
      --stall SECONDS    give up what tells of no progress for so long (900)
  -b, --block-size SIZE  compare in blocks of SIZE (4K)
      --hash NAME        xxh64 (default) or sha256
      --toolstack NAME   have the other side ask only virsh or xl
      --create-lv VG     have a missing logical volume created there
      --first-copy MODE  in-place or spool, as with xb-patch
      --force-diverged   overwrite changes that exist nowhere else
      --dry-run          with --prepare: only say what would be done
      --exclude DISK     leave DISK out of the document; may be repeated
      --snapshots FILE   read what FILE names, a path a disk as xb-snap create prints
                         them, and not the disks themselves
      --taken TIME       when these were taken (2026-11-26T23:47:28Z; when FILE was
                         written)
      --keep RULE        of which times the other side is asked to keep images, as
                         "24h:hourly 7d:daily 4w:weekly", a number, or no
      --bundle FILE      the document, as xb-locate --bundle has written it
      --track WORD       read only what has changed since the last copy, and keep the
                         snapshots for that: auto (default; where it costs the guest
                         little), yes or no
      --verify           compare each copy with its source afterwards
      --verify-every TIME
                         do so in the first run of each TIME, as 7d, which begins at
                         another moment for each disk and Dom0; 0: never (default)
      --final            DOMU is shut off: it is the last copy before a move
      --bwlimit RATE     send at most RATE bytes a second
      --read-limit RATE  read at most RATE bytes a second
      --background[=yes|no]
                         let guests' own reads and writes go first
      --state-dir DIR    where this host remembers its runs
                         (default: $XB_STATE_DIR, or STATE_DIR of
                         /etc/xen-backup/host.conf, or /var/lib/xen-backup)
  -v, --verbose          say more
  -q, --quiet            say only errors
  -h, --help             print this help
  -V, --version          print the version

Each line on standard error begins with its level, err, warning or info; what
begins with progress is for the last line of a terminal.
Exit status: 0 done, 3 something failed, which was said and remembered, 64 usage, 66
nothing is connected, 73 cannot write to DIR, 74 I/O error, 81 the DomU is active
elsewhere, too. See xb-copy(1).
`

func main() { cli.Main("xb-copy", usage, run) }

type options struct {
	replicate.Options
	connect, known, prepare bool
	move                    moveOptions
	snapshots, taken, dir   string
	timeout, stall          int
	background              string
	flags                   *cli.Flags
}

func run(env *cli.Env, args []string) error {
	env.Words = true
	o := options{flags: env.Flags()}
	o.define()
	operands, err := o.flags.Parse(args)
	if err != nil {
		return err
	}
	do, err := o.mode(operands)
	if err != nil {
		return err
	}
	return do(env, &o, operands)
}

func (o *options) define() {
	f := o.flags
	f.Bool(&o.connect, "connect")
	f.Bool(&o.known, "known")
	f.Bool(&o.prepare, "prepare")
	f.Path(&o.Run, "run")
	o.timeout, o.stall, o.Jobs, o.AtOnce = 15, 900, 4, 1
	f.Func("connect-timeout", cli.Number(&o.timeout))
	f.String(&o.DomU, "domu")
	f.String(&o.To, "to")
	f.Func("jobs", cli.Number(&o.Jobs))
	f.Func("at-once", cli.Number(&o.AtOnce))
	f.Func("stall", cli.Number(&o.stall))
	o.BlockSize, o.Hash = "4K", "xxh64"
	f.Func("b,block-size", blockSize(&o.BlockSize))
	f.Func("hash", cli.OneOf(&o.Hash, "xxh64", "sha256"))
	f.Func("toolstack", cli.OneOf(&o.Toolstack, "auto", "virsh", "xl"))
	f.String(&o.CreateLV, "create-lv")
	f.Func("first-copy", cli.OneOf(&o.FirstCopy, "in-place", "spool"))
	f.Bool(&o.Force, "force-diverged")
	f.Bool(&o.DryRun, "dry-run")
	f.Func("exclude", func(s string) error { o.Exclude = append(o.Exclude, strings.Fields(s)...); return nil })
	f.Path(&o.snapshots, "snapshots")
	f.String(&o.taken, "taken")
	f.Func("keep", func(s string) error {
		rule, err := state.ParseKeep(s)
		if err == nil {
			o.Keep = rule.String()
		}
		return err
	})
	f.Path(&o.Bundle, "bundle")
	o.Track = replicate.TrackAuto
	f.Func("track", cli.OneOf(&o.Track, replicate.TrackAuto, replicate.TrackYes, replicate.TrackNo))
	f.Bool(&o.Verify, "verify")
	f.Func("verify-every", func(s string) (err error) { o.VerifyEvery, err = text.ParseEvery(s); return err })
	f.Bool(&o.Final, "final")
	f.Func("bwlimit", size(&o.BWLimit))
	f.Func("read-limit", size(&o.ReadLimit))
	f.OptionalFunc("background", func(s string) error {
		return cli.OneOf(&o.background, "yes", "no")(cmp.Or(s, "yes"))
	})
	f.Path(&o.dir, "state-dir")
	o.move.define(f)
}

// mode returns what is to be done.
func (o *options) mode(operands []string) (do func(*cli.Env, *options, []string) error, err error) {
	n := len(operands)
	switch {
	case o.move.asked:
		return moveDomU, o.checkMove(n)
	case o.Run == "":
		return nil, exit.Fail(exit.Usage, "want --run DIR")
	case o.connect && n < 1:
		return nil, exit.Fail(exit.Usage, "--connect needs a DOM0")
	case o.connect:
		do, err = connect, o.flags.Only("--connect", "--run", "--connect-timeout")
	case o.known && n < 2:
		return nil, exit.Fail(exit.Usage, "--known needs DOMU and a DOM0")
	case o.known:
		o.DomU = operands[0]
		do, err = known, o.flags.Only("--known", "--run", "--connect-timeout", "--toolstack")
	case o.DomU == "" || n > 0:
		return nil, exit.Fail(exit.Usage, "want --domu DOMU, rows on standard input, and no operands")
	case o.prepare:
		do = prepare
	case o.DryRun:
		return nil, exit.Fail(exit.Usage, "--dry-run goes with --prepare")
	default:
		do = copyAll
	}
	if err != nil {
		return nil, err
	}
	o.ConnectTimeout, o.Stall = seconds(o.timeout), seconds(o.stall)
	o.Background = o.background == "yes" && !o.Final
	return do, o.Check()
}

func connect(env *cli.Env, o *options, dom0s []string) error {
	return replicate.Connect(o.Options, dom0s, env.Stdin, func() error { return env.Print("ready\n") })
}

func known(env *cli.Env, o *options, operands []string) error {
	word, err := replicate.Known(o.Options, operands[1:])
	if err != nil {
		return err
	}
	return env.Print(word + "\n")
}

func prepare(env *cli.Env, o *options, _ []string) error {
	rows, err := o.read(env, false)
	if err != nil {
		return err
	}
	ready, failed := replicate.Prepare(o.Options, rows, log{env})
	var b strings.Builder
	for _, row := range ready {
		fmt.Fprintln(&b, row)
	}
	return cmp.Or(env.Print(b.String()), failed)
}

func copyAll(env *cli.Env, o *options, _ []string) error {
	rows, err := o.read(env, true)
	if err == nil {
		err = o.readSnapshots()
	}
	if err != nil {
		return err
	}
	return replicate.Copy(o.Options, rows, log{env})
}

// read reads the rows, and finds where this host remembers its runs.
func (o *options) read(env *cli.Env, answered bool) ([]*replicate.Row, error) {
	places, err := state.Find(o.dir)
	if err != nil {
		return nil, err
	}
	o.State = places.Dir
	return replicate.ReadRows(env.Stdin, answered)
}

// readSnapshots finds out what is read, and when that was frozen.
func (o *options) readSnapshots() error {
	o.Taken = time.Now()
	if o.snapshots != "" {
		text, err := os.ReadFile(o.snapshots)
		if err != nil {
			return exit.OpenFailed(err)
		}
		info, err := os.Stat(o.snapshots)
		if err != nil {
			return exit.OpenFailed(err)
		}
		o.Snapshots, o.Taken = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), info.ModTime()
	}
	var err error
	if o.taken != "" {
		o.Taken, err = time.Parse("2006-01-02T15:04:05Z", o.taken)
	}
	if o.Taken = o.Taken.UTC().Truncate(time.Second); err != nil || o.Taken.IsZero() {
		return exit.Fail(exit.Usage, "--taken: %q is no time as 2026-11-26T23:47:28Z", o.taken)
	}
	return nil
}

// log writes what a run has to say, a line in one write.
type log struct{ env *cli.Env }

func (l log) Say(level, words string) {
	fmt.Fprintf(l.env.Stderr, "%s %s\n", level, text.Printable(strings.ReplaceAll(words, "\n", "; ")))
}

func (l log) Progress(words string) { l.Say("progress", words) }

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// size returns a setter of an option that is passed on, and takes a size.
func size(p *string) func(string) error {
	return func(s string) error {
		*p = s
		n, err := text.ParseSize(s)
		if err == nil && n <= 0 {
			err = fmt.Errorf("it is 0")
		}
		return err
	}
}

func blockSize(p *string) func(string) error {
	return func(s string) error {
		*p = s
		n, err := text.ParseSize(s)
		if err == nil {
			err = stream.CheckBlockSize(n)
		}
		return err
	}
}
