package domain

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
	"xen-backup/internal/program"
)

const (
	patience  = 30 * time.Second // for one answer; a busy Dom0 has taken 7.5 s
	maxOutput = 16 << 20         // bytes: `xl list -l` of some 10,000 domains
	maxErrors = 64 << 10
)

// output runs a helper program in the C locale and returns what it prints. If it
// can't be run, does not answer within limit, or prints too much, the error has
// status Unavailable; if it fails, the error is an *exec.ExitError with what it
// said on stderr.
func output(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	path, err := program.Find(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stdout, stderr := bounded{left: maxOutput, stop: cancel}, bounded{left: maxErrors, stop: cancel}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// In a group of its own: Debian's xl is a script, and neither it nor its
	// child may stay behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	release, err := durable.Create(func() (stop func(), err error) { return func() { cmd.Cancel() }, cmd.Start() })
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	defer release()
	err = cmd.Wait()
	var ended *exec.ExitError
	switch {
	case stdout.left < 0 || stderr.left < 0:
		return nil, exit.Fail(exit.Unavailable, "%s prints without end", name)
	case ctx.Err() != nil:
		return nil, exit.Fail(exit.Unavailable, "%s did not answer within %s", name, limit)
	case errors.As(err, &ended):
		return nil, &programError{ended, name, said(stderr.text, ended)}
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // a child that stays may keep its output open
		return nil, exit.Fail(exit.Unavailable, "%s: %w", name, err)
	}
	return stdout.text, nil
}

// programError is the failure of a helper program, in its own words.
type programError struct {
	*exec.ExitError
	name, words string
}

func (e *programError) Error() string { return e.name + ": " + e.words }

// said makes one line of a program's last words.
func said(stderr []byte, exit *exec.ExitError) string {
	var words []string
	for line := range strings.Lines(string(stderr)) {
		if line = strings.TrimSpace(strings.TrimPrefix(line, "error: ")); line != "" {
			words = append(words, line)
		}
	}
	if len(words) == 0 {
		return exit.Error()
	}
	return strings.Join(words[:min(len(words), 4)], ": ")
}

// bounded takes so many bytes and then stops the program.
type bounded struct {
	text []byte // no bytes.Buffer: io.Copy would fill that past our Write
	left int
	stop func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.stop()
		return 0, io.ErrShortWrite
	}
	b.text = append(b.text, p...)
	return len(p), nil
}
