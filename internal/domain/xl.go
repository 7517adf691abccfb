package domain

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

// xl asks Xen's own toolstack.
type xl struct {
	config  string // file; "" is /etc/xen/NAME.cfg
	timeout time.Duration
	proc    string
	etc     string
}

// newXL returns the xl of this host. It does not remember where a domain's configuration
// file is; "" is where it mostly is.
func newXL(config string) *xl { return &xl{config, patience, "/proc", "/etc"} }

func (x *xl) Name() string { return "xl" }

// xlListing is what `xl list` and `xl list -l` have printed, the state of all domains and
// their disks. Both are asked for whole: "no such domain" then can't be mistaken for
// "no answer", and no name reaches xl's command line.
type xlListing struct {
	*xl
	rows    []xlRow
	configs []xlDomain
	makers  []string // logs of the xl processes that are at work; "" is one without
	dying   []string
}

// List reads both lists.
func (x *xl) List(ctx context.Context) (Listing, error) {
	l := &xlListing{xl: x}
	out, err := program.Ask(ctx, x.timeout, "xl", "list")
	if err != nil {
		return nil, err
	}
	if l.rows, err = parseXLList(string(out)); err != nil {
		return nil, exit.Fail(exit.Unavailable, "%w", err)
	}
	out, err = program.Ask(ctx, x.timeout, "xl", "list", "-l")
	if err != nil {
		return nil, err
	}
	if l.configs, err = parseXL(out); err != nil {
		return nil, exit.Fail(exit.Unavailable, "%w", err)
	}
	if slices.ContainsFunc(l.rows, xlRow.zombie) {
		l.dying = []string{""}
		if out, err := program.Ask(ctx, x.timeout, "xl", "list", "-v"); err == nil {
			l.dying = zombieUUIDs(string(out))
		}
	}
	l.makers = x.makers()
	return l, nil
}

func (l *xlListing) Ask(_ context.Context, name string) (Answer, error) {
	a := Answer{Toolstack: l.Name(), State: "not running", Dying: l.dying}
	row := findRow(l.rows, l.configs, name)
	if row == nil {
		if file := filepath.Join(l.saveDir(), name); isRegular(file) && !strings.Contains(name, "/") {
			a.Saved = "in " + file + ": xl restore it and shut it down, or give the memory up by removing the file"
		}
		a.Restless = l.mayComeBack(name)
		a.Doubtful = slices.Contains(l.makers, "")
		for _, half := range migrationHalves {
			if slices.ContainsFunc(l.rows, func(r xlRow) bool { return r.Name == name+half }) {
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
	for _, c := range l.configs {
		if strconv.FormatInt(c.DomID, 10) != row.ID {
			continue
		}
		var err error
		if a.Domain, err = c.domain(); err != nil {
			return a, exit.Fail(exit.Unavailable, "%w", err)
		}
	}
	if active && a.Domain == nil { // it is being made, or goes away just now
		a.Restless = true
		return a, exit.Fail(exit.Unavailable, "xl lists %s without its disks", name)
	}
	a.Active = active && !a.Half
	return a, nil
}

// configPath is where the configuration file of a domain should be.
func (x *xl) configPath(name string) string {
	if x.config != "" {
		return x.config
	}
	return filepath.Join(x.etc, "xen", strings.ReplaceAll(name, "/", "_")+".cfg")
}

// Knows counts a configuration file, too: xl has no definitions.
func (l *xlListing) Knows(name string) bool {
	return findRow(l.rows, l.configs, name) != nil || isRegular(l.configPath(name))
}

// Documents has what runs and the configuration files that are where xl's mostly are.
func (l *xlListing) Documents(context.Context) (all []*Domain, err error) {
	for _, c := range l.configs {
		d, err := c.domain()
		if err != nil {
			return nil, exit.Fail(exit.Unavailable, "%w", err)
		}
		all = append(all, d)
	}
	files, _ := filepath.Glob(filepath.Join(l.etc, "xen", "*.cfg"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, exit.Fail(exit.Unavailable, "%w", err)
		}
		d, err := readXLConfig(text)
		if err != nil { // perhaps none; but all paths in it count
			all = append(all, &Domain{Name: file, Type: "xen", text: string(text)})
			continue
		}
		all = append(all, d.Domain)
	}
	return all, nil
}

// Document reads the configuration file.
func (l *xlListing) Document(_ context.Context, name string, a Answer) (*Document, error) {
	if a.Domain != nil { // it may have been asked for by its id
		name = a.Domain.Name
	}
	path := l.configPath(name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := readDocument(bytes.NewReader(endXL(text)))
	switch {
	case err != nil:
		return nil, exit.Fail(exit.Config, "%s: %w", path, err)
	case d.Domain.Name != name:
		return nil, exit.Fail(exit.Config, "%s is the configuration of %s", path, d.Domain.Name)
	}
	return d, nil
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

// saveDir is where xendomains saves the domains when the host is shut down, each in a
// file of its name.
func (x *xl) saveDir() string {
	dir := "/var/lib/xen/save"
	for _, file := range []string{"/default/xendomains", "/sysconfig/xendomains"} {
		text, _ := os.ReadFile(x.etc + file)
		for _, m := range xendomainsSave().FindAllStringSubmatch(string(text), -1) {
			dir = m[1]
		}
	}
	return dir
}

var xendomainsSave = text.Pattern(`(?m)^\s*XENDOMAINS_SAVE=["']?(/[^"'\s]*)`)

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// mayComeBack reports whether a domain that xl does not list is being rebooted. xl
// destroys it, sleeps 2 s and makes it anew; in between there is nothing, but for the
// xl that guards it. While it is made it is listed as "(null)", and so is a zombie,
// for as long as something keeps a page of its memory; that says nothing of others.
func (l *xlListing) mayComeBack(name string) bool {
	if slices.ContainsFunc(l.rows, func(r xlRow) bool { return r.Name == nameless && !r.zombie() }) {
		return true
	}
	return slices.ContainsFunc(l.makers, func(log string) bool {
		// One that came by a migration is guarded under the name that it had on the way.
		return strings.HasPrefix(log, "xl-"+name+".log") || strings.HasPrefix(log, "xl-"+name+migrationHalves[0]+".log")
	})
}

// makers returns, of each xl that runs, the name of the log that is its standard output.
// An xl that guards a domain has xl-NAME.log (xl_vmcontrol.c, xl_utils.c do_daemonize);
// one in the foreground, which may be making any domain, has "".
func (x *xl) makers() (logs []string) {
	processes, _ := filepath.Glob(x.proc + "/[0-9]*/comm")
	for _, comm := range processes {
		if name, _ := os.ReadFile(comm); string(name) != "xl\n" {
			continue
		}
		out, _ := os.Readlink(filepath.Join(filepath.Dir(comm), "fd/1"))
		if out = filepath.Base(out); !xlLog().MatchString(out) {
			out = ""
		}
		logs = append(logs, out)
	}
	return logs
}

var xlLog = text.Pattern(`^xl.*\.log`)
