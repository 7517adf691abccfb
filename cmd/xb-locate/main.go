// Command xb-locate lists the disks of a domain that is active on this host.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"xen-backup/internal/allow"
	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

const usage = `usage: xb-locate [-c URI] [--toolstack auto|virsh|xl] [--exclude TARGET]...
                 [--all] [--json] [--note FILE] DOMAIN
       xb-locate --still FILE [-c URI] [--toolstack auto|virsh|xl]
                 [--exclude TARGET]... DOMAIN
       xb-locate [-c URI] [--exclude TARGET]... [--all] [--json] --xml FILE
       xb-locate --active [--final] [--moving ID] [-c URI] [--toolstack auto|virsh|xl]
                 [--allow FILE --peer HOST] DOMAIN...
       xb-locate --stuck [-c URI] [--toolstack auto|virsh|xl] DOMAIN
       xb-locate --known [-c URI] [--toolstack auto|virsh|xl]
                 [--xl-config FILE] [--allow FILE --peer HOST] DOMAIN...
       xb-locate --copy [-c URI] [--toolstack auto|virsh|xl]
                 [--exclude TARGET]... [--xl-config FILE] [--note FILE]
                 [--document-file FILE] [--bundle FILE] [--final]
                 [--dom0s LIST [--rules LIST] [--local NAME]] DOMAIN
       xb-locate --store DOMAIN [-c URI] [--format xml|xl] [--map A=B]...
                 [--drop TARGET]... [--set SET --taken TIME] [--state-dir DIR]
                 [--allow FILE --peer HOST]
       xb-locate --may promote|memory [--size N] [--allow FILE --peer HOST]
                 DOMAIN
       xb-locate --arrival keep|restore|resume|destroy|tell --moving ID [--size N]
                 [--document-file FILE] [-c URI] [--toolstack auto|virsh|xl]
                 [--allow FILE --peer HOST] DOMAIN
       xb-locate --plan --confs DIR --settings OUT|--disks|--gate-conf DOM0 [-c URI]
                 [--toolstack auto|virsh|xl] [--local NAME] [--state-dir DIR]
                 [DOMAIN...]
       xb-locate --copy-as NAME --xml FILE --map A=B... --document-file FILE
                 [--memory SIZE] [--try [-c URI] [--for TIME] [--pattern RE]
                 [--evidence PREFIX]]
       xb-locate --nowhere [-c URI] [--toolstack auto|virsh|xl] [--confs DIR]
                 [--dom0s LIST] [--local NAME] [--others-are-off] [--to-be-moved]
                 [--moving ID]
                 [--connect-timeout SECONDS] DOMAIN
       xb-locate --check-document --document-file FILE [-c URI]
                 [--trust-document] [--dry-run] [--at TIME|--at-point TIME]
                 [--state-dir DIR] [--for TIME] [--pattern RE] [--memory SIZE] DOMAIN

Print the disks of DOMAIN (a name, UUID or id), one TARGET<TAB>SOURCE a line,
if it is active on this host; else say why not and exit with status 1. Its
cdrom, floppy, empty, read-only, shareable and transient disks are left out.

  -c, --connect URI      connect virsh to URI
      --toolstack NAME   ask only virsh or xl; auto (the default) asks both
      --exclude TARGET   leave out the disk TARGET (may be repeated)
      --all              list all disks, with the reason why one is left out, or -
      --json             print one JSON object
      --note FILE        keep in FILE what --still will ask of
      --still FILE       no list: status 0 if all is as it was when FILE was noted,
                         else 75: another run of DOMAIN, or other disks
      --xml FILE         list the disks of what virsh dumpxml or xl list -l has
                         printed, or of a configuration file of xl (- is stdin),
                         active or not
      --active           say yes or no, of several domains DOMAIN<TAB>yes|no a
                         line; busy or unknown where neither can be said
      --final            the domain is to be shut off, not active; busy, too, if its
                         memory was saved to some file
      --stuck            say yes if libvirt has paused DOMAIN because of an I/O error,
                         as when there is no room where its disks are; else no
      --known            the same of whether this host knows it, active or not
      --copy             all that its copy needs, a line a disk: target, source, size,
                         sector size, owner, mode, UUID, format of the document
      --document-file FILE
                         keep the document by which DOMAIN can be started here or
                         on another host, passwords included, as FILE.xml, or
                         FILE.cfg for xl
      --bundle FILE      and write it to FILE with the variables of UEFI firmware
                         and the state of a TPM
      --xl-config FILE   which that is for xl (/etc/xen/DOMAIN.cfg)
      --store DOMAIN     keep the document or bundle on stdin, of DOMAIN on another
                         host, as STATE-DIR/xml/DOMAIN.xml or .cfg, with the disks
                         of this host; say what is left out or missing here
      --format xml|xl    that it must have, for libvirt or xl
      --map A=B          the disk A of that host is B here (paths or file: URIs)
      --drop TARGET      leave out the disk TARGET
      --set SET          say in it that it belongs to the disks of this set, as
                         xb-patch --hold names it
      --taken TIME       and when these were frozen: 2026-11-26T23:47:28Z
      --check-document   refuse the document that --store has kept if it says what does
                         not concern the guest alone (77); else write it to
                         --document-file, for a start here, and list its disks
      --copy-as NAME     write the document of a test copy of the domain in --xml to
                         --document-file: with another UUID, without network, devices
                         and ports, with the disks of --map, and a console beside it
      --memory SIZE      so much it has, at least 1M (as much as the domain); with
                         --check-document this, --for and --pattern are only refused
                         if --try would refuse them
      --try              and start it, wait until its guest agent answers, or its
                         console says "login:", print that, and remove it
      --for TIME         so long at most: 90s, 5m (the default), 1h
      --pattern RE       wait until a line of its console matches this extended
                         regular expression, and nothing else
      --evidence PREFIX  keep what the console and the screen showed at last in
                         PREFIX.log and PREFIX.ppm
      --nowhere          demand that DOMAIN is active nowhere: not here, and not on the
                         other hosts of its conf file in --confs and of --dom0s, which
                         are asked over ssh; print these
      --others-are-off   those that cannot be reached are off: make sure of that, else
                         it may run twice
      --to-be-moved      that it is active elsewhere is said only if all else is well
      --connect-timeout SECONDS
                         until a host answers (15)
      --trust-document   once: this host may do all that it says
      --dry-run          do not remember that
      --at TIME          that of then: as kept with what xb-snap rollback would make
                         of the standbys
      --at-point TIME    as kept with the latest point in time not after TIME
      --state-dir DIR    (default: $XB_STATE_DIR, or STATE_DIR of
                         /etc/xen-backup/host.conf, or /var/lib/xen-backup)
      --may promote|memory
                         status 0 if whoever asks may have DOMAIN started here from its
                         standbys, or restored from its memory, else 77
      --arrival WORD     DOMAIN comes from another host with its memory: keep that, of
                         --size N bytes on stdin, in STATE-DIR/move; restore DOMAIN from
                         it by the document in --document-file, paused; let it resume,
                         and remove the memory; destroy what does not run yet, with the
                         memory; or tell how far it is: none, kept, half (it may
                         be half restored), paused, running
      --size N           with --arrival keep: it has N bytes; with --may memory: 73 if
                         there is no room for so many
      --moving ID        the move that this is of, which is in nobody's way that is its
                         own (default: $XB_MOVING)
      --allow FILE       with --active, --known, --store: answer only of what FILE,
                         as gate.conf, allows, and keep only a document of that
      --peer HOST        with --allow: whom
      --plan             read the conf files of xen-backup.sh, of all DomUs or those
                         named; print what a run asks of each: N, DOMU, is it active
                         here, is it known here, the other hosts of DOM0S, why it is
                         not active. A conf file with a mistake is lost: 78
      --confs DIR        where they are: DIR/*.conf
      --settings OUT     keep the settings of each as OUT/N, for a shell to source
      --disks            in place of that what should be copied, in the form that
                         xb-patch(1) expects
      --gate-conf DOM0   in place of that what gate.conf on DOM0 needs for the copies
                         of what runs here to come there
      --dom0s LIST       hosts, as DOM0S of xen-backup.sh: a line a disk and other
                         host, this host, the other one and the disk there first
      --rules LIST       DOM0:A=B: the disk A is B on DOM0, as MAP of xen-backup.sh
      --local NAME       this host's name, if its addresses do not tell
      --words            begin each line on standard error with its level: err,
                         warning or info
  -v, --verbose          say which toolstack answered, and why it is a no
  -q, --quiet            no warnings
  -h, --help             this text
  -V, --version          the version

Exit status: 0 active here (or done), 1 not active here, no sign of life, 64 usage, 65 bad
document, 66 cannot open FILE, no document, 69 cannot ask, 73 cannot store, 74
I/O error, 75 not active but a disk is in use, not as it was noted, 77 not
trusted, 78 a disk can't be copied and is not excluded, or cannot be given
another name.
`

