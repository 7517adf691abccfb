package move

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// The log's levels.
const (
	errLevel     = "err"
	warningLevel = "warning"
	infoLevel    = "info"
)

const (
	promoteLimit = 15 * time.Minute // an apply may have to be finished first
	copyLimit    = 30 * 24 * time.Hour
	killed       = 124 // the status of what was ended at its time limit, as timeout(1) has it
	sshFailed    = 255
)

func (m *mover) say(level, format string, args ...any) {
	durable.Wait() // what a signal has broken is no news
	m.user.Say(level, fmt.Sprintf(format, args...))
}

// ended reports whether a program on the other Dom0 has ended with a status of its own: else it may be at work there.
func ended(status int) bool { return status < killed }

// reached returns the status to end with when a program on the other Dom0 has failed.
func reached(status int) int {
	if !ended(status) || status == exit.OK {
		return exit.Unavailable
	}
	return status
}

// copy has xen-backup.sh copy the DomU to the other Dom0, and waits for a run that is at work.
func (m *mover) copy(more ...string) int {
	words := append(append([]string{"xen-backup.sh", "--wait", "--to", m.To}, more...), m.DomU)
	status, _ := m.run(copyLimit, func(line string) { m.user.Say(warningLevel, line) }, words)
	return status
}

// there runs a program on the other Dom0, and tells what it says.
func (m *mover) there(limit time.Duration, words ...string) (status int, answer string) {
	return m.on(m.To, limit, func(line string) { m.user.Say(infoLevel, m.To+": "+line) }, words...)
}

// on runs a program on a Dom0. No word of it means anything to a shell.
func (m *mover) on(dom0 string, limit time.Duration, say func(string), words ...string) (status int, answer string) {
	ssh := []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", fmt.Sprintf("ConnectTimeout=%d", int(m.ConnectTimeout.Seconds())),
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "--", dom0}
	return m.run(limit, say, append(ssh, words...))
}

// runsThere asks the other Dom0 whether the DomU runs there.
func (m *mover) runsThere() (active, known bool) {
	status, answer := m.there(time.Minute, "xb-locate", "--active", m.DomU)
	return answer == "yes\n", status == exit.OK && (answer == "yes\n" || answer == "no\n")
}

// run runs a program, tells what it says, and returns its status and what it prints. A signal that ends this process ends
// it first.
func (m *mover) run(limit time.Duration, say func(string), words []string) (status int, answer string) {
	path, failed := program.Find(words[0])
	if failed != nil {
		m.say(errLevel, "%v", failed)
		return 127, ""
	}
	cmd := exec.Command(path, words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if m.input != nil {
		cmd.Stdin = m.input
	}
	if m.record != nil && m.record.Memory {
		cmd.Env = append(os.Environ(), "XB_MOVING="+m.record.ID) // a run is in nobody's way that is our own
	}
	var out bytes.Buffer
	said := lines{say: say}
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = 5 * time.Second // what it leaves behind, as a connection of ssh, may have its output open
	ended := make(chan struct{})
	stop := func() { endGroup(cmd.Process, ended) }
	cancel, failed := durable.Create(func() (func(), error) { return stop, cmd.Start() })
	if failed != nil {
		m.say(errLevel, "%v", failed)
		return 126, ""
	}
	defer cancel()
	timer := time.AfterFunc(limit, stop)
	failed = cmd.Wait()
	close(ended)
	said.end()
	durable.Wait() // a signal has ended it, and has something else done than what would come now
	if !timer.Stop() {
		return killed, ""
	}
	var how *exec.ExitError
	switch {
	case failed == nil || errors.Is(failed, exec.ErrWaitDelay):
		return 0, out.String()
	case !errors.As(failed, &how):
		return 126, ""
	case how.ExitCode() < 0:
		return 128 + int(how.Sys().(syscall.WaitStatus).Signal()), ""
	}
	return how.ExitCode(), out.String()
}

// lines takes apart what is written to it.
type lines struct {
	say  func(line string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, is := bytes.Cut(l.rest, []byte("\n"))
		if !is && len(l.rest) < 1<<16 {
			return len(p), nil
		}
		if l.rest = rest; len(bytes.TrimSpace(line)) > 0 {
			l.say(strings.TrimRight(string(line), "\r"))
		}
	}
}

func (l *lines) end() { l.Write([]byte("\n")) }

// endGroup ends a program with all its children, first as it likes to be ended.
func endGroup(p *os.Process, ended <-chan struct{}) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		syscall.Kill(-p.Pid, s)
		select {
		case <-ended:
			return
		case <-time.After(10 * time.Second):
		}
	}
}
