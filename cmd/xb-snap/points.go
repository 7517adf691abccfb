package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// pointJSON is a point in time of a standby as list --points --json shows it.
type pointJSON struct {
	Standby string    `json:"standby"`
	Time    time.Time `json:"time"`
	Came    time.Time `json:"came"`
	Disk    string    `json:"disk,omitempty"`
	Set     string    `json:"set,omitempty"`
	Image   string    `json:"image"`
	Path    string    `json:"snapshot"`
	Kind    string    `json:"kind"`
	Valid   bool      `json:"valid"`
}

// listPoints is list --points.
func listPoints(env *cli.Env, standbys []string, at time.Time, dir state.Dir, asJSON bool) error {
	find := func(dir state.Dir) ([]*snapshot.Snapshot, error) { return snapshot.Points(dir, env.Warn) }
	if !at.IsZero() {
		find = func(dir state.Dir) ([]*snapshot.Snapshot, error) { return snapshot.PointsAt(standbys, at, dir) }
	} else if len(standbys) > 0 {
		find = func(dir state.Dir) ([]*snapshot.Snapshot, error) {
			points, damaged, err := snapshot.PointsOf(standbys, dir)
			return points, errors.Join(damaged, err)
		}
	}
	points, err := find(dir)
	strays, strayErr := snapshot.Strays(standbys, dir)
	for _, path := range strays {
		env.Warn("%s may be a point that this host has no record of (any more): see RUNBOOK in xen-backup(8)", path)
	}
	err = errors.Join(err, strayErr)
	all, lines := []pointJSON{}, strings.Builder{}
	for _, s := range points {
		p := s.Point
		if strings.HasSuffix(s.Origin, "/") { // LVM forgets an origin that was removed
			s.Origin = "-"
		}
		all = append(all, pointJSON{s.Origin, p.Taken.UTC(), p.Came.UTC(), p.Disk, p.Set, p.Image, s.Path, s.Kind, s.Valid})
		if !s.Valid {
			continue // nothing is left of it
		}
		lines.WriteString(strings.Join([]string{text.Operand(s.Origin), p.Taken.UTC().Format(time.RFC3339), cmp.Or(p.Set, "-"),
			cmp.Or(p.Image, "-"), text.Operand(s.Path)}, "\t") + "\n")
	}
	if asJSON {
		lines.Reset()
		json.NewEncoder(&lines).Encode(all)
	}
	return errors.Join(err, env.Print(lines.String()))
}

// rollback makes standbys one of their points.
func rollback(env *cli.Env, args []string) error {
	var at time.Time
	o := standby.Options{}
	flags := snapFlags(env, &o.StateDir)
	flags.Func("at", cli.Time(&at))
	flags.Func("toolstack", cli.OneOf(&o.Toolstack, "auto", "virsh", "xl"))
	standbys, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if at.IsZero() || len(standbys) == 0 {
		return exit.Fail(exit.Usage, "rollback needs --at TIME and at least one STANDBY")
	}
	places, err := state.Find(o.StateDir)
	if err != nil {
		return err
	}
	o.StateDir, o.Spool, o.Toolstack = string(places.Dir), places.Spool, cmp.Or(o.Toolstack, "auto")
	b := &back{Env: env}
	defer b.stop()
	of, err := standby.Rollback(b, o, at, standbys)
	if err == nil {
		env.Info("as of %s: %s", of.UTC().Format(time.RFC3339), strings.Join(standbys, " "))
	}
	return err
}

// back shows whoever has standbys roll back what is done: standby.User.
type back struct {
	*cli.Env
	progress *cli.Progress
}

func (b *back) Begin(func() bool) standby.Progress {
	b.stop()
	b.progress = b.StartProgress("auto")
	return b.progress
}

func (b *back) stop() {
	if b.progress != nil {
		b.progress.Stop()
	}
}

// Commit has nothing to do: nobody has to listen.
func (b *back) Commit() {}