func main() { cli.Main("xb-locate", usage, run) }

type options struct {
	uri, toolstack, xml, xlConfig string
	exclude                       []string
	all, json                     bool
	note, still                   string // files

	active, known, stuck, copy, plan bool // what is asked

	final    bool   // for a copy that is to be the last
	kept     string // file for the document
	bundle   string // file for the document and what else belongs to the domain
	store    string // the domain whose document is on standard input
	format   string // that it must have
	places   domain.Places
	may      string // what somebody wants to have done
	arrival  string // what the host wants that a domain comes from
	moving   string // the move that is asking
	size     int64
	check    bool // the document that is kept
	trust    bool
	dryRun   bool
	at       time.Time // of when it is to be
	ofPoint  bool      // whatever the standbys are now
	copyAs   string    // the name of a test copy
	memory   int64
	try      bool // and start it
	trial    domain.Trial
	nowhere  bool
	off      bool // hosts that cannot be reached are
	moved    bool // it is to be moved from where it is active
	timeout  int  // seconds until one answers
	drop     []string
	set      domain.Set
	stateDir string
	dom0s    dom0s.Order
	confs    string // directory of conf files
	settings string // that for what they say
	disks    bool
	gateConf string // the host that it is for

	allow, peer string // a file, and whom it allows what
	allowed     *allow.Rules
}

