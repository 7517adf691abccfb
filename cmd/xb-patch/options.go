package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"xen-backup/internal/allow"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// command is what the user asks for.
type command struct {
	session
	standby.Options
	flags    *cli.Flags
	operands []string

	// What is to be done, if it is not to apply or hold a delta. At most one is given.
	dryRun, recover, abandon, discard, state, record, list, info bool
	prepare, auto, promote                                       bool
	commit, adopt                                                string

	coming  comingOptions
	report  recordOptions
	listing listOptions
	start   promoteOptions

	json    bool
	summary string
	pace    cli.Pace
	allow   string // the file of what the peer may touch
}

// parse reads the command line, and refuses what means nothing.
func parse(env *cli.Env, args []string) (*command, error) {
	c := &command{session: session{Env: env}, flags: env.Flags(),
		Options: standby.Options{Toolstack: "auto", Session: os.Getenv("SSH_CONNECTION")}}
	c.Read = &c.read
	c.define()
	var err error
	if c.operands, err = c.flags.ParsePaths(args); err != nil {
		return nil, err
	}
	if err := cmp.Or(c.checkModes(), c.checkOptions()); err != nil || c.info {
		return c, err
	}
	if c.list || c.promote || c.record && len(c.operands) == 0 {
		return c, errors.Join(c.findPlaces(), c.readAllowed())
	}
	c.Target = c.operands[0]
	for _, target := range c.operands {
		err = errors.Join(err, cli.Distinct(target, c.summary))
	}
	return c, errors.Join(err, cli.CheckSummary(c.summary), c.findPlaces(), c.readAllowed())
}

// readAllowed finds out what the peer may touch.
func (c *command) readAllowed() (err error) {
	if c.allow != "" {
		c.Allow, err = allow.Read(c.allow, c.Peer)
	}
	return err
}

// findPlaces completes where the state and the spools are.
func (c *command) findPlaces() error {
	places, err := state.Find(c.StateDir)
	c.StateDir, c.Spool = string(places.Dir), cmp.Or(c.Spool, places.Spool)
	c.HostKeep, c.Limit = places.Keep, places.Limit
	return err
}

// define tells the parser of all options.
func (c *command) define() {
	f := c.flags
	f.Path(&c.Spool, "spool")
	f.Bool(&c.InPlace, "in-place")
	f.Bool(&c.Create, "create")
	f.String(&c.Owner, "owner")
	f.Func("mode", parseMode(&c.Mode))
	f.Func("hold", parseSet(&c.Set))
	f.Func("taken", cli.Time(&c.Taken))
	f.Func("keep", func(s string) (err error) { c.Keep, err = state.ParseKeep(s); return err })
	f.Func("commit", parseSet(&c.commit))
	f.Bool(&c.prepare, "prepare")
	f.Bool(&c.auto, "auto")
	c.coming.define(c, f)
	f.Bool(&c.dryRun, "dry-run")
	f.Bool(&c.recover, "recover")
	f.Bool(&c.abandon, "abandon-apply")
	f.Bool(&c.Force, "force-diverged")
	f.Bool(&c.discard, "discard-changes")
	f.Func("disk", parseDiskOrDomU(&c.Disk))
	f.Func("uuid", parseUUID(&c.UUID))
	f.Func("sector-size", parseSectorSize(&c.SectorSize))
	f.Func("toolstack", cli.OneOf(&c.Toolstack, "auto", "virsh", "xl"))
	f.Func("adopt", cli.Disk(&c.adopt))
	f.Bool(&c.state, "state")
	f.Bool(&c.record, "record")
	c.report.define(f)
	f.Bool(&c.list, "list")
	c.listing.define(f)
	f.Bool(&c.promote, "promote")
	c.start.define(f)
	f.String(&c.Peer, "peer")
	f.Path(&c.StateDir, "state-dir")
	f.Bool(&c.info, "info")
	f.Bool(&c.json, "json")
	f.PaceFlags(&c.pace)
	f.ProgressFlag(&c.session.mode)
	f.Bool(&c.heartbeat, "heartbeat")
	f.Path(&c.summary, "summary")
	f.Path(&c.allow, "allow")
}

// modes are the options that say what is to be done, each with those that go with it; nil:
// that is left to its rules.
func (c *command) modes() []mode {
	all := []mode{
		{"--prepare", c.prepare, prepareOptions},
		{"--auto", c.auto, autoOptions},
		{"--dry-run", c.dryRun && !c.record && !c.prepare && !c.promote, nil},
		{"--commit", c.commit != "", []string{"--allow", "--peer", "--state-dir", "--background", "--read-limit", "--progress",
			"--heartbeat", "--summary"}},
		{"--recover", c.recover, []string{"--allow", "--peer", "--disk", "--uuid", "--toolstack", "--state-dir", "--background",
			"--read-limit", "--progress", "--heartbeat", "--summary"}},
		{"--abandon-apply", c.abandon, []string{"--state-dir"}},
		{"--adopt", c.adopt != "", []string{"--uuid", "--state-dir"}},
		{"--discard-changes", c.discard, []string{"--peer", "--disk", "--toolstack", "--state-dir", "--progress", "--heartbeat"}},
		{"--state", c.state, []string{"--state-dir"}},
		{"--record", c.record, append(c.report.names(), "--disk", "--peer", "--taken", "--dry-run", "--state-dir")},
		{"--list", c.list, append(c.listing.names(), "--state-dir")},
		{"--promote", c.promote, []string{"--document", "--disks-of-different-times", "--at", "--dry-run", "--toolstack", "--state-dir"}},
		{"--info", c.info, nil},
	}
	return slices.DeleteFunc(all, func(m mode) bool { return !m.given })
}

