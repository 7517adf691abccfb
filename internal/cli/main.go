// Package cli is what the commands share towards their user: options, messages,
// progress, heartbeat, summaries and signals.
package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Version of all commands; a release sets it with
// -ldflags "-X xen-backup/internal/cli.Version=...".
var Version = "0.1.0"

// Env is what a command is given to run in: its name and standard files.
type Env struct {
	Name   string // "xb-sig": the prefix of every message, if it is not empty
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	Verbose bool // -v: say what is done
	Quiet   bool // -q: no warnings either
	Words   bool // --words: each line begins with its level, for a program that logs them
}

// level says how much a message matters, in the words of syslog.
type level string

const (
	levelErr     level = "err"
	levelWarning level = "warning"
	levelInfo    level = "info"
)

// Main runs a command on the process's own standard files and exits with its
// status. But for a run that has to be ended from aside (see end), it is the only
// place that exits.
func Main(name, usage string, run func(*Env, []string) error) {
	handleSignals()
	limitMemory()
	env := &Env{Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(env.Run(usage, os.Args[1:], run))
}

// Run runs a command and returns its exit status; an error is printed on
// Stderr as "name: message".
func (e *Env) Run(usage string, args []string, run func(*Env, []string) error) int {
	err := run(e, args)
	durable.Wait() // what a signal has broken is no error to tell
	switch {
	case errors.Is(err, errHelp):
		_, err = io.WriteString(e.Stdout, usage)
	case errors.Is(err, errVersion):
		_, err = fmt.Fprintf(e.Stdout, "%s %s\n", e.Name, Version)
	}
	if err == nil {
		return exit.OK
	}
	if !exit.IsAnswer(err) {
		e.say(levelErr, err.Error())
	}
	if exit.StatusOf(err) == exit.Usage && !e.Words {
		fmt.Fprintf(e.Stderr, "try '%s --help'\n", e.Name)
	}
	return exit.StatusOf(err)
}

// Flags returns a parser that knows the options common to all commands.
func (e *Env) Flags() *Flags {
	f := new(Flags)
	f.add("h,help", noArgument, func(string) error { return errHelp })
	f.add("V,version", noArgument, func(string) error { return errVersion })
	f.Bool(&e.Verbose, "v,verbose")
	f.Bool(&e.Quiet, "q,quiet")
	return f
}

// LevelFlag registers --words, of the commands that can put its level before each line.
func (e *Env) LevelFlag(f *Flags) { f.Bool(&e.Words, "words") }

// Error prints what has failed although the run goes on.
func (e *Env) Error(format string, args ...any) { e.say(levelErr, fmt.Sprintf(format, args...)) }

// Warn prints a message that the user should know of although the run goes on.
func (e *Env) Warn(format string, args ...any) {
	if !e.Quiet {
		e.say(levelWarning, fmt.Sprintf(format, args...))
	}
}

// Note prints what a user should know and a log may keep to itself.
func (e *Env) Note(format string, args ...any) {
	if !e.Quiet {
		e.say(levelInfo, fmt.Sprintf(format, args...))
	}
}

// Info prints a message under -v only, or for a log.
func (e *Env) Info(format string, args ...any) {
	if (e.Verbose || e.Words) && !e.Quiet {
		e.say(levelInfo, fmt.Sprintf(format, args...))
	}
}

// say writes one message in one write, so that the messages of a pipeline's
// stages do not mix on a shared stderr. Control characters, which a path or a
// peer's noise may hold, are shown escaped.
func (e *Env) say(l level, message string) {
	var b bytes.Buffer
	for i, line := range strings.Split(message, "\n") {
		if e.Words {
			b.WriteString(string(l) + " ")
		}
		switch {
		case i > 0:
			b.WriteString("  ")
		case e.Name != "":
			b.WriteString(e.Name + ": ")
		}
		b.WriteString(text.Printable(line) + "\n")
	}
	e.Stderr.Write(b.Bytes())
}

// IsTerminal reports whether a standard file is a terminal.
func IsTerminal(file any) bool {
	f, ok := file.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// BinaryOut refuses to write a binary stream to a terminal.
func (e *Env) BinaryOut() (io.Writer, error) {
	if IsTerminal(e.Stdout) {
		return nil, exit.Fail(exit.Usage, "standard output is a terminal: redirect the stream to a file or a pipe")
	}
	return stdout{e.Stdout}, nil
}

// CheckReader returns EPIPE if standard output is a pipe or socket whose other end is
// closed: who has little to write would find out late.
func (e *Env) CheckReader() error {
	f, ok := e.Stdout.(*os.File)
	if !ok {
		return nil
	}
	poll := []unix.PollFd{{Fd: int32(f.Fd())}}
	if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return exit.Fail(exit.IOError, "standard output: %w", syscall.EPIPE)
	}
	return nil
}

// BinaryIn refuses to read a binary stream from a terminal.
func (e *Env) BinaryIn() (io.Reader, error) {
	if IsTerminal(e.Stdin) {
		return nil, exit.Fail(exit.Usage, "standard input is a terminal: give the stream by a file or a pipe")
	}
	return e.Stdin, nil
}

// stdout names the file in the errors of its writes.
type stdout struct{ io.Writer }

func (w stdout) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		err = exit.Fail(exit.IOError, "standard output: %w", exit.Cause(err))
	}
	return n, err
}

// Out returns the writer of a command's textual answer.
func (e *Env) Out() io.Writer { return stdout{e.Stdout} }

// Print writes a command's textual answer and reports a failed write.
func (e *Env) Print(text string) error {
	_, err := io.WriteString(e.Out(), text)
	return err
}

// PrintInfo is --info of the commands: describe reads the stream in the file that is the
// only operand, or that on standard input if there is none or it is "-".
func (e *Env) PrintInfo(flags *Flags, operands []string, describe func(io.Reader, io.Writer) error) error {
	if err := flags.Only("--info", "--json"); err != nil {
		return err
	}
	switch {
	case len(operands) > 1:
		return exit.Fail(exit.Usage, "--info takes at most one FILE")
	case len(operands) == 1 && operands[0] != "-":
		f, err := os.Open(operands[0])
		if err != nil {
			return exit.OpenFailed(err)
		}
		defer f.Close()
		return describe(f, stdout{e.Stdout})
	}
	in, err := e.BinaryIn()
	if err != nil {
		return err
	}
	return describe(in, stdout{e.Stdout})
}
