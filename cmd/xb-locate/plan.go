package main

import (
	"bufio"
	"cmp"
	"context"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// planned is what a conf file says of a DomU, and what this host says of it.
type planned struct {
	name           string
	dom0s, exclude []string

	local   string // this host's name in dom0s; "-" if it is not there, "" if that cannot be told
	remotes []string
	active  string // yes, no, busy or unknown
	reason  error  // why it is not active here
	known   string // of one that is not active here: yes, no or unknown
}

// plan reads DomUs, and prints what a run of xen-backup.sh has to do, or what should be copied.
func plan(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	if len(operands) > 0 {
		return exit.Fail(exit.Usage, "--plan reads DomUs from standard input")
	}
	all, err := readPlan(env)
	if err != nil || len(all) == 0 {
		return err
	}
	places, err := state.Find(o.stateDir)
	if err != nil {
		return err
	}
	l, judge, err := newLocator(ctx, o)
	if err != nil {
		env.Error("%v", err) // nothing is known of any
	} else {
		sayActive(ctx, l, all)
		sayKnown(ctx, l, all, places)
	}
	sayLocal(ctx, all, o.dom0s.Local)
	for _, p := range all {
		row := []string{p.name, p.local, strings.Join(p.remotes, " "), p.active, ""}
		if !o.disks {
			row = []string{p.name, p.active, p.known, cmp.Or(strings.Join(p.remotes, " "), "-"), p.because()}
		} else if p.active == "yes" {
			row[4] = p.disks(ctx, l, judge, env)
		}
		if err := env.Print(strings.Join(row, "\t") + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// readPlan reads lines DOMU<TAB>DOM0S<TAB>EXCLUDE.
func readPlan(env *cli.Env) (all []*planned, err error) {
	lines := bufio.NewScanner(env.Stdin)
	for lines.Scan() {
		columns := strings.Split(lines.Text(), "\t")
		if len(columns) != 3 {
			return nil, exit.Fail(exit.BadStream, "want DOMU<TAB>DOM0S<TAB>EXCLUDE, not %q", lines.Text())
		}
		if err := domain.CheckNames(columns[0]); err != nil {
			return nil, err
		}
		all = append(all, &planned{name: columns[0], dom0s: strings.Fields(columns[1]), exclude: strings.Fields(columns[2]),
			active: "unknown", known: "unknown"})
	}
	if err := lines.Err(); err != nil {
		return nil, exit.Fail(exit.IOError, "cannot read the DomUs: %w", err)
	}
	return all, nil
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
		names = append(names, p.dom0s...)
	}
	here := dom0s.Here(ctx, names, local)
	for _, p := range all {
		p.local = "-"
		for _, dom0 := range p.dom0s {
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
func (p *planned) disks(ctx context.Context, l *domain.Locator, judge *domain.Judge, env *cli.Env) string {
	answer, err := l.Locate(ctx, p.name)
	if err != nil {
		return ""
	}
	var names []string
	judge.Exclude = p.exclude
	if disks, _ := judge.List(answer, false, quiet{}); disks != nil {
		for _, e := range disks.Disks {
			names = append(names, e.Target)
		}
	}
	return strings.Join(names, " ")
}
