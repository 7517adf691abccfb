// Package exit has the exit statuses, and errors that carry one.
package exit

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Exit statuses. They pass through ssh, so they stay clear of 126 and above.
// The same table stands in every man page.
const (
	OK          = 0  // done
	No          = 1  // the answer is no: differs, not running here
	Partial     = 3  // wrapper only: finished, but at least one DomU or target failed
	Usage       = 64 // wrong usage
	BadStream   = 65 // bad, cut or mismatched stream, wrong size
	NoInput     = 66 // no such device or domain
	Unavailable = 69 // toolstack, helper program or peer not available
	Internal    = 70 // internal error
	CantCreate  = 73 // cannot create a snapshot, spool or state
	IOError     = 74 // I/O error
	Busy        = 75 // lock held or target in use: try again
	NotOurs     = 76 // another first byte, magic or version than ours
	Refused     = 77 // refused by the gate: this host does not allow it
	Config      = 78 // configuration
	NotMade     = 79 // xb-snap has not made this
	NotBasis    = 80 // not the basis, diverged
	Elsewhere   = 81 // the domain runs elsewhere too
	BadSnapshot = 82 // snapshot invalid, full or given up: lvm/use.go, blockdev/frozen.go
	Unfinished  = 83 // an apply is unfinished: recover first
)

// statusError carries the exit status that an error stands for.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// Fail returns an error with an exit status; format and args are those of
// fmt.Errorf, %w included. A cause that already has a status keeps its own only
// if the caller passes it on unchanged: the outermost status counts.
func Fail(status int, format string, args ...any) error {
	return &statusError{status, fmt.Errorf(format, args...)}
}

// StatusOf returns the exit status for err: 0 for nil, the outermost status
// given by Fail, and IOError for an error that nobody classified, because what
// reaches the user unclassified is a failed read, write or system call.
func StatusOf(err error) int {
	var s *statusError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &s):
		return s.status
	}
	return IOError
}

// OpenFailed gives the error of opening an input file its status: NoInput if
// there is no such file.
func OpenFailed(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return Fail(NoInput, "%w", err)
	}
	return Fail(IOError, "%w", err)
}

// Answer is the error of a command whose answer is no and whose output has
// already said so: it sets the exit status, and nothing is to be printed.
func Answer(status int) error { return &statusError{status, errSilent} }

// IsAnswer reports whether err is one that Answer has made.
func IsAnswer(err error) bool { return errors.Is(err, errSilent) }

var errSilent = errors.New("")

// Cause strips the "write /dev/stdout:" that os adds, where the caller has named the
// file already.
func Cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
