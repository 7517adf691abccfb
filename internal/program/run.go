package program

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

const (
	maxOutput = 16 << 20 // bytes: `xl list -l` of some 10,000 domains
	maxErrors = 64 << 10
	// A child of the program that stays, such as a daemon, may keep its output open. What
	// the program itself printed is read long before this is over.
	waitDelay = 5 * time.Second
)

// Ask runs a program that answers a question, and returns what it prints. If it does not
// answer within limit, or prints too much, it is killed with all its children, and so it
// is if a signal ends this process. It must change nothing.
func Ask(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stdout, stderr := bounded{left: maxOutput, full: cancel}, bounded{left: maxErrors, full: cancel}
	cmd, err := command(ctx, name, args, &stdout, &stderr)
	if err != nil {
		return nil, err
	}
	// Debian's xl is a script: neither it nor its child may stay behind.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	release, err := durable.Create(func() (stop func(), err error) { return func() { cmd.Cancel() }, cmd.Start() })
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	defer release()
	err = cmd.Wait()
	switch {
	case stdout.left < 0 || stderr.left < 0:
		return nil, exit.Fail(exit.Unavailable, "%s prints without end", name)
	case ctx.Err() != nil:
		return nil, exit.Fail(exit.Unavailable, "%s did not answer within %v", name, limit)
	}
	return stdout.text, failure(name, err, stderr.text)
}

// Run runs a program that must never be killed, with its standard output going to stdout.
//
// LVM in mid-work is such a program: it suspends devices, and an origin that stays
// suspended freezes its guest for good. At its time limit it gets signals that it holds
// back while it has something suspended, but never SIGKILL, and Run returns only after
// its end.
func Run(limit time.Duration, stdout io.Writer, name string, args ...string) error {
	stderr := bounded{left: maxErrors}
	cmd, err := command(context.Background(), name, args, stdout, &stderr)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	late := time.AfterFunc(limit, func() {
		cmd.Process.Signal(syscall.SIGINT) // the only one that ends LVM's wait for a lock
		cmd.Process.Signal(syscall.SIGTERM)
	})
	err = cmd.Wait()
	if !late.Stop() {
		return exit.Fail(exit.Unavailable, "%s did not end within %v", name, limit)
	}
	return failure(name, err, stderr.text)
}

// Started is a program that was started and is at work.
type Started struct {
	Ended <-chan struct{} // closed when it has ended

	cmd *exec.Cmd
	err error
}

// Start starts a program and does not wait for it.
func Start(name string, args ...string) (*Started, error) {
	stderr := bounded{left: maxErrors}
	cmd, err := command(context.Background(), name, args, nil, &stderr)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	ended := make(chan struct{})
	s := &Started{Ended: ended, cmd: cmd}
	go func() {
		s.err = failure(name, cmd.Wait(), stderr.text)
		close(ended)
	}()
	return s, nil
}

// HasEnded reports whether it has ended, and how.
func (s *Started) HasEnded() (bool, error) {
	select {
	case <-s.Ended:
		return true, s.err
	default:
		return false, nil
	}
}

// Listen starts a program that prints until it is stopped, and ends with its input or this process.
func Listen(to io.Writer, name string, args ...string) (stop func(), err error) {
	cmd, err := command(context.Background(), name, args, to, nil)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	return func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}, nil
}

// GiveUp ends a program that only waits for the answer of another one.
func (s *Started) GiveUp() { s.cmd.Process.Kill() }

// command prepares a program that shall run in the C locale and in a process group of its
// own: a ^C at the terminal is ours to handle.
func command(ctx context.Context, name string, args []string, stdout, stderr io.Writer) (*exec.Cmd, error) {
	path, err := Find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=", "LVM_SUPPRESS_FD_WARNINGS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = waitDelay
	return cmd, nil
}

// failure returns the error of a program that has ended, in its own words where it has
// said any. An *exec.ExitError below it tells the status of one that ran to its end.
func failure(name string, err error, said []byte) error {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // see waitDelay
		return nil
	}
	words := complaint(string(said))
	if words == "" {
		words = err.Error()
	}
	return exit.Fail(exit.Unavailable, "%w", &failed{name + ": " + words, err})
}

type failed struct {
	words string
	cause error
}

func (f *failed) Error() string { return f.words }
func (f *failed) Unwrap() error { return f.cause }

// complaint makes one line of what a program said on standard error, without warnings
// unless there is nothing else.
func complaint(said string) string {
	var errs, all []string
	for line := range strings.Lines(said) {
		line = strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(line, "error: ")), ".") // virsh's, LVM's
		if line == "" {
			continue
		}
		all = append(all, line)
		if !strings.HasPrefix(line, "WARNING") && !strings.HasPrefix(line, "File descriptor") {
			errs = append(errs, line)
		}
	}
	if len(errs) == 0 {
		errs = all
	}
	return strings.Join(errs, "; ")
}

// bounded takes so many bytes. One more is an error and calls full; where full is nil,
// what comes then is dropped.
type bounded struct {
	text []byte // no bytes.Buffer: io.Copy would fill that past our Write
	left int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left < len(p) && b.full == nil {
		b.text, b.left = append(b.text, p[:b.left]...), 0
		return len(p), nil
	}
	if b.left -= len(p); b.left < 0 {
		b.full()
		return 0, io.ErrShortWrite
	}
	b.text = append(b.text, p...)
	return len(p), nil
}
