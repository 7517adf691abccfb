// Command xb-snap takes snapshots of the disks of running domains, so that there
// is a frozen image to read, and takes them away again.
package main

import (
	"fmt"
	"slices"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

const usage = `Usage: xb-snap create [--size SIZE] [--owner PID|none] [--dry-run] SOURCE...
       xb-snap remove SNAP...
       xb-snap list [--json]
       xb-snap prune
       xb-snap guard [--owner PID]
       xb-snap check SNAP
       xb-snap changes --since OLD NEW

Take snapshots of logical volumes, thick or thin, and of files on a file system
with reflinks (XFS, btrfs).

  create   take one of each SOURCE, one right after another, and print their
           paths, one a line; if one fails, none remains
  remove   remove snapshots that xb-snap took
  list     show them: snapshot, origin, kind, size, use, owner
  prune    remove those whose owner is dead, and print their paths
  guard    watch the file systems and thin pools of an owner's snapshots, until
           that process ends, and give snapshots up before guests find no room
  check    tell how full a snapshot is; status 82 if it is invalid or given up
  changes  print the extents that differ between two snapshots of a logical
           volume, OFFSET LENGTH in bytes, one a line, from the records of LVM

      --size SIZE      what is written to a disk while it has a snapshot (1G): so
                       much a thick one can take, and so much is free for others
      --owner PID      the process that uses the snapshots (the parent process);
                       "none" keeps them until they are removed by name
      --dry-run          create nothing; the status tells whether it could be done
      --since OLD      the older snapshot
      --json           list as JSON
      --state-dir DIR  where records are kept (XB_STATE_DIR, /var/lib/xen-backup)
  -v, --verbose        say what is done
  -q, --quiet          no warnings
  -h, --help           show this help
  -V, --version        show the version

Exit status: 0 done, 64 usage, 66 no such volume, file or snapshot, 69 LVM or
device-mapper cannot be asked, 73 cannot create or no room, 74 I/O error,
75 busy, 77 not made by xb-snap, 78 cannot be frozen, 82 the snapshot is
invalid or given up. See xb-snap(1).
`

func main() { cli.Main("xb-snap", usage, run) }

var commands = map[string]func(*cli.Env, []string) error{
	"create": create, "remove": remove, "list": list, "prune": prune, "guard": guard, "check": check, "changes": changes,
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

// stateFlag registers --state-dir.
func stateFlag(f *cli.Flags, dir *string) { f.Path(dir, "state-dir") }

func check(env *cli.Env, args []string) error {
	var dir string
	flags := env.Flags()
	stateFlag(flags, &dir)
	operands, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 {
		return exit.Fail(exit.Usage, "check needs one SNAP")
	}
	use, err := checkFile(operands[0], state.Find(dir))
	if err == nil && use == "" {
		use, err = lvm.Check(operands[0])
	}
	if err != nil {
		return err
	}
	return env.Print(use + "\n")
}

func changes(env *cli.Env, args []string) error {
	var since, dir string
	flags := env.Flags()
	flags.Path(&since, "since")
	stateFlag(flags, &dir)
	operands, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 || since == "" {
		return exit.Fail(exit.Usage, "changes needs --since OLD and one NEW")
	}
	extents, err := lvm.Changes(since, operands[0], string(state.Find(dir)))
	if err != nil {
		return err
	}
	var lines []byte
	for off, n := range extents.All {
		lines = fmt.Appendln(lines, off, n)
		if len(lines) > 1<<16 {
			if err := env.Print(string(lines)); err != nil {
				return err
			}
			lines = lines[:0]
		}
	}
	return env.Print(string(lines))
}
