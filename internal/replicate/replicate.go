// Package replicate brings the standbys of a DomU on other Dom0s up to date: it joins the programs that do it, here and
// there. None of them stays behind, none is waited for that stands still, and no Dom0 waits for another one. What became
// of each step is told in the log and remembered.
package replicate

import (
	"slices"
	"sync"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Options are what a run is told.
type Options struct {
	Run            string        // its directory, where the connections are: see Connect
	ConnectTimeout time.Duration // until a Dom0 answers; it may take four times that until it has let us in
	DomU           string
	To             string // the only Dom0 to copy to; "": all
	Jobs           int    // copies at once
	AtOnce         int    // DomUs that are copied at once
	Stall          time.Duration
	BlockSize      string
	Hash           string
	Toolstack      string
	Moving         string // the move of the DomU that is asking; "": none
	CreateLV       string
	FirstCopy      string
	Force          bool // overwrite what has diverged
	DryRun         bool
	Background     bool // guests go first
	Final          bool // the DomU is shut off, and what is copied is the last that it has written
	Verify         bool
	Track          string        // whether only what has changed is read: one of the words of TRACK
	VerifyEvery    time.Duration // how often a standby is compared in full, if Verify does not tell; 0: never
	Exclude        []string      // disks that are left out of the document
	Bundle         string        // file of the document; "": it does not travel
	Snapshots      []string      // what is read in place of the sources; nil: these
	Taken          time.Time
	Keep           string // of which times images are to be kept, as state.Keep.String; "": the other side knows
	BWLimit        string
	ReadLimit      string
	State          state.Dir
}

// Check refuses what no setting allows: most of it becomes a word of a command on another host.
func (o *Options) Check() error {
	for _, name := range append([]string{o.DomU, o.CreateLV, o.To}, o.Exclude...) {
		if name != "" && !nameForm().MatchString(name) {
			return exit.Fail(exit.Usage, "bad name: %q", name)
		}
	}
	return nil
}

// User takes what a run has to say.
type User interface {
	Say(level, text string) // a line for the log
	Progress(text string)   // for the last line of a terminal; "" is nothing to show
}

// The log's levels.
const (
	errLevel     = "err"
	warningLevel = "warning"
	infoLevel    = "info"
)

// How long the other side may take to answer.
const (
	askLimit      = 150 * time.Second
	knownLimit    = 60 * time.Second
	documentLimit = 300 * time.Second
)

// run is what all parts of a run share.
type run struct {
	Options
	user      User
	programs  *children
	dom0s     map[string]*dom0
	snapshots bool // of the sources are what is read, or can be
}

func newRun(o Options, user User) (r *run, release func(), err error) {
	r = &run{Options: o, user: user, snapshots: !o.Final || o.Snapshots != nil}
	if r.dom0s, err = readDom0s(o.Run); err != nil {
		return nil, nil, err
	}
	r.programs, release, err = newChildren()
	return r, release, err
}

// say logs a line, unless a signal is ending the run: what that has broken is no news.
func (r *run) say(level, text string) {
	durable.Wait()
	r.user.Say(level, text)
}

// about names the DomU.
func (r *run) about() string { return "DomU " + r.DomU }

// each does something with all of a list, so many at once, and returns those where it went well.
func each[T any](list []T, atOnce int, do func(T) bool) (good []T) {
	var all sync.WaitGroup
	free, ok := make(chan bool, max(1, atOnce)), make([]bool, len(list))
	for i, one := range list {
		free <- true
		all.Go(func() {
			ok[i] = do(one)
			<-free
		})
	}
	all.Wait()
	for i, one := range list {
		if ok[i] {
			good = append(good, one)
		}
	}
	return good
}

// without returns those of a list that are not in another one.
func without[T comparable](list, others []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(one T) bool { return slices.Contains(others, one) })
}

// partial is the error of a run of which some part has failed, and has said so.
func partial(failed bool) error {
	if failed {
		return exit.Answer(exit.Partial)
	}
	return nil
}
