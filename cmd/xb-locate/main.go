// Command xb-locate lists the disks of a domain that is active on this host.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/text"
)

const usage = `usage: xb-locate [-c URI] [--toolstack auto|virsh|xl] [--exclude TARGET]...
                 [--all] [--json] [--note FILE] DOMAIN
       xb-locate --still FILE [-c URI] [--toolstack auto|virsh|xl]
                 [--exclude TARGET]... DOMAIN
       xb-locate [-c URI] [--exclude TARGET]... [--all] [--json] --xml FILE
       xb-locate --uuid --xml FILE
       xb-locate --active [--final] [-c URI] [--toolstack auto|virsh|xl] DOMAIN...
       xb-locate --known [-c URI] [--toolstack auto|virsh|xl]
                 [--xl-config FILE] DOMAIN...
       xb-locate --document [-c URI] [--toolstack auto|virsh|xl]
                 [--xl-config FILE] [--bundle FILE] DOMAIN
       xb-locate --store DOMAIN [-c URI] [--map A=B]... [--drop TARGET]...
                 [--state-dir DIR]

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
      --uuid             print the UUID that is kept there, if there is one
      --active           say yes or no, of several domains DOMAIN<TAB>yes|no a
                         line; busy or unknown where neither can be said
      --final            busy, too, if its memory was saved to some file
      --known            the same of whether this host knows it, active or not
      --document         print the document by which DOMAIN can be started here
                         or on another host, passwords included
      --bundle FILE      and write it to FILE with the variables of UEFI firmware
                         and the state of a TPM
      --xl-config FILE   which that is for xl (/etc/xen/DOMAIN.cfg)
      --store DOMAIN     keep the document or bundle on stdin, of DOMAIN on another
                         host, as STATE-DIR/xml/DOMAIN.xml or .cfg, with the disks
                         of this host; say what is left out or missing here
      --map A=B          the disk A of that host is B here (paths or file: URIs)
      --drop TARGET      leave out the disk TARGET
      --state-dir DIR    (default $XB_STATE_DIR or /var/lib/xen-backup)
  -v, --verbose          say which toolstack answered, and why it is a no
  -q, --quiet            no warnings
  -h, --help             this text
  -V, --version          the version

Exit status: 0 active here (or done), 1 not active here, 64 usage, 65 bad
document, 66 cannot open FILE, no document, 69 cannot ask, 73 cannot store, 74
I/O error, 75 not active but a disk is in use, not as it was noted, 78 a disk
can't be copied and is not excluded, or cannot be given another name.
`

func main() { cli.Main("xb-locate", usage, run) }

type options struct {
	uri, toolstack, xml, xlConfig string
	exclude                       []string
	all, json                     bool
	note, still                   string // files

	active, known, document, uuid bool // what is asked

	final    bool   // for a copy that is to be the last
	bundle   string // file for the document and what else belongs to the domain
	store    string // the domain whose document is on standard input
	places   map[string]string
	drop     []string
	stateDir string
}

func run(env *cli.Env, args []string) error {
	o := options{}
	f := env.Flags()
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
	f.Bool(&o.document, "document")
	f.Path(&o.xlConfig, "xl-config")
	f.Path(&o.bundle, "bundle")
	f.Bool(&o.uuid, "uuid")
	f.String(&o.store, "store")
	f.Func("map", o.addPlace)
	f.Func("drop", targets(&o.drop))
	f.Path(&o.stateDir, "state-dir")
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
	return answer(context.Background(), env, &o, operands)
}

// question returns the option that says what is asked, those that go with it, and who answers.
func (o *options) question() (option string, allowed []string, answer func(context.Context, *cli.Env, *options, []string) error) {
	ask := []string{"-c", "--connect", "--toolstack"}
	list := []string{"-c", "--connect", "--exclude", "--all", "--json"}
	switch {
	case o.active:
		return "--active", append(ask, "--final"), tellActive
	case o.known:
		return "--known", append(ask, "--xl-config"), tellKnown
	case o.document:
		return "--document", append(ask, "--xl-config", "--bundle"), printDocument
	case o.store != "":
		return "--store", []string{"-c", "--connect", "--map", "--drop", "--state-dir"}, storeDocument
	case o.still != "":
		return "--still", append(ask, "--exclude"), tellStill
	case o.uuid:
		return "--uuid", []string{"--xml"}, listDocument
	case o.xml != "":
		return "--xml", list, listDocument
	}
	return "DOMAIN", append(list, "--toolstack", "--note"), locate
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

// checkNames refuses what cannot be the names of domains.
func checkNames(names []string) error {
	for _, name := range names {
		if strings.TrimSpace(name) != name || name != text.Printable(name) {
			return exit.Fail(exit.Usage, "bad name of a domain: %q", name)
		}
	}
	return nil
}

// oneName returns the only operand.
func oneName(operands []string) (string, error) {
	if len(operands) != 1 {
		return "", exit.Fail(exit.Usage, "want one DOMAIN")
	}
	return operands[0], checkNames(operands)
}

func newLocator(o *options, judge *domain.Judge) (*domain.Locator, error) {
	toolstacks, err := domain.Installed(o.toolstack, o.uri, o.xlConfig)
	return &domain.Locator{Toolstacks: toolstacks, InUse: judge.InUse, Pause: time.Second}, err
}

// locate lists the disks of a domain that is active here.
func locate(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, err := oneName(operands)
	if err != nil {
		return err
	}
	judge := newJudge(ctx, o)
	l, err := newLocator(o, judge)
	if err != nil {
		return err
	}
	answer, err := l.Locate(ctx, name)
	if err != nil {
		return err
	}
	env.Info("%s: %s is %s", answer.Toolstack, name, answer.State)
	return list(env, o, judge, answer)
}

// listDocument lists the disks of a document of libvirt or xl.
func listDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	if o.xml == "" || len(operands) > 0 {
		return exit.Fail(exit.Usage, "want --xml FILE, and no DOMAIN")
	}
	in, name := env.Stdin, "standard input"
	if o.xml != "-" {
		f, err := os.Open(o.xml)
		if err != nil {
			return exit.Fail(exit.NoInput, "cannot read: %w", err)
		}
		defer f.Close()
		in, name = f, o.xml
	}
	d, err := domain.ParseDocument(in)
	switch {
	case err != nil:
		return badDocument(name, err)
	case o.uuid:
		return printUUID(env, d)
	}
	return list(env, o, newJudge(ctx, o), domain.Answer{Domain: d})
}

