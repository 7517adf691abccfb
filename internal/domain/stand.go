package domain

import (
	"context"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// Stand is how a domain stands, as far as whoever pauses it must know.
type Stand string

const (
	Runs   Stand = "running"
	Paused Stand = "paused"
	Absent Stand = "not running" // or on its way
)

// CheckPausable refuses a name by which a toolstack could take the domain for another one, or
// for an option.
func CheckPausable(name string) error {
	if err := CheckNames(name); err != nil {
		return err
	}
	if name == "" || strings.HasPrefix(name, "-") || idForm().MatchString(name) {
		return exit.Fail(exit.Usage, "want the name of a domain that is no number and begins with no hyphen: %q", name)
	}
	return nil
}

// VirshStand asks libvirt, with one program, how a domain stands.
func VirshStand(ctx context.Context, uri, name string) (Stand, error) {
	out, err := newVirsh(uri).run(ctx, "domstate", "--domain="+name)
	if err != nil {
		return "", err
	}
	switch strings.TrimSpace(string(out)) {
	case "running", "idle", "no state":
		return Runs, nil
	case "paused":
		return Paused, nil
	}
	return Absent, nil
}

// XLStand asks xl.
func XLStand(ctx context.Context, name string) (Stand, error) {
	out, err := program.Ask(ctx, patience, "xl", "list")
	if err != nil {
		return "", err
	}
	rows, err := parseXLList(string(out))
	if err != nil {
		return "", exit.Fail(exit.Unavailable, "%w", err)
	}
	row := findRow(rows, nil, name)
	if row == nil {
		return Absent, nil
	}
	switch _, active := row.state(); {
	case !active:
		return Absent, nil
	case row.Flags[2] == 'p':
		return Paused, nil
	}
	return Runs, nil
}
