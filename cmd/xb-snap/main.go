// Command xb-snap takes snapshots of the disks of running domains, so that there
// is a frozen image to read, and takes them away again.
package main

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/pause"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-snap create [--size SIZE] [--owner PID|none] [--dry-run] [--or-none]
                      [--uri] [--pause DOMAIN | --freeze DOMAIN | --freeze-or-go DOMAIN]
                      [-c URI] [--toolstack auto|virsh|xl] SOURCE...
       xb-snap remove [--unless-kept] SNAP...
       xb-snap keep --for PEER --disk DOMU/DISK --summary FILE --taken TIME
                    [--basis IMAGE] [--auto] [--pool-limit PERCENT] SNAP
       xb-snap base --peer PEER SOURCE
       xb-snap list [--json]
       xb-snap list --points [--at TIME] [--json] [STANDBY...]
       xb-snap rollback --at TIME STANDBY...
       xb-snap prune [--plan FILE | --bases [--peers "PEER..." [--domus "DOMU..."]]]
       xb-snap guard [--owner PID]
       xb-snap guard --bases --once [--pool-limit PERCENT]
       xb-snap check SNAP
       xb-snap changes --since OLD NEW

Take snapshots of logical volumes, thick or thin, and of files on a file system
with reflinks (XFS, btrfs).

  create   take one of each SOURCE, one right after another, and print their
           paths, one a line; if one fails, none remains
  remove   remove snapshots that xb-snap took
  keep     have a snapshot, whose image is about to be sent, stay as the base of a
           peer; status 1 if it does not for the guest's sake
  base     print what is remembered of bases of SOURCE that certainly still are what
           they were, in JSON, one a line
  list     show them: snapshot, origin, kind, size, use, owner; with --points those
           of standbys: standby, time, set, image, snapshot; with --at those that
           rollback would take, in the order of the STANDBYs
  rollback make the STANDBYs, all of a DomU, the latest point in time that is not
           after TIME; what they were becomes a point, too
  prune    remove those whose owner is dead, and print their paths; with --bases
           instead the bases that nothing needs any more; with --plan both
  guard    watch the file systems and thin pools of an owner's snapshots, until
           that process ends, and give snapshots up before guests find no room;
           with --bases --once, to be run every minute, instead look once at what
           bases and points in time take from, and remove the oldest where it is
           too full, bases first
  check    tell how full a snapshot is; status 82 if it is invalid or given up
  changes  print the extents that differ between two snapshots of a disk, OFFSET
           LENGTH in bytes, one a line, and at last "end EXTENTS BYTES", from the
           records of LVM or the file system

      --size SIZE      what is written to a disk while it has a snapshot (1G): so
                       much a thick one can take, and so much is free for others
      --owner PID      the process that uses the snapshots (the parent process);
                       "none" keeps them until they are removed by name
      --pause DOMAIN   pause DOMAIN for the moment of the snapshots, if there are several
      --freeze DOMAIN  have its guest agent freeze its file systems for that moment, so
                       that nothing is to be repaired in them; no snapshots without that
      --freeze-or-go DOMAIN
                       the same, but where it fails only a warning
  -c, --connect URI    connect virsh to URI
      --toolstack NAME
                       of DOMAIN: virsh or xl; auto (the default) finds it out
      --writable       the snapshots are for a guest that is started from them
      --or-none        where not all can be taken, or only if bases give way, take none,
                       and say why with -v
      --dry-run        create nothing; the status tells whether it could be done
      --uri            print a path that means something to a shell as a file: URI
      --since OLD      the older snapshot
      --unless-kept    leave those that have become bases, and remove those bases of
                       the same disks that nothing needs any more
      --for PEER       the host that gets the image
      --disk DOMU/DISK
                       what SNAP is of
      --summary FILE   of the xb-delta that read SNAP
      --taken TIME     when SNAP was taken: 2026-11-26T23:47:28Z
      --basis IMAGE    what PEER said it has: HASH:BLOCKSIZE:SIZE:DIGEST
      --auto           not where that costs the guest much: on a thick volume
      --pool-limit PERCENT
                       of a file system or pool, above which bases give way
                       (POOL_LIMIT of /etc/xen-backup/host.conf, or 80)
      --peer PEER      whose bases
      --at TIME        when a point's image was taken: 2026-11-26T23:47:28Z
      --bases          prune or guard bases
      --points         list points in time of the STANDBYs (of all)
      --once           look once
      --peers "PEER..."
                       all who get copies: what is remembered of others is
                       forgotten, so that "" removes all bases
      --domus "DOMU..."
                       the DomUs of which --peers is (all)
      --plan FILE      all who get copies, as xb-locate --plan has printed it: of its
                       DomUs, what is remembered of others is forgotten
      --json           list as JSON
      --state-dir DIR  where records are kept (default: $XB_STATE_DIR, or STATE_DIR
                       of /etc/xen-backup/host.conf, or /var/lib/xen-backup)
      --words          begin each line on standard error with its level: err,
                       warning or info
  -v, --verbose        say what is done
  -q, --quiet          no warnings
  -h, --help           show this help
  -V, --version        show the version

