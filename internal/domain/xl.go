package domain

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/cli"
)

// XL asks Xen's own toolstack.
type XL struct {
	timeout time.Duration
	proc    string
}

// NewXL returns the xl of this host.
func NewXL() *XL { return &XL{patience, "/proc"} }

func (x *XL) Name() string { return "xl" }

// Ask reads the short list for the state and the long one for the disks. Both
// are asked for whole: "no such domain" then can't be mistaken for "no answer",
// and no name reaches xl's command line.
func (x *XL) Ask(ctx context.Context, name string) (Answer, error) {
	a := Answer{Toolstack: x.Name(), State: "not running", Xen: true}
	out, err := output(ctx, x.timeout, "xl", "list")
	if err != nil {
		return a, noAnswer(err)
	}
	rows, err := parseXLList(string(out))
	if err != nil {
		return a, cli.Fail(cli.Unavailable, "%w", err)
	}
	out, err = output(ctx, x.timeout, "xl", "list", "-l")
	if err != nil {
		return a, noAnswer(err)
	}
	configs, err := parseXL(out)
	if err != nil {
		return a, cli.Fail(cli.Unavailable, "%w", err)
	}
	row := findRow(rows, configs, name)
	if row == nil {
		a.Restless = x.mayComeBack(rows, name)
		for _, half := range migrationHalves {
			if slices.ContainsFunc(rows, func(r xlRow) bool { return r.Name == name+half }) {
				a.State, a.Half = "known as "+name+half, true
			}
		}
		return a, nil
	}
	if row.ID == "0" {
		a.State = "Domain-0, the host itself"
		return a, nil
	}
	var active bool
	a.State, active = row.state()
	a.Restless = !active
	a.Half = isHalf(row.Name)
	for _, c := range configs {
		if strconv.FormatInt(c.DomID, 10) != row.ID {
			continue
		}
		if a.Domain, err = c.domain(); err != nil {
			return a, cli.Fail(cli.Unavailable, "%w", err)
		}
	}
	if active && a.Domain == nil { // it is being made, or goes away just now
		a.Restless = true
		return a, cli.Fail(cli.Unavailable, "xl lists %s without its disks", name)
	}
	a.Active = active && !a.Half
	return a, nil
}

// findRow finds a domain by name, UUID or id.
func findRow(rows []xlRow, configs []xlDomain, name string) *xlRow {
	id := name
	for _, c := range configs {
		if sameUUID(c.Config.Info.UUID, name) {
			id = strconv.FormatInt(c.DomID, 10)
		}
	}
	var byID *xlRow
	for i := range rows {
		switch {
		case rows[i].Name == name:
			return &rows[i]
		case rows[i].ID == id:
			byID = &rows[i]
		}
	}
	return byID
}

// mayComeBack tells whether a domain that xl does not list is being rebooted. xl
// destroys it, sleeps 2 s and makes it anew; in between there is nothing, but
// for the xl that guards it and has its log, xl-NAME.log, for standard output
// (xl_vmcontrol.c, xl_utils.c do_daemonize). A domain half made or half
// destroyed is listed as "(null)".
func (x *XL) mayComeBack(rows []xlRow, name string) bool {
	for _, row := range rows {
		if row.Name == "(null)" {
			return true
		}
	}
	logs, _ := filepath.Glob(x.proc + "/[0-9]*/fd/1")
	for _, link := range logs {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(filepath.Base(to), "xl-"+name+".log") {
			return true
		}
	}
	return false
}
