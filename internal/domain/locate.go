package domain

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/cli"
)

// Locator asks all toolstacks until it is sure.
type Locator struct {
	Toolstacks []Toolstack
	// InUse says which disk of a domain is in use and by whom, "" if none is.
	InUse func(*Domain) (string, error)
	Pause time.Duration // between looks
}

// How often a "no" is looked at again. While a domain of Xen reboots it is
// defined nowhere for a moment, so Xen's "no" always gets a second look; the full
// number is for those that may be on their way: half made, half destroyed, or
// with a disk in use. Many domains are not here, and must not cost 5 s each.
const (
	secondLook    = 1
	restlessLooks = 5
)

// Locate returns the answer of the toolstack by which the domain is active here.
// Else the error has status No; Unavailable if a toolstack did not answer, since
// the domain may be its own; Busy if all say no but a disk is in use.
func (l *Locator) Locate(ctx context.Context, name string) (Answer, error) {
	for look := 0; ; look++ {
		v := l.look(ctx, name)
		if v.err == nil || look >= v.looks {
			return v.answer, v.err
		}
		select {
		case <-time.After(l.Pause):
		case <-ctx.Done():
			return v.answer, v.err
		}
	}
}

// verdict is the outcome of one look.
type verdict struct {
	answer Answer
	err    error
	looks  int // how many more are worth it
}

func (l *Locator) look(ctx context.Context, name string) (v verdict) {
	var answers []Answer
	var said, failures []string
	for _, t := range l.Toolstacks {
		a, err := t.Ask(ctx, name)
		switch {
		case err != nil:
			failures = append(failures, err.Error())
		case a.Active:
			return verdict{answer: a}
		default:
			answers = append(answers, a)
			said = append(said, a.Toolstack+": "+a.State)
		}
		if a.Xen && err == nil {
			v.looks = max(v.looks, secondLook)
		}
		if a.Restless {
			v.looks = restlessLooks
		}
	}
	reasons := strings.Join(said, ", ")
	if len(failures) > 0 {
		if v.looks < restlessLooks {
			v.looks = 0 // who does not answer now won't in a second
		}
		if reasons != "" {
			reasons = " (" + reasons + ")"
		}
		v.err = cli.Fail(cli.Unavailable, "cannot tell whether %s is here: %s%s", name, strings.Join(failures, "; "), reasons)
		return v
	}
	if slices.ContainsFunc(answers, func(a Answer) bool { return a.Half }) {
		// Its disks are in use for a known reason: no need to look at them.
		return verdict{err: cli.Fail(cli.No, "%s is one half of a migration (%s)", name, reasons)}
	}
	v.err = cli.Fail(cli.No, "%s is not active here (%s)", name, reasons)
	switch disk, err := l.inUse(answers); {
	case disk != "":
		v.err = cli.Fail(cli.Busy, "%s is not active here (%s), but its disk %s", name, reasons, disk)
		v.looks = restlessLooks
	case err != nil:
		v.err = err
	}
	return v
}

// inUse asks about the disks of every document, which may differ. One that is in
// use outweighs one of which it can't be told.
func (l *Locator) inUse(answers []Answer) (disk string, failure error) {
	for _, a := range answers {
		if a.Domain == nil {
			continue
		}
		disk, err := l.InUse(a.Domain)
		if err == nil && disk != "" {
			return disk, nil
		}
		failure = errors.Join(failure, err)
	}
	return "", failure
}
