// Command xb-sig writes the signature of a device or file: see xb-sig(1).
package main

import (
	"errors"

	"xen-backup/internal/allow"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-sig [OPTION]... DEV|FILE|-
       xb-sig --info [--json] [FILE]

Read a block device, a file or standard input (-) and write its signature, one
hash a block, to standard output, for xb-delta.

  -b, --block-size SIZE  compare in blocks of SIZE, 4K (default) to 1M
      --hash NAME        xxh64 (default), or sha256 where guests are hostile
      --size SIZE        sign only the first SIZE bytes
      --missing-ok       a target that does not exist has a signature of size 0
      --background       let guests' own reads and writes go first
      --read-limit RATE  read at most RATE bytes a second
      --allow FILE       sign only what FILE, as gate.conf, allows the host of --peer
      --peer HOST        with --allow: who asks
      --state-dir DIR    where this host remembers its devices
                         (default: $XB_STATE_DIR, or STATE_DIR of
                         /etc/xen-backup/host.conf, or /var/lib/xen-backup)
      --info             describe the signature or delta in FILE or on stdin
      --json             with --info: as a JSON object
      --progress[=WHEN]  show progress: always, auto (default) or never
      --heartbeat        say on stderr every ten seconds whether it goes on
      --summary FILE     write the figures of the run to FILE as JSON
  -v, --verbose          say more
  -q, --quiet            say only errors
  -h, --help             print this help
  -V, --version          print the version

Sizes are bytes, or have a unit K, M, G or T (powers of 1024).
Exit status: 0 done, 64 usage, 65 wrong size or bad stream, 66 no such device, 73
cannot create the summary, 74 I/O error, 76 not a stream (--info), 78 unusable
state, 83 an apply on DEV is unfinished. See xb-sig(1).
`

func main() { cli.Main("xb-sig", usage, run) }

type options struct {
	blockSize int64
	hash      stream.Hash
	basis     standby.BasisOptions
	info      bool
	json      bool
	progress  string
	heartbeat bool
	pace      cli.Pace
	summary   string

	allow, peer string // a file, and whom it allows what
}

func run(env *cli.Env, args []string) error {
	o := options{blockSize: stream.DefaultBlockSize, hash: stream.XXH64, basis: standby.BasisOptions{Size: -1}}
	f := env.Flags()
	f.Func("b,block-size", func(s string) (err error) {
		if o.blockSize, err = text.ParseSize(s); err == nil {
			err = stream.CheckBlockSize(o.blockSize)
		}
		return err
	})
	f.Func("hash", func(s string) (err error) { o.hash, err = stream.ParseHash(s); return err })
	f.Size(&o.basis.Size, "size")
	f.Bool(&o.basis.MissingOK, "missing-ok")
	f.Path(&o.allow, "allow")
	f.String(&o.peer, "peer")
	f.Path(&o.basis.StateDir, "state-dir")
	f.Bool(&o.info, "info")
	f.Bool(&o.json, "json")
	f.ProgressFlag(&o.progress)
	f.Bool(&o.heartbeat, "heartbeat")
	f.PaceFlags(&o.pace)
	f.Path(&o.summary, "summary")
	operands, err := f.ParsePaths(args)
	switch {
	case err != nil:
		return err
	case o.info && o.json:
		return env.PrintInfo(f, operands, inspect.JSON)
	case o.info:
		return env.PrintInfo(f, operands, inspect.Text)
	case (o.allow == "") != (o.peer == ""):
		return exit.Fail(exit.Usage, "--allow and --peer go together")
	case o.json:
		return exit.Fail(exit.Usage, "--json goes with --info")
	case len(operands) != 1:
		return exit.Fail(exit.Usage, "want one device or file, got %d operands", len(operands))
	case operands[0] == "-" && (o.basis.Size >= 0 || o.basis.MissingOK || o.pace.Limited() || o.allow != ""):
		return exit.Fail(exit.Usage, "--size, --missing-ok, --read-limit and --allow need a device or file")
	}
	if err := errors.Join(cli.Distinct(operands[0], o.summary), cli.CheckSummary(o.summary)); err != nil {
		return err
	}
	if o.allow != "" {
		rules, err := allow.Read(o.allow, o.peer)
		if err != nil {
			return err
		}
		o.basis.Allow = rules
	}
	out, err := env.BinaryOut()
	if err != nil {
		return err
	}
	o.basis.Pace = env.StartPace(o.pace)
	if operands[0] == "-" {
		return signInput(env, out, o)
	}
	places, err := state.Find(o.basis.StateDir)
	if err != nil {
		return err
	}
	o.basis.Target, o.basis.StateDir = operands[0], string(places.Dir)
	return signTarget(env, out, o)
}
