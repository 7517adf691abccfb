package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/replicate"
)

// nowhere demands that a domain is active on no host on which it may be: here, on those of its conf file and those named.
// It prints the other ones.
func nowhere(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, _, err := ask(ctx, o, operands)
	if err == nil {
		err = domain.CheckPausable(name) // it becomes a word of a command on another host
	}
	if err != nil {
		return err
	}
	others := slices.Clone(o.dom0s.Dom0s)
	if o.confs != "" {
		others = append(others, dom0sOf(ctx, env, o, name)...)
	}
	others = slices.Compact(slices.Sorted(slices.Values(others)))
	err = notHere(ctx, l, name)
	if err == nil && len(others) > 0 {
		asked := replicate.Options{DomU: name, Toolstack: o.farToolstack(), Moving: o.moving, ConnectTimeout: time.Duration(o.timeout) * time.Second}
		err = replicate.Elsewhere(asked, others, o.off, o.moved, runWords{env}.Warn)
	}
	if err != nil {
		runWords{env}.Lost(err)
		return exit.Answer(exit.StatusOf(err))
	}
	return env.Print(strings.Join(append(others, ""), "\n"))
}

// notHere demands that it is not active on this host.
func notHere(ctx context.Context, l *domain.Locator, name string) error {
	said := l.SayActive(ctx, []string{name}, false, quiet{})[0]
	if said.Word == "yes" {
		return exit.Fail(exit.Elsewhere, "DomU %s runs on this Dom0", name)
	}
	return said.Err
}

// dom0sOf returns the other hosts to which its conf file here would copy it.
func dom0sOf(ctx context.Context, env *cli.Env, o *options, name string) (others []string) {
	words := runWords{env}
	confs, err := readPlan(ctx, o, []string{name}, words)
	sayLocal(ctx, confs, o.dom0s.Local)
	for _, p := range confs {
		others = append(others, p.remotes...)
	}
	if err != nil || len(others) == 0 {
		words.Warn("DomU %s: no conf file in %s would copy it from here: write one, with DOM0S", name, o.confs)
	}
	return others
}
