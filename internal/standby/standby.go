package standby

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"xen-backup/internal/allow"
	"xen-backup/internal/pace"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
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
	Session    string    // the connection that the run came by: sshd's SSH_CONNECTION
	Set        string    // that the delta is held for; "": it is applied alone
	Taken      time.Time // when the source took its snapshots
	Pace       *pace.Pace
	Read       *atomic.Int64 // counts the bytes that are read of the target; may be nil
	Allow      *allow.Rules  // what the peer may touch; nil: whoever started the run may touch anything

	// Of points in time of the target, which Allow has be kept by this host's rule alone.
	Keep     *state.Keep // which the source wants; nil: it does not say
	HostKeep *state.Keep // which this host keeps at most; nil: it does not say
	Limit    int         // percent of a pool or file system, above which the oldest give way; 0: state.DefaultLimit
	Rollback bool        // the delta leads back to one of them

	// Of a run of xen-backup.sh, which decides nothing here.
	Managed   bool   // cures are told in the words of its administrator
	CreateVG  string // the volume group in which a missing target is created; "": none is
	FirstCopy bool   // in place also where there is something that no sync has left
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

// Patch receives a delta and applies it.
func Patch(user User, o Options, in io.Reader) (rdiff.Delta, error) {
	t, err := open(user, o)
	if err != nil {
		return rdiff.Delta{}, err
	}
	defer t.close()
	if err := t.admit(); err != nil {
		return rdiff.Delta{}, err
	}
	return begin(t, in).run()
}

// Recover finishes the apply that was interrupted, and those of all disks of its set. It
// returns nil if there is none.
func Recover(user User, o Options) (*rdiff.Delta, error) {
	user.Commit()
	t, err := find(user, o)
	if err != nil {
		return nil, err
	}
	if c, err := t.device.ChangeOf(); err != nil {
		return nil, err
	} else if c != nil {
		return recoverSet(t, c)
	}
	defer t.close()
	if err := t.open(); err != nil {
		return nil, err
	}
	if t.before.Phase != state.Applying {
		user.Info("%s: there is no unfinished apply; nothing to recover", t.Target)
		return nil, nil
	}
	a := newApply(t, nil)
	defer a.close()
	return &a.delta, a.resume()
}

// Abandon gives the interrupted apply up, and with it the image on the target: that is a
// mix, and is remembered as one.
func Abandon(user User, o Options) error {
	t, err := find(user, o)
	if err != nil {
		return err
	}
	if c, err := t.device.Change(); err != nil {
		return err
	} else if c != nil {
		return abandonMember(t, c)
	}
	defer t.close()
	if err := t.open(); err != nil {
		return err
	}
	if t.before.Phase != state.Applying {
		user.Info("%s: there is no unfinished apply; nothing to abandon", t.Target)
		return nil
	}
	return t.forget(t.before.Spool)
}