// badDocument gives the failure to read a document its status.
func badDocument(name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return exit.Fail(exit.IOError, "cannot read: %w", err)
	}
	return exit.Fail(exit.BadStream, "%s: %w", name, err)
}

func newJudge(ctx context.Context, o *options) *domain.Judge {
	virsh := domain.NewVirsh(o.uri)
	return &domain.Judge{
		Resolver: domain.Resolver{Sys: "/sys", Dev: "/dev"},
		Users:    func(path string) ([]string, error) { return blockdev.Users(path, ours) },
		Hidden:   lvm.Hidden(),
		VolumePath: func(pool, volume string) (string, error) {
			return virsh.VolumePath(ctx, pool, volume)
		},
		Exclude: o.exclude,
	}
}

// ours tells whether a process, by its comm, is a command of xen-backup: a standby that
// xb-patch writes to is no running domain.
func ours(comm string) bool { return strings.HasPrefix(comm, "xb-") }

// list prints the disks of a.Domain. If one of them can't be copied, nothing but
// what --all asks for is printed: a list that looks whole and is not would become
// a copy that is not.
func list(env *cli.Env, o *options, judge *domain.Judge, a domain.Answer) error {
	entries := judge.Disks(a.Domain)
	chosen := []domain.Entry{}
	var failed []string
	for _, e := range entries {
		switch {
		case e.Failed:
			failed = append(failed, e.Target+": "+e.Skip)
		case e.Notice != "" && (o.xml == "" || e.Skip != ""): // a document may be another host's
			env.Warn("%s: disk %s: %s", a.Domain.Name, e.Target, e.Notice)
		}
		if o.all || e.Skip == "" {
			chosen = append(chosen, e)
		}
	}
	for _, target := range o.exclude {
		if !slices.ContainsFunc(entries, func(e domain.Entry) bool { return e.Target == target }) {
			env.Warn("%s has no disk %s to exclude", a.Domain.Name, target)
		}
	}
	if failed != nil && !o.all {
		return cannotCopy(a.Domain.Name, failed)
	}
	if len(chosen) == 0 {
		env.Warn("%s has no disk to copy", a.Domain.Name)
	}
	text, err := format(o, a, chosen)
	if err != nil {
		return err
	}
	if o.note != "" && failed == nil {
		n, err := newNote(a.Domain, entries)
		if err == nil {
			err = n.write(o.note)
		}
		if err != nil {
			return err
		}
	}
	if err := env.Print(text); err != nil || failed == nil {
		return err
	}
	return cannotCopy(a.Domain.Name, failed)
}

func cannotCopy(name string, failed []string) error {
	return exit.Fail(exit.Config, "%s has disks that cannot be copied; --exclude TARGET leaves one out\n%s",
		name, strings.Join(failed, "\n"))
}

func format(o *options, a domain.Answer, entries []domain.Entry) (string, error) {
	if o.json {
		text, err := json.Marshal(struct {
			Domain    string         `json:"domain"`
			State     string         `json:"state,omitempty"`
			Toolstack string         `json:"toolstack,omitempty"`
			Disks     []domain.Entry `json:"disks"`
		}{a.Domain.Name, a.State, a.Toolstack, entries})
		if err != nil {
			return "", exit.Fail(exit.Internal, "json: %w", err)
		}
		return string(text) + "\n", nil
	}
	var b strings.Builder
	for _, e := range entries {
		columns := []string{e.Target, e.Source}
		if o.all {
			columns = append(columns, e.Skip)
		}
		for i, c := range columns {
			if columns[i] = text.Printable(strings.ReplaceAll(c, "\t", " ")); c == "" {
				columns[i] = "-" // a shell's read would join two tabs
			}
		}
		b.WriteString(strings.Join(columns, "\t") + "\n")
	}
	return b.String(), nil
}
