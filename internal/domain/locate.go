package domain

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Locator asks all toolstacks until it is sure.
type Locator struct {
	Toolstacks []Toolstack
	// InUse says which disk of a domain is in use and by whom, "" if none is.
	InUse func(*Domain) (string, error)
	Pause time.Duration // between looks
	Moves *state.Moves  // DomUs whose memory is on its way; nil: none
}

// How often a "no" is looked at again. While a domain of Xen reboots it looks shut off,
// or is nowhere, for a moment, so a "no" that this could be gets a second look; the full
// number is for those that may be on their way: half made, half destroyed, or with a
// disk in use. Many domains are not here and must not cost time: where no toolstack
// knows the domain and none is at work on it there is nothing to wait for.
const (
	secondLook    = 1
	restlessLooks = 5
)

// Found is the answer for one of several domains.
type Found struct {
	Answer
	Err error

	lists []*list // by which it was given
}

// Locate returns the answer of the toolstack by which the domain is active here.
// Else the error has status No; Unavailable if a toolstack did not answer, since
// the domain may be its own; Busy if all say no but a disk is in use.
func (l *Locator) Locate(ctx context.Context, name string) (Answer, error) {
	found := l.locateAll(ctx, []string{name})[0]
	return found.Answer, found.Err
}

// locateAll locates several domains, which share the looks: each of those asks a toolstack at
// most once for what is on this host.
func (l *Locator) locateAll(ctx context.Context, names []string) []Found {
	found := make([]Found, len(names))
	done := make([]bool, len(names))
	for look := 0; ; look++ {
		lists := l.lists()
		again := false
		for i, name := range names {
			if done[i] {
				continue
			}
			v := l.judge(ctx, lists, name)
			found[i] = Found{v.answer, v.err, lists}
			done[i] = v.err == nil || look >= v.looks
			again = again || !done[i]
		}
		if !again {
			return found
		}
		select {
		case <-time.After(l.Pause):
		case <-ctx.Done():
			return found
		}
	}
}

// Stuck reports whether a domain stands still because of an I/O error, whoever has caused it. Only libvirt knows.
func (l *Locator) Stuck(ctx context.Context, name string) bool {
	return slices.ContainsFunc(l.Toolstacks, func(t Toolstack) bool {
		v, is := t.(*virsh)
		return is && v.stuck(ctx, name)
	})
}

// known tells of each domain whether a toolstack knows it, active or not. The errors have
// status Unavailable: a toolstack that did not answer may know it.
func (l *Locator) known(ctx context.Context, names []string) (known []bool, errs []error) {
	known, errs = make([]bool, len(names)), make([]error, len(names))
	lists := l.lists()
	for i, name := range names {
		var failures []string
		for _, list := range lists {
			if listing, err := list.get(ctx); err != nil {
				failures = append(failures, err.Error())
			} else if listing.Knows(name) {
				known[i] = true
			}
		}
		if !known[i] && failures != nil {
			errs[i] = exit.Fail(exit.Unavailable, "cannot tell whether %s is known: %s", name, strings.Join(failures, "; "))
		}
	}
	return known, errs
}

// list is what one toolstack answers in one look. It is asked when that is needed, and nothing
// twice: each of its programs takes longer than its answer.
type list struct {
	toolstack Toolstack
	asked     bool
	listing   Listing
	err       error
	replies   map[string]reply // by the name of a domain
}

type reply struct {
	answer Answer
	err    error
}

func (l *Locator) lists() (lists []*list) {
	for _, t := range l.Toolstacks {
		lists = append(lists, &list{toolstack: t, replies: make(map[string]reply)})
	}
	return lists
}

func (l *list) get(ctx context.Context) (Listing, error) {
	if !l.asked {
		l.listing, l.err = l.toolstack.List(ctx)
		l.asked = true
	}
	return l.listing, l.err
}

func (l *list) ask(ctx context.Context, name string) (Answer, error) {
	listing, err := l.get(ctx)
	if err != nil {
		return Answer{}, err
	}
	r, asked := l.replies[name]
	if !asked {
		r.answer, r.err = listing.Ask(ctx, name)
		l.replies[name] = r
	}
	return r.answer, r.err
}

// verdict is the outcome of one look.
type verdict struct {
	answer Answer
	err    error
	looks  int // how many more are worth it
}

func (l *Locator) judge(ctx context.Context, lists []*list, name string) (v verdict) {
	if err := l.Moves.Check(name); err != nil {
		return verdict{err: err}
	}
	var answers []Answer
	var said, failures, dying []string
	for _, list := range lists {
		a, err := list.ask(ctx, name)
		switch {
		case err != nil:
			failures = append(failures, err.Error())
		case a.Active:
			return verdict{answer: a}
		default:
			answers = append(answers, a)
			said = append(said, a.Toolstack+": "+a.State)
		}
		if a.Doubtful && err == nil {
			v.looks = max(v.looks, secondLook)
		}
		if a.Restless {
			v.looks = restlessLooks
		}
		dying = append(dying, a.Dying...)
	}
	if slices.ContainsFunc(answers, func(a Answer) bool { return a.beingDestroyed(dying) }) {
		v.looks = restlessLooks
	}
	reasons := strings.Join(said, ", ")
	if len(failures) > 0 {
		if v.looks < restlessLooks {
			v.looks = 0 // who does not answer now won't in a second
		}
		if reasons != "" {
			reasons = " (" + reasons + ")"
		}
		v.err = exit.Fail(exit.Unavailable, "cannot tell whether %s is here: %s%s",
			name, strings.Join(failures, "; "), reasons)
		return v
	}
	if i := slices.IndexFunc(answers, func(a Answer) bool { return a.Half }); i >= 0 {
		// Its disks are in use for a known reason: no need to look at them.
		return verdict{answer: answers[i], err: exit.Fail(exit.No, "%s is one half of a migration (%s)", name, reasons)}
	}
	if i := slices.IndexFunc(answers, func(a Answer) bool { return a.Saved != "" }); i >= 0 {
		v.answer = answers[i]
		reasons += ", its memory is saved"
	} else if i := slices.IndexFunc(answers, func(a Answer) bool { return a.memoryInFile() }); i >= 0 && !l.Moves.WasMoved(name) {
		v.answer = answers[i]
	}
	v.err = exit.Fail(exit.No, "%s is not active here (%s)", name, reasons)
	switch disk, err := l.inUse(answers); {
	case disk != "":
		v.err = exit.Fail(exit.Busy, "%s is not active here (%s), but its disk %s", name, reasons, disk)
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

// beingDestroyed reports whether a domain of Xen that is off by libvirt's word is one of those
// that are half destroyed: then it may be rebooting.
func (a *Answer) beingDestroyed(dying []string) bool {
	return a.Doubtful && a.Domain != nil && (slices.Contains(dying, "") || slices.Contains(dying, a.Domain.UUID))
}