type mode struct {
	option  string
	given   bool
	allowed []string
}

// checkModes refuses two modes, and operands and options that do not go with one.
func (c *command) checkModes() error {
	modes := c.modes()
	switch {
	case len(modes) > 1:
		return exit.Fail(exit.Usage,
			"--prepare, --auto, --dry-run, --commit, --recover, --abandon-apply, --adopt, --discard-changes, --state, --record, --list, --promote and --info "+
				"exclude each other")
	case c.info:
		return nil
	case c.json && !c.list:
		return exit.Fail(exit.Usage, "--json goes with --info and --list")
	case c.list:
		return cmp.Or(c.flags.Only("--list", modes[0].allowed...), c.checkList())
	case c.record:
		return cmp.Or(c.flags.Only("--record", modes[0].allowed...), c.checkRecord())
	case c.promote:
		return cmp.Or(c.flags.Only("--promote", modes[0].allowed...), c.start.parse(c.operands, c.dryRun))
	case c.commit != "" && len(c.operands) == 0:
		return exit.Fail(exit.Usage, "--commit wants all targets of the set")
	case c.commit == "" && len(c.operands) != 1:
		return exit.Fail(exit.Usage, "want one device or file, got %d operands", len(c.operands))
	case slices.Contains(c.operands, "-"):
		return exit.Fail(exit.Usage, "the target is a device or file, not a stream")
	case c.commit != "" && c.Peer == "":
		return exit.Fail(exit.Usage, "--commit needs --peer HOST")
	case len(modes) == 1 && modes[0].allowed != nil:
		return c.flags.Only(modes[0].option, modes[0].allowed...)
	}
	return nil
}

// checkOptions refuses options that do not go together.
func (c *command) checkOptions() error {
	switch {
	case c.allow != "" && !(c.prepare || c.auto || c.commit != "" || c.recover || c.listing.when):
		return exit.Fail(exit.Usage, "--allow goes with --prepare, --auto, --commit, --recover and --list --when")
	case c.allow != "" && c.Peer == "":
		return exit.Fail(exit.Usage, "--allow needs --peer HOST")
	case c.list && c.allow == "" && c.Peer != "":
		return exit.Fail(exit.Usage, "--list takes --peer with --allow only")
	case c.info, c.record, c.list, c.promote:
		return nil
	case c.Disk != "" && !strings.Contains(c.Disk, "/"):
		return exit.Fail(exit.Usage, "--disk wants DOMU/DISK, as in domu1/xvda, and not %q", c.Disk)
	case c.UUID != "" && c.Disk == "" && c.adopt == "":
		return exit.Fail(exit.Usage, "--uuid goes with --disk or --adopt")
	case (c.Owner != "" || c.Mode != 0) && !c.Create && !c.auto:
		return exit.Fail(exit.Usage, "--owner and --mode go with --create or --auto")
	case c.Spool != "" && c.InPlace:
		return exit.Fail(exit.Usage, "--in-place uses no spool")
	case c.Force && c.InPlace:
		return exit.Fail(exit.Usage, "--in-place is for first copies: what has diverged is overwritten through a spool")
	case c.Set != "" && c.Taken.IsZero():
		return exit.Fail(exit.Usage, "--hold needs --taken TIME")
	case c.Set == "" && !c.Taken.IsZero() && !c.auto:
		return exit.Fail(exit.Usage, "--taken goes with --hold or --auto")
	case c.Keep != nil && !c.auto:
		return exit.Fail(exit.Usage, "--keep goes with --auto")
	case c.coming.given != "" && !c.prepare && !c.auto:
		return exit.Fail(exit.Usage, "%s goes with --prepare or --auto", c.coming.given)
	case c.prepare || c.auto:
		return c.checkComing()
	case c.Set != "" && !c.dryRun && (c.Peer == "" || c.Disk == ""):
		return exit.Fail(exit.Usage, "--hold needs --peer HOST and --disk DOMU/DISK")
	}
	return nil
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

// parseDiskOrDomU is cli.Disk for where a whole DomU may be meant, too.
func parseDiskOrDomU(p *string) func(string) error {
	return func(s string) error {
		if strings.Contains(s, "/") {
			return cli.Disk(p)(s)
		}
		*p = s
		return cli.Disk(new(string))(s + "/disk")
	}
}

var uuidForm = text.Pattern(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func parseUUID(p *string) func(string) error {
	return func(s string) error {
		if *p = strings.ToLower(s); !uuidForm().MatchString(*p) {
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

// parseSectorSize reads the argument of --sector-size.
func parseSectorSize(size *int64) func(string) error {
	return func(s string) (err error) {
		if *size, err = text.ParseSize(s); err == nil && (*size < 512 || *size&(*size-1) != 0) {
			err = exit.Fail(exit.Usage, "%q is no sector size", s)
		}
		return err
	}
}
