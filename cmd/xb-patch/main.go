// Command xb-patch applies a delta to a target so that the target is always a
// whole image: see xb-patch(1).
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/user"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/standby"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-patch [OPTION]... DEV|FILE < DELTA
       xb-patch --dry-run [OPTION]... DEV|FILE < DELTA
       xb-patch --hold SET --taken TIME --peer HOST --disk DOMU/DISK
                [OPTION]... DEV|FILE < DELTA
       xb-patch --prepare --peer HOST --disk DOMU/DISK --size N [OPTION]... DEV|FILE
       xb-patch --auto --peer HOST --disk DOMU/DISK [OPTION]... DEV|FILE < DELTA
       xb-patch --commit SET --peer HOST [OPTION]... DEV|FILE...
       xb-patch --recover DEV|FILE
       xb-patch --adopt DOMU/DISK [--uuid UUID] DEV|FILE
       xb-patch --discard-changes [--peer HOST] [--disk DOMU/DISK] DEV|FILE
       xb-patch --state DEV|FILE
       xb-patch --record --peer HOST --disk DOMU/DISK --target T --stages "0 0 80"
                [--sent SUMMARY] [OPTION]... SOURCE < WORDS
       xb-patch --record --peer HOST|- --disk DOMU --stages "69" [OPTION]...
       xb-patch --list [--json] [--metrics FILE] [DOMU...]
       xb-patch --list --expected FILE|- --max-age AGE [--json] [--metrics FILE]
       xb-patch --list --order DOMU...
       xb-patch --list --since TIME
       xb-patch --list --when DOMU/DISK...
       xb-patch --promote --document FILE [--disks-of-different-times]
                [--dry-run [--at TIME]] DOMU/DISK=DEV|FILE...
       xb-patch --info [--json] [FILE]