func run(env *cli.Env, args []string) error {
	o := options{}
	f := env.Flags()
	env.LevelFlag(f)
	f.String(&o.uri, "c,connect")
	f.Func("toolstack", cli.OneOf(&o.toolstack, "auto", "virsh", "xl"))
	f.Path(&o.xml, "xml")
	f.Func("exclude", targets(&o.exclude))
	f.Bool(&o.all, "all")
	f.Bool(&o.json, "json")
	f.Path(&o.note, "note")
	f.Path(&o.still, "still")
	f.Bool(&o.active, "active")
	f.Bool(&o.final, "final")
	f.Bool(&o.known, "known")
	f.Bool(&o.stuck, "stuck")
	f.Bool(&o.copy, "copy")
	f.Path(&o.kept, "document-file")
	f.Path(&o.xlConfig, "xl-config")
	f.Path(&o.bundle, "bundle")
	f.String(&o.store, "store")
	f.Func("format", cli.OneOf(&o.format, string(domain.XML), string(domain.XL)))
	f.Func("map", o.places.Add)
	f.Func("drop", targets(&o.drop))
	f.String(&o.set.Name, "set")
	f.String(&o.set.Taken, "taken")
	f.Path(&o.stateDir, "state-dir")
	f.Bool(&o.plan, "plan")
	f.Path(&o.confs, "confs")
	f.Path(&o.settings, "settings")
	f.Bool(&o.disks, "disks")
	f.String(&o.gateConf, "gate-conf")
	f.Path(&o.allow, "allow")
	f.String(&o.peer, "peer")
	f.Func("arrival", cli.OneOf(&o.arrival, "keep", "restore", "resume", "destroy", "tell"))
	o.moving = os.Getenv("XB_MOVING")
	f.String(&o.moving, "moving")
	f.Size(&o.size, "size")
	f.Func("may", cli.OneOf(&o.may, allow.Verbs...))
	f.Bool(&o.check, "check-document")
	f.Bool(&o.trust, "trust-document")
	f.Bool(&o.dryRun, "dry-run")
	f.Func("at", cli.Time(&o.at))
	f.Func("at-point", func(s string) error { o.ofPoint = true; return cli.Time(&o.at)(s) })
	f.String(&o.copyAs, "copy-as")
	f.Func("memory", parsed(&o.memory, memory))
	f.Bool(&o.try, "try")
	o.trial.For, o.timeout = 5*time.Minute, 15
	f.Func("for", parsed(&o.trial.For, text.ParseAge))
	f.Func("pattern", parsed(&o.trial.Pattern, regexp.CompilePOSIX))
	f.Path(&o.trial.Evidence, "evidence")
	f.Bool(&o.nowhere, "nowhere")
	f.Bool(&o.off, "others-are-off")
	f.Bool(&o.moved, "to-be-moved")
	f.Func("connect-timeout", cli.Number(&o.timeout))
	f.Func("dom0s", words(&o.dom0s.Dom0s))
	f.Func("rules", words(&o.dom0s.Rules))
	f.String(&o.dom0s.Local, "local")
	operands, err := f.Parse(args)
	if err != nil {
		return err
	}
	if o.toolstack == "" {
		o.toolstack = "auto"
	}
	question, allowed, answer := o.question()
	if err := f.Only(question, allowed...); err != nil {
		return err
	}
	if o.allowed, err = readAllowed(&o); err != nil {
		return err
	}
	return answer(context.Background(), env, &o, operands)
}

