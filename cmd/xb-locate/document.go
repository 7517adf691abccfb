package main

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
)

// storeDocument keeps another host's document, made one of this host.
func storeDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	if len(operands) > 0 {
		return exit.Fail(exit.Usage, "--store goes without another DOMAIN: the document is on standard input")
	}
	places, err := state.Find(o.stateDir)
	if err != nil {
		return err
	}
	store := domain.NewStore(ctx, places.Dir, o.uri)
	store.Places, store.Dropped, store.Set, store.Format = o.places, o.drop, o.set, domain.Format(o.format)
	store.Allow = o.allowed
	return store.Keep(o.store, env.Stdin, env)
}

// checkDocument releases the document of another host that is kept here, for a start of the domain.
func checkDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, err := oneName(operands)
	if err == nil && o.kept == "" {
		err = exit.Fail(exit.Usage, "--check-document needs --document-file FILE")
	}
	if err != nil {
		return err
	}
	places, err := state.Find(o.stateDir)
	if err != nil {
		return err
	}
	m, err := standby.StartOf(places.Dir, name, o.at, o.ofPoint)
	if err != nil {
		return err
	}
	store, own := domain.NewStore(ctx, places.Dir, o.uri), false
	store.Moment, own = m.Document(places.Dir)
	store.DryRun = o.dryRun
	rows, err := store.Release(name, o.kept, o.trust, env)
	if err != nil {
		return err
	}
	if own {
		rows = strings.ReplaceAll(rows, "\n", "\t"+m.Of.UTC().Format(time.RFC3339)+"\n")
	}
	return env.Print(rows)
}

// copyDocument makes the document of a test copy, and with --try starts it.
func copyDocument(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	if len(operands) > 0 || o.xml == "" || o.xml == "-" || !filepath.IsAbs(o.kept) {
		return exit.Fail(exit.Usage, "--copy-as needs --xml FILE and --document-file /PATH, and no DOMAIN")
	}
	if err := domain.CheckPausable(o.copyAs); err != nil {
		return err
	}
	t := o.trial
	t.Name, t.Disks, t.Memory, t.Out, t.URI = o.copyAs, o.places, o.memory, o.kept, o.uri
	if !o.try {
		return t.Make(o.xml)
	}
	if err := program.EndWithParent(); err != nil {
		return err
	}
	if err := t.Make(o.xml); err != nil {
		return err
	}
	sign, err := t.Run(ctx, env)
	return cmp.Or(err, env.Print(sign+"\n"))
}