Receive a delta, prove it and the target's content, and only then write: the
target holds the old image or the new one, or is flagged until --recover has
finished it.

      --spool DIR        keep the delta in DIR until it is applied
                         (default: SPOOL_DIR of /etc/xen-backup/host.conf,
                         or below the state directory)
      --in-place         write while the delta arrives, without a spool; only for
                         a first copy, where there is nothing to lose
      --create           create FILE if it does not exist; never below /dev
      --owner USER[:GROUP]
                         with --create, --auto: whose FILE is to be (default: the caller's)
      --mode MODE        with --create, --auto: its permissions, octal (default: 600)
      --hold SET         prove and keep the delta, and write it when the set of all
                         disks of the DomU is committed; with --in-place: write it,
                         as one of the set
      --taken TIME       with --hold, --auto: when the source took its snapshots
                         (2026-11-26T23:47:28Z)
      --keep RULE        with --auto: of which times the source wants what DEV holds
                         to be kept, as 24h:hourly+7d:daily+4w:weekly, a number of
                         the latest, or no; this host's KEEP decides first
      --commit SET       make all targets that are held for SET the new images, or
                         none of them
      --prepare          for xen-backup.sh, before there is a snapshot: finish what was
                         interrupted, refuse what will be refused, and say what
                         DEV can take; with --dry-run: change nothing
      --auto             for xen-backup.sh: decide by the state whether to write while
                         the delta arrives or to spool, and whether to create
      --size N           with --prepare: the image has N bytes
  -b, --block-size SIZE  with --prepare: as xb-sig will be told (4K)
      --hash NAME        with --prepare: as xb-sig will be told (xxh64)
      --have IMAGE       with --prepare: the source still has this image, as
                         HASH:BLOCKSIZE:SIZE:DIGEST; may be repeated
      --create-lv VG     with --prepare, --auto: a missing DEV is created there
      --first-copy MODE  with --prepare, --auto: in-place, where nobody knows of
                         DEV, or spool (default)
      --dry-run          write nothing; prove everything and say what it would do;
                         with --record: only print
      --recover          finish the apply that was interrupted on DEV, and on the
                         other disks of its set
      --abandon-apply    give an interrupted apply up, and with it the image on
                         DEV: it needs a full copy then
      --force-diverged   overwrite changes on DEV that exist nowhere else
      --discard-changes  consent to lose what DEV, which has diverged, holds now, and
                         say what that is: for a day, one delta of its disk from
                         its peer may overwrite it
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
      --record           remember how a copy of SOURCE to the peer ended, or what
                         failed for a whole DomU, and print what is to be logged
      --stages STATUSES  with --record: of all stages of the pipeline, as the shell
                         saw them; the exit status is the one that tells the cause
      --step STEP        with --record: what was done: copy (the default), prepare
                         or verify; of a DomU commit, document, ask, connect,
                         snapshot, locate, still or other (the default)
      --stalled SECONDS  with --record: it was ended after so long without progress
      --sent SUMMARY     with --record: the file of xb-delta's --summary
      --target T         with --record: what the standby is called there
      --verified         with --record: it was compared with its source, too
      --final            with --record: the DomU was shut off
      --set SET          with --record: that the copy came in
      --last TIME        with --record: when both hosts last had one image
      --list             tell what is remembered of all runs
      --order            with --list: print the DOMUs, the one with the oldest copy
                         first
      --since TIME       with --list: say in one line what was done since, also
                         by seconds as date +%s prints them
      --expected FILE    with --list: judge whether all DomUs in FILE are copied:
                         status 0 all are, 1 one is older than --max-age, 2 one
                         fails, was never copied or is twice as old, 3 unknown
      --max-age AGE      with --expected: as 26h
      --metrics FILE     with --list: write FILE for Prometheus, too
      --when             with --list: say of when this host's standby is of the
                         disks DOMU/DISK, and whether it is of one set
      --promote          say whether the DomU can be started here from the standbys
                         of all its disks, and of when they are; then keep all runs
                         away from them until standard input ends
      --document FILE    with --promote: the document by which it will be started
      --disks-of-different-times
                         with --promote: also if they are not of one moment
      --at TIME          with --promote --dry-run: as xb-snap rollback would make
                         them
      --peer HOST        the other host: what was sent to a third one is newer
                         than what it brings, and not overwritten
      --allow FILE       touch only what FILE, as gate.conf, allows the host of --peer
      --state-dir DIR    where this host remembers its devices
                         (default: $XB_STATE_DIR, or STATE_DIR of host.conf,
                         or /var/lib/xen-backup)
      --background       let the reads and writes of guests on this host go first
      --read-limit RATE  read at most RATE bytes a second of DEV
      --info             describe the signature or delta in FILE or on stdin
      --json             with --info, --list: as a JSON object
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
	c, err := parse(env, args)
	if err != nil {
		return err
	}
	defer c.stop()
	c.Pace = c.StartPace(c.pace)
	switch {
	case c.info && c.json:
		return env.PrintInfo(c.flags, c.operands, inspect.JSON)
	case c.info:
		return env.PrintInfo(c.flags, c.operands, inspect.Text)
	case c.prepare:
		return c.prepareTarget()
	case c.state:
		return c.printState()
	case c.record:
		return c.recordRun()
	case c.list:
		return c.printList()
	case c.promote:
		return c.promoteDisks()
	case c.commit != "":
		deltas, err := standby.Commit(c, c.Options, c.commit, c.operands)
		if err != nil {
			return err
		}
		return c.summarizeAll(deltas, c.summary)
	case c.recover:
		d, err := standby.Recover(c, c.Options)
		if d == nil || err != nil {
			return err
		}
		return c.summarize(*d, c.summary)
	case c.abandon:
		return standby.Abandon(c, c.Options)
	case c.adopt != "":
		c.Disk = c.adopt
		return standby.Adopt(c, c.Options)
	case c.discard:
		return c.discardChanges()
	}
	return c.patch()
}

// patch applies, holds or, with --dry-run, only proves the delta on standard input.
func (c *command) patch() error {
	in, err := c.BinaryIn()
	if err != nil {
		return err
	}
	var d rdiff.Delta
	if c.dryRun {
		if d, err = standby.DryRun(c, c.Options, in); err == nil {
			err = c.Print(fmt.Sprintf("%s: would write %d blocks and zero %d of %d bytes each; image size %d, now %d\n",
				c.Target, d.Literals, d.Zeroes, d.BlockSize, d.Source.Size, d.Basis.Size))
		}
	} else {
		apply := standby.Patch
		if c.auto {
			apply = standby.Auto
		}
		d, err = apply(c, c.Options, in)
	}
	if err != nil {
		return err
	}
	return c.summarize(d, c.summary)
}

// discardChanges is --discard-changes.
func (c *command) discardChanges() error {
	consent, err := standby.Discard(c, c.Options, userName())
	if err != nil {
		return err
	}
	return c.Print(fmt.Sprintf("%s may be overwritten until %s, once, by an image of %s from %s; lost will be %s\n", c.Target,
		consent.Until().Format("2006-01-02 15:04:05 MST"), consent.Disk, cmp.Or(consent.Peer, "any host that is not named"),
		consent.Image))
}

// userName returns the name of whoever started the command.
func userName() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return text.Printable(name)
	}
	if u, err := user.Current(); err == nil {
		return text.Printable(u.Username)
	}
	return fmt.Sprintf("user %d", os.Getuid())
}

// printState is --state.
func (c *command) printState() error {
	m, err := standby.State(c.Options)
	if err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return exit.Fail(exit.Internal, "state: %w", err)
	}
	return c.Print(string(text) + "\n")
}