// readAllowed finds out what the peer may ask for; nil: anything.
func readAllowed(o *options) (*allow.Rules, error) {
	switch {
	case (o.allow == "") != (o.peer == ""):
		return nil, exit.Fail(exit.Usage, "--allow and --peer go together")
	case o.allow == "":
		return nil, nil
	}
	return allow.Read(o.allow, o.peer)
}

// targets returns a setter of an option that names disks and may be repeated.
func targets(list *[]string) func(string) error {
	return func(target string) error {
		if target == "" {
			return errors.New("empty target")
		}
		*list = append(*list, target)
		return nil
	}
}

// parsed returns a setter of an option whose value has some form.
func parsed[T any](p *T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		value, err := parse(s)
		if err == nil {
			*p = value
		}
		return err
	}
}

// memory reads how much a test copy is to have: 0 would be as much as the domain has.
func memory(s string) (int64, error) {
	n, err := text.ParseSize(s)
	if err == nil && n < 1<<20 {
		err = fmt.Errorf("%s is less than 1M", s)
	}
	return n, err
}

// farToolstack is what other hosts are to ask; "" leaves it to them.
func (o *options) farToolstack() string {
	if o.toolstack == "auto" {
		return ""
	}
	return o.toolstack
}

// oneName returns the only operand.
func oneName(operands []string) (string, error) {
	if len(operands) != 1 {
		return "", exit.Fail(exit.Usage, "want one DOMAIN")
	}
	return operands[0], domain.CheckNames(operands...)
}

func newJudge(ctx context.Context, o *options) *domain.Judge {
	return domain.NewJudge(ctx, o.uri, o.exclude, lvm.Hidden())
}

// newLocator returns who asks the toolstacks, and who judges the disks.
func newLocator(ctx context.Context, o *options) (*domain.Locator, *domain.Judge, error) {
	judge := newJudge(ctx, o)
	places, err := state.Find(o.stateDir)
	if err != nil {
		return nil, nil, err
	}
	toolstacks, err := domain.Installed(o.toolstack, o.uri, o.xlConfig)
	return &domain.Locator{Toolstacks: toolstacks, InUse: judge.InUse, Pause: time.Second,
		Moves: &state.Moves{Dir: places.Dir, Ours: o.moving}}, judge, err
}

// ask returns the domain that is asked for, who asks the toolstacks for it, and who judges its disks.
func ask(ctx context.Context, o *options, operands []string) (name string, l *domain.Locator, judge *domain.Judge, err error) {
	if name, err = oneName(operands); err == nil {
		l, judge, err = newLocator(ctx, o)
	}
	return name, l, judge, err
}
