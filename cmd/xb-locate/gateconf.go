package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/dom0s"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// printGateConf prints the lines that another host's gate.conf needs for the copies of what runs here to come there.
func printGateConf(ctx context.Context, env *cli.Env, o *options, all []*planned, l *domain.Locator, judge *domain.Judge) error {
	var lost error
	wanted := false
	for _, p := range all {
		if !slices.Contains(p.remotes, o.gateConf) {
			continue
		}
		wanted = true
		lines, err := p.gateLines(ctx, env, o, l, judge)
		if err != nil {
			env.Error("%v", err)
			lost = exit.Answer(exit.StatusOf(err))
		}
		if err := env.Print(lines); err != nil {
			return err
		}
	}
	if !wanted {
		return exit.Fail(exit.Config, "no conf file in %s has a DomU copied to %s", o.confs, o.gateConf)
	}
	return lost
}

// gateLines are those of one DomU.
func (p *planned) gateLines(ctx context.Context, env *cli.Env, o *options, l *domain.Locator, judge *domain.Judge) (string, error) {
	if p.active != "yes" {
		return fmt.Sprintf("# %s: ask where it runs, for %s\n", p.name, p.because()), nil
	}
	answer, err := l.Locate(ctx, p.name)
	if err != nil {
		return "", err
	}
	judge.Exclude = p.conf.Exclude()
	disks, err := judge.List(answer, true, env)
	if err != nil {
		return "", err
	}
	order := dom0s.Order{Dom0s: p.conf.Dom0s(), Local: o.dom0s.Local, Rules: p.conf.Rules()}
	var copied, named []domain.Entry
	for _, e := range disks.Disks {
		switch {
		case e.Skip == "":
			copied, order.Sources = append(copied, e), append(order.Sources, text.Operand(e.Source))
		case e.IsNamed():
			named = append(named, e)
		}
	}
	plan, err := order.Make(ctx, env)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, e := range copied {
		target := plan.Targets[o.gateConf][i]
		fmt.Fprintf(&b, "%s %s/%s %s%s\n", plan.Local, p.name, e.Target, target, p.mayCreate(target))
	}
	for _, e := range named {
		fmt.Fprintf(&b, "%s %s/%s %s document-only\n", plan.Local, p.name, e.Target, text.Operand(e.Source))
	}
	return b.String(), nil
}

// mayCreate is the word that lets a missing volume be created, where its conf file wants it.
func (p *planned) mayCreate(target string) string {
	if vg := p.conf.CreateLV(); vg != "" && strings.HasPrefix(target, "/dev/"+vg+"/") {
		return " create-lv"
	}
	return ""
}
