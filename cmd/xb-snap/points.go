package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/snapshot"
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
func listPoints(env *cli.Env, standbys []string, dir state.Dir, asJSON bool) error {
	find := snapshot.Points
	if len(standbys) > 0 {
		find = func(dir state.Dir) ([]*snapshot.Snapshot, error) { return snapshot.PointsOf(standbys, dir) }
	}
	points, err := find(dir)
	all, lines := []pointJSON{}, strings.Builder{}
	for _, s := range points {
		p := s.Point
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
