package runs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"xen-backup/internal/exit"
)

// Step is what was being done when a run failed.
type Step string

const (
	CopyStep Step = "copy"
	Prepare  Step = "prepare"
	Verify   Step = "verify"
	Commit   Step = "commit"
	Document Step = "document"
	Ask      Step = "ask"
	Connect  Step = "connect"
	Snapshot Step = "snapshot"
	Locate   Step = "locate"
	Still    Step = "still"
	Last     Step = "last"  // of the programs alone
	Other    Step = "other" // the first of the words says what
)

// Steps are the names of all, for the command line: those of a disk, and those of a whole DomU.
var (
	DiskSteps = []string{string(CopyStep), string(Prepare), string(Verify), string(Other)}
	DomUSteps = []string{string(Commit), string(Document), string(Ask), string(Connect), string(Snapshot), string(Locate),
		string(Still), string(Other)}
)

// What a shell says of a command that it could not run, or that was ended; and ssh of itself.
const (
	timedOut      = 124 // timeout(1)
	notExecutable = 126
	notFound      = 127
	endedBySignal = 128 // and above: by which
	endedByPipe   = 141 // SIGPIPE
	noConnection  = 255

	lastSignal = 64
)

// ParseStages reads the statuses of a pipeline's stages, as a shell prints them: "0 0 80".
func ParseStages(s string) (stages []int, err error) {
	for _, word := range strings.Fields(s) {
		n, err := strconv.ParseUint(word, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("%q is no exit status", word)
		}
		stages = append(stages, int(n))
	}
	return stages, nil
}

// weight is the order in which the statuses of a pipeline tell what went wrong; all others come before the last two.
var weight = []int{exit.BadSnapshot, exit.Unfinished, exit.NotBasis, exit.Busy, exit.NoInput, exit.NotOurs,
	exit.Unavailable}

// causeOf returns the status, of those of a pipeline, that tells what went wrong: a stage that only saw its neighbour
// end says 65 or, writing, 74. Of none it is 0.
func (r *Report) causeOf() int {
	cause := exit.OK
	for i, status := range r.Stages {
		status = ours(status, r.isFar(i))
		if status != exit.OK && (cause == exit.OK || rank(status) <= rank(cause)) {
			cause = status
		}
	}
	if r.Stalled > 0 && cause != exit.OK {
		return exit.Unavailable // those that were ended for it have other reasons to tell
	}
	return cause
}

func rank(status int) int {
	switch i := slices.Index(weight, status); {
	case i >= 0:
		return i
	case status == exit.BadStream:
		return len(weight) + 2
	case status == exit.IOError:
		return len(weight) + 1
	}
	return len(weight)
}

// isFar reports whether a stage ran on the peer. Of those of a pipeline xb-delta, the second, reads the source.
func (r *Report) isFar(stage int) bool { return r.Peer != "" && stage != 1 }

// ours returns what one of our programs would have said.
func ours(status int, far bool) int {
	switch status {
	case timedOut, notExecutable, noConnection:
		return exit.Unavailable
	case notFound:
		if far {
			return exit.NotOurs
		}
		return exit.Unavailable
	case exit.Usage: // it does not know what it is asked to do
		if far {
			return exit.NotOurs
		}
		return exit.Config
	case endedByPipe:
		return exit.IOError
	}
	return status
}

// isTooOld reports whether a program on the peer is missing, or does not know what it is asked to do.
func (r *Report) isTooOld() bool {
	for i, status := range r.Stages {
		if r.isFar(i) && (status == exit.Usage || status == notFound) {
			return true
		}
	}
	return false
}

// sentence says what did not succeed.
func (r *Report) sentence(cause int) string {
	switch r.Step {
	case CopyStep:
		return r.Source + " was not copied to " + r.place()
	case Prepare:
		return r.place() + " cannot be written to"
	case Verify:
		return r.place() + " was compared with its source"
	case Commit:
		return "its disks on " + r.Peer + " did not become the new ones together"
	case Document:
		return "remote Dom0 " + r.Peer + " cannot store its document"
	case Ask:
		if cause == exit.Elsewhere {
			return "it runs on " + r.Peer + " too: nothing is touched"
		}
		return "remote Dom0 " + r.Peer + " cannot tell whether the DomU runs there"
	case Connect:
		return "remote Dom0 " + r.Peer + " cannot be reached"
	case Snapshot:
		return "no snapshots"
	case Locate:
		return "it is not backed up"
	case Last:
		return r.Source + " was changed while its last copy was made, or after, though the DomU is shut off"
	case Still:
		return "it was changed while its snapshots were taken: nothing is sent"
	}
	return r.takeSentence()
}

// meaning says in words why, for whoever has to mend it; "" where the words of the programs do.
func (r *Report) meaning(cause int) string {
	switch {
	case r.Stalled > 0:
		return fmt.Sprintf("no progress for %d s", r.Stalled)
	case cause == exit.NotOurs && r.isTooOld():
		return "what it needs of xen-backup is not installed there, or too old: update xen-backup on " + r.Peer
	case cause > endedBySignal && cause <= endedBySignal+lastSignal:
		return r.endedBy(cause)
	}
	switch r.Step {
	case CopyStep, Verify, Commit:
		if cause == exit.NotBasis {
			return r.notBasis()
		}
		return meanings[cause]
	case Prepare, Ask, Document:
		if cause == exit.NotOurs {
			return meanings[cause]
		}
	}
	return ""
}

var meanings = map[int]string{
	exit.No:          "they differ",
	exit.BadStream:   "the stream was cut or damaged, or a size is wrong",
	exit.NoInput:     "something is missing",
	exit.Unavailable: "a host or a program does not answer",
	exit.CantCreate:  "no room, or no permission",
	exit.IOError:     "I/O error",
	exit.Busy:        "somebody else uses the standby or the source",
	exit.NotOurs:     "the other side sends something else: is its login shell silent, is its version ours?",
	exit.Refused:     "the gate there does not allow it: see its gate.conf",
	exit.Config:      "it cannot be done as it is configured",
	exit.BadSnapshot: "its snapshot was lost before the copy was done",
	exit.Unfinished:  "an interrupted apply must be finished first",
}

// endedBy tells which signal ended a program, and where: only there it can be found out who sent it.
func (r *Report) endedBy(cause int) string {
	where := "here"
	if r.isFar(slices.Index(r.Stages, cause)) {
		where = "on " + r.Peer
	}
	signal := syscall.Signal(cause - endedBySignal)
	why := ""
	if signal == syscall.SIGKILL {
		why = ": for want of memory? See dmesg there"
	}
	return fmt.Sprintf("a program %s was ended by signal %d (%v)%s", where, int(signal), signal, why)
}

// notBasis says why an image was not overwritten, whatever it is that xb-patch has found: that, and what is to be done, is
// in its words below. What it takes to lose an image is only told there, for what helps with one does harm to another.
func (r *Report) notBasis() string {
	last := ""
	if !r.Last.IsZero() {
		last = ", at " + r.Last.UTC().Format(timeForm)
	}
	return "the standby is not what both hosts last had" + last + ": nothing was overwritten, for that would lose what may exist " +
		"nowhere else. It was started, mounted, repaired or migrated to there, or this host has the older image, as after a " +
		"failover or a crash; or it is another disk's, or missing: see below which it is, and what can be done." + r.lastWritten()
}
