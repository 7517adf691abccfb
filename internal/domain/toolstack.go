package domain

import (
	"context"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// patience is how long a toolstack may take for one answer: a busy Dom0 has taken 7.5 s.
const patience = 30 * time.Second

// Answer is what one toolstack says of a domain.
type Answer struct {
	Toolstack string
	State     string   // "running", "shut off (crashed)", "not defined"
	Active    bool     // it runs here, or is paused here: its disks are in use
	Half      bool     // it is one half of a migration that is under way
	Restless  bool     // it may well be active in a moment
	Doubtful  bool     // a reboot could make it look like this: it deserves a second look
	Domain    *Domain  // nil if the toolstack knows no disks of it
	Saved     string   // where its memory is saved, and what to do about it; "" if it is not
	Dying     []string // UUIDs of what is half destroyed; "" is one that is not known
}

// Toolstack is a program that manages domains.
type Toolstack interface {
	Name() string
	// List asks for all domains of this host. An error has status Unavailable.
	List(ctx context.Context) (Listing, error)
}

// Listing is what a toolstack says of a host at one moment.
type Listing interface {
	// Ask says what is known of a domain, given by name, UUID or id (the first
	// that fits). An error has status Unavailable: no answer.
	Ask(ctx context.Context, name string) (Answer, error)
	// Knows reports whether the domain is defined, or could be started from its configuration.
	Knows(name string) bool
	// Documents reads those of all domains that are known: what runs, and what is defined.
	Documents(ctx context.Context) ([]*Domain, error)
	// Document returns that by which a domain, of which this is known, would be started
	// the next time. An error is fs.ErrNotExist if there is none.
	Document(ctx context.Context, name string, a Answer) (*Document, error)
}

// Installed returns those toolstacks of this host that choice (auto, virsh or
// xl) asks for. uri is libvirt's; "" leaves it to virsh. config is the configuration
// file of xl; "" is the usual one.
func Installed(choice, uri, config string) ([]Toolstack, error) {
	var found []Toolstack
	for _, t := range []Toolstack{newVirsh(uri), newXL(config)} {
		_, missing := program.Find(t.Name())
		if choice == "auto" && missing == nil || choice == t.Name() {
			found = append(found, t)
		}
	}
	if len(found) == 0 {
		return nil, exit.Fail(exit.Unavailable, "neither virsh nor xl is installed")
	}
	return found, nil
}

// memoryInFile reports whether libvirt has saved the domain's memory to a file of
// somebody's since it was started. It forgets that when it is restarted itself.
func (a *Answer) memoryInFile() bool { return strings.HasSuffix(a.State, "(saved)") }

// The names by which xl knows the halves of a migration: the one that arrives
// until it is complete, and the one that has left until it is destroyed
// (xl_migrate.c).
var migrationHalves = []string{"--incoming", "--migratedaway"}

func isHalf(name string) bool {
	return slices.ContainsFunc(migrationHalves, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}
