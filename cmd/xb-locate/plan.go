package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/conf"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// planned is what a conf file says of a DomU, and what this host says of it.
type planned struct {
	conf *conf.Conf
	name string

	local   string // this host's name among its Dom0s; "-" if it is not there, "" if that cannot be told
	remotes []string
	active  string // yes, no, busy or unknown
	reason  error  // why it is not active here
	known   string // of one that is not active here: yes, no or unknown
}

// plan reads conf files, and prints what a run of xen-backup.sh has to do, or what should be copied.
func plan(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	answers := 0
	for _, given := range []bool{o.settings != "", o.disks, o.gateConf != ""} {
		if given {
			answers++
		}
	}
	if o.confs == "" || answers != 1 {
		return exit.Fail(exit.Usage, "--plan needs --confs DIR, and one of --settings OUT, --disks and --gate-conf DOM0")
	}
	if err := domain.CheckNames(operands...); err != nil {
		return err
	}
	words := runWords{env}
	all, lost := readPlan(ctx, o, operands, words)
	if len(all) == 0 {
		return lost
	}
	places, err := state.Find(o.stateDir)
	if err != nil {
		return err
	}
	l, judge, err := newLocator(ctx, o)
	if err != nil {
		words.say((*cli.Env).Error, "## "+env.Name+": ", "%v", []any{err}) // nothing is known of any
	} else {
		sayActive(ctx, l, all)
		sayKnown(ctx, l, all, places)
	}
	sayLocal(ctx, all, o.dom0s.Local)
	if o.gateConf != "" {
		return cmp.Or(printGateConf(ctx, env, o, all, l, judge), lost)
	}
	for _, p := range all {
		row := []string{strconv.Itoa(p.conf.Number), p.name, p.active, p.known, cmp.Or(strings.Join(p.remotes, " "), "-"), p.because()}
		if o.disks {
			row = []string{p.name, p.local, strings.Join(p.remotes, " "), p.active, p.disks(ctx, l, judge)}
		}
		if err := env.Print(strings.Join(row, "\t") + "\n"); err != nil {
			return err
		}
	}
	return lost
}

// readPlan reads the conf files, and keeps their settings. What is lost is said.
func readPlan(ctx context.Context, o *options, names []string, words runWords) (all []*planned, lost error) {
	confs, lost := conf.Dir{Path: o.confs}.Read(ctx, names, words)
	for _, c := range confs {
		if o.settings != "" {
			if err := c.Write(o.settings); err != nil {
				return nil, err
			}
		}
		all = append(all, &planned{conf: c, name: c.DomU(), active: "unknown", known: "unknown"})
	}
	if o.settings != "" && len(confs) > 0 {
		if err := conf.WriteExcluded(o.settings, confs); err != nil {
			return nil, err
		}
	}
	return all, lost
}

// runWords says something as the log of a run has it.
type runWords struct{ env *cli.Env }

func (w runWords) Error(format string, args ...any) { w.say((*cli.Env).Error, "## ", format, args) }
func (w runWords) Warn(format string, args ...any)  { w.say((*cli.Env).Warn, "## ", format, args) }
func (w runWords) Lost(err error) {
	w.say((*cli.Env).Error, fmt.Sprintf("### ERROR %d: ", exit.StatusOf(err)), "%v", []any{err})
}

func (w runWords) say(how func(*cli.Env, string, ...any), prefix, format string, args []any) {
	env := *w.env
	if env.Words {
		env.Name = ""
		format = prefix + format
	}
	how(&env, format, args...)
}

// sayActive asks for all at once: each toolstack takes longer than its answer.
func sayActive(ctx context.Context, l *domain.Locator, all []*planned) {
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.name
	}
	for i, said := range l.SayActive(ctx, names, false, quiet{}) {
		all[i].active, all[i].reason = said.Word, cmp.Or(said.Why, said.Err)
	}
}

// quiet keeps to itself what a run says.
type quiet struct{}

func (quiet) Error(string, ...any) {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Note(string, ...any)  {}
func (quiet) Info(string, ...any)  {}

// sayKnown asks for those that are not here. Of whom there is a document, the standby is here.
func sayKnown(ctx context.Context, l *domain.Locator, all []*planned, places state.Places) {
	var absent []*planned
	var names []string
	for _, p := range all {
		switch {
		case p.active != "no":
		case domain.HasDocument(places.Dir, p.name):
			p.known = "yes"
		default:
			absent, names = append(absent, p), append(names, p.name)
		}
	}
	if len(absent) == 0 {
		return
	}
	for i, said := range l.SayKnown(ctx, names) {
		absent[i].known = said.Word
	}
}

// because returns the reason, on one line.
func (p *planned) because() string {
	if p.reason == nil {
		return "-"
	}
	return strings.Join(strings.Fields(text.Printable(p.reason.Error())), " ")
}

// sayLocal finds this host among the Dom0s of each.
func sayLocal(ctx context.Context, all []*planned, local string) {
	var names []string
	for _, p := range all {
		names = append(names, p.conf.Dom0s()...)
	}
	here := dom0s.Here(ctx, names, local)
	for _, p := range all {
		p.local = "-"
		for _, dom0 := range p.conf.Dom0s() {
			switch {
			case here[dom0] == dom0s.Yes:
				p.local = dom0
				continue
			case here[dom0] == dom0s.Unknown && p.local == "-":
				p.local = ""
			}
			p.remotes = append(p.remotes, dom0)
		}
	}
}

// disks returns those that are copied; what is wrong with them a run says.
func (p *planned) disks(ctx context.Context, l *domain.Locator, judge *domain.Judge) string {
	if p.active != "yes" {
		return ""
	}
	answer, err := l.Locate(ctx, p.name)
	if err != nil {
		return ""
	}
	var names []string
	judge.Exclude = p.conf.Exclude()
	if disks, _ := judge.List(answer, false, quiet{}); disks != nil {
		for _, e := range disks.Disks {
			names = append(names, e.Target)
		}
	}
	return strings.Join(names, " ")
}