Exit status: 0 done, 1 not kept, 64 usage, 65 no summary of SNAP, 66 no such volume, file or snapshot, 69 LVM or
device-mapper cannot be asked, 73 cannot create or no room, 74 I/O error,
75 busy, 78 cannot be frozen, 79 not made by xb-snap, 80 the standby has
diverged, 82 the snapshot is invalid or given up, 83 an apply is unfinished. See xb-snap(1).
`

func main() { cli.Main("xb-snap", usage, run) }

var commands = map[string]func(*cli.Env, []string) error{
	"create": create, "remove": remove, "keep": keep, "base": bases, "list": list, "rollback": rollback, "prune": prune, "guard": guard,
	"check": check, "changes": changes, "watchdog": watchdog,
}

func run(env *cli.Env, args []string) error {
	at := slices.IndexFunc(args, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
	if at < 0 {
		if _, err := env.Flags().Parse(args); err != nil {
			return err
		}
		return exit.Fail(exit.Usage, "no command given")
	}
	command := commands[args[at]]
	if command == nil {
		return exit.Fail(exit.Usage, "unknown command %q", args[at])
	}
	return command(env, slices.Concat(args[:at], args[at+1:]))
}

// snapFlags returns a parser of the flags that all subcommands have.
func snapFlags(env *cli.Env, dir *string) *cli.Flags {
	flags := env.Flags()
	env.LevelFlag(flags)
	flags.Path(dir, "state-dir")
	return flags
}

// withState does what needs the state directory.
func withState(flag string, do func(state.Dir) error) error {
	places, err := state.Find(flag)
	if err != nil {
		return err
	}
	return do(places.Dir)
}

// noOperands parses the arguments of a subcommand that takes none but flags.
func noOperands(flags *cli.Flags, args []string, command string) error {
	operands, err := flags.Parse(args)
	if err == nil && len(operands) > 0 {
		err = exit.Fail(exit.Usage, "%s takes no operands", command)
	}
	return err
}

// printer prints paths, one a line.
func printer(env *cli.Env) snapshot.Tell {
	return func(paths ...string) error { return env.Print(strings.Join(paths, "\n") + "\n") }
}

// operands returns paths as words that mean the same to a shell.
func operands(paths []string) (words []string) {
	for _, path := range paths {
		words = append(words, text.Operand(path))
	}
	return words
}

func create(env *cli.Env, args []string) error {
	var owner, dir string
	var asURI bool
	order := snapshot.Order{Size: snapshot.DefaultSize}
	flags := snapFlags(env, &dir)
	still := stillFlags(flags)
	flags.Size(&order.Size, "size")
	flags.String(&owner, "owner")
	flags.Bool(&order.DryRun, "dry-run")
	flags.Bool(&order.OrNone, "or-none")
	flags.Bool(&order.Writable, "writable")
	flags.Bool(&asURI, "uri")
	sources, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return exit.Fail(exit.Usage, "create needs at least one SOURCE")
	}
	if order.Size <= 0 {
		return exit.Fail(exit.Usage, "--size must be more than 0")
	}
	if order.Owner, err = snapshot.FindOwner(owner); err != nil {
		return err
	}
	if order.Still, err = still.stillness(env, len(sources)); err != nil {
		return err
	}
	tell := printer(env)
	if asURI {
		tell = func(paths ...string) error { return printer(env)(operands(paths)...) }
	}
	return withState(dir, func(dir state.Dir) error {
		order.State = dir
		return snapshot.Create(sources, order, env, tell)
	})
}

// stillOptions are what create is told of the domain whose disks the sources are.
type stillOptions struct {
	pause.Order
	ways []string // that were given
}

func stillFlags(flags *cli.Flags) *stillOptions {
	o := &stillOptions{Order: pause.Order{Toolstack: "auto", Watchdog: "watchdog"}}
	for _, way := range []string{"pause", "freeze", "freeze-or-go"} {
		flags.Func(way, func(domain string) error {
			o.Domain, o.Freeze, o.OrGo = domain, way != "pause", way == "freeze-or-go"
			o.ways = append(o.ways, "--"+way)
			return nil
		})
	}
	flags.String(&o.URI, "c,connect")
	flags.Func("toolstack", cli.OneOf(&o.Toolstack, "auto", "virsh", "xl"))
	return o
}

// stillness returns what keeps the domain still, nil if nothing shall. The one disk of a domain is
// of one instant by itself, but not its file systems.
func (o *stillOptions) stillness(env *cli.Env, disks int) (snapshot.Stillness, error) {
	switch {
	case len(o.ways) == 0:
		return nil, nil
	case len(o.ways) > 1:
		return nil, exit.Fail(exit.Usage, "%s exclude each other", strings.Join(o.ways, " and "))
	}
	still, err := pause.New(o.Order, env)
	if err != nil || disks == 1 && !o.Freeze {
		return nil, err
	}
	return still, nil
}

// watchdog is a process of its own that create starts, and nobody else.
func watchdog(env *cli.Env, args []string) error {
	return pause.Watchdog(args, env.Stdin, os.NewFile(3, "reports"))
}

func remove(env *cli.Env, args []string) error {
	var dir string
	var unlessKept bool
	flags := snapFlags(env, &dir)
	flags.Bool(&unlessKept, "unless-kept")
	paths, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return exit.Fail(exit.Usage, "remove needs at least one SNAP")
	}
	return withState(dir, func(dir state.Dir) error {
		if unlessKept {
			return snapshot.RemoveUnlessKept(paths, dir)
		}
		return snapshot.Remove(paths, dir)
	})
}

func list(env *cli.Env, args []string) error {
	var asJSON, ofPoints bool
	var dir string
	var at time.Time
	flags := snapFlags(env, &dir)
	flags.Bool(&asJSON, "json")
	flags.Bool(&ofPoints, "points")
	flags.Func("at", cli.Time(&at))
	standbys, err := flags.ParsePaths(args)
	switch {
	case err != nil:
	case !ofPoints && (len(standbys) > 0 || !at.IsZero()):
		err = exit.Fail(exit.Usage, "list takes operands and --at with --points only")
	case !at.IsZero() && len(standbys) == 0:
		err = exit.Fail(exit.Usage, "--at needs a STANDBY")
	}
	if err != nil {
		return err
	}
	places, err := state.Find(dir)
	if err != nil {
		return err
	}
	if ofPoints {
		return listPoints(env, standbys, at, places.Dir, asJSON)
	}
	all, err := snapshot.List(places.Dir, env)
	var lines strings.Builder
	if asJSON {
		json.NewEncoder(&lines).Encode(append([]*snapshot.Snapshot{}, all...)) // [] if there is none
	} else {
		for _, s := range all {
			lines.WriteString(s.String() + "\n")
		}
	}
	return errors.Join(err, env.Print(lines.String()))
}

func check(env *cli.Env, args []string) error {
	var dir string
	operands, err := snapFlags(env, &dir).ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 {
		return exit.Fail(exit.Usage, "check needs one SNAP")
	}
	places, err := state.Find(dir)
	if err != nil {
		return err
	}
	use, err := snapshot.Check(operands[0], places.Dir)
	if err != nil {
		return err
	}
	return env.Print(use + "\n")
}

func changes(env *cli.Env, args []string) error {
	var since, dir string
	flags := snapFlags(env, &dir)
	flags.Path(&since, "since")
	operands, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 || since == "" {
		return exit.Fail(exit.Usage, "changes needs --since OLD and one NEW")
	}
	places, err := state.Find(dir)
	if err != nil {
		return err
	}
	extents, err := snapshot.Changes(since, operands[0], places.Dir)
	if err != nil {
		return err
	}
	return extents.WriteText(env.Out())
}
