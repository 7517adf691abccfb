// Package standby changes a target only so that it always is a whole image: the old one
// or the new one, or one of which the state says that it has to be finished first.
package standby

import (
	"io"
	"os"

	"xen-backup/internal/rdiff"
)

// Options say which target is meant, and what a run may do with it.
type Options struct {
	Target     string
	StateDir   string // as state.Find takes it
	Spool      string // the spool's directory; "": below the state directory
	InPlace    bool
	Create     bool
	Owner      string      // USER[:GROUP] of a file that is created
	Mode       os.FileMode // of such a file; 0: the default
	Force      bool        // overwrite what has diverged
	Peer       string      // the source host
	Disk       string      // DOMU/DISK, whose standby the target is
	UUID       string      // that DomU's
	SectorSize int64       // of the source; 0: not known
	Toolstack  string
	Session    string // the connection that the run came by: sshd's SSH_CONNECTION
}

// User is whoever started the run.
type User interface {
	Warn(format string, args ...any) // what should be known although the run goes on
	Info(format string, args ...any) // what is of interest to some
	// Begin is called when the run is about to work. moved reports whether the run has moved
	// since the last call in ways that the progress does not show.
	Begin(moved func() bool) Progress
	// Commit has the run go on from now on, whether anybody still listens or not.
	Commit()
}

// Progress is told how far a run has come, in bytes.
type Progress interface {
	Step(name string, total int64) // the next part of the run begins; "" is the first
	Reach(n int64)                 // so much of it is done
	Advance(n int64)               // so much more of it is done
	Change(n int64)                // so much more is changed
}

// Patch receives a delta and applies it: in.
func Patch(user User, o Options, in io.Reader) (rdiff.Delta, error) {
	p := &patcher{user: user, Options: o}
	defer p.close()
	if o.InPlace {
		return p.copyInPlace(in)
	}
	return p.patch(in)
}

// DryRun receives a delta, proves it and the target, and writes nothing.
func DryRun(user User, o Options, in io.Reader) (rdiff.Delta, error) {
	p := &patcher{user: user, Options: o}
	defer p.close()
	return p.dryRun(in)
}

// Recover finishes the apply that was interrupted. It returns nil if there is none.
func Recover(user User, o Options) (*rdiff.Delta, error) {
	p := &patcher{user: user, Options: o}
	defer p.close()
	return p.recover()
}

// Abandon gives the interrupted apply up, and with it the image on the target.
func Abandon(user User, o Options) error {
	p := &patcher{user: user, Options: o}
	defer p.close()
	return p.abandon()
}

// Adopt makes the target the standby of another disk.
func Adopt(user User, o Options) error {
	p := &patcher{user: user, Options: o}
	defer p.close()
	return p.adopt()
}
