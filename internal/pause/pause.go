// Package pause keeps a domain still while its snapshots are taken, and lets it go whatever
// happens to us. A domain that stays paused, or whose file systems stay frozen, is harmed more
// than by any backup that fails.
//
// So all of it is done by a process of its own, the watchdog, and this one only tells it when.
package pause

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// Words are for the user.
type Words interface {
	Error(format string, args ...any) // what has failed although all else goes on
	Warn(format string, args ...any)
	Info(format string, args ...any)
}

// Order is what somebody wants of a domain.
type Order struct {
	Domain    string
	Freeze    bool // have the agent in the guest freeze its file systems; else pause it
	OrGo      bool // take the snapshots all the same where that fails
	URI       string
	Toolstack string // auto, virsh or xl
	Watchdog  string // the command of our program that calls Watchdog
}

// Stillness is that of one domain.
type Stillness struct {
	Order
	words Words
	tool  tool

	leash   *os.File // the watchdog lets the domain go when it is closed
	reports chan report
	cancel  func() // of what a signal would do
}

type report struct{ word, words string }

// New returns the stillness of a domain. The error has status Usage.
func New(order Order, words Words) (*Stillness, error) {
	if err := domain.CheckPausable(order.Domain); err != nil {
		return nil, err
	}
	return &Stillness{Order: order, words: words, tool: tool{uri: order.URI, domain: order.Domain}}, nil
}

// Check finds out whether the guest's agent answers. Of a pause it is known when it comes.
func (s *Stillness) Check() error {
	if !s.Freeze {
		return nil
	}
	return s.orGo(s.findAgent())
}

// orGo makes a failure a warning, where it may be.
func (s *Stillness) orGo(err error) error {
	if err == nil || !s.OrGo {
		return err
	}
	s.words.Warn("%v: its disks are as after a power cut", err)
	return nil
}

// Begin keeps the domain still. The errors have status Unavailable.
func (s *Stillness) Begin() error {
	if s.Freeze {
		err := s.findAgent()
		if err == nil {
			s.words.Info("freeze the file systems of %s", s.Domain)
			err = s.start(freeze)
		}
		return s.orGo(err)
	}
	runs, err := s.findRunning()
	if err != nil || !runs {
		return err
	}
	s.words.Info("pause %s", s.Domain)
	return s.start(stop)
}

// findAgent sets the toolstack that reaches the guest's agent.
func (s *Stillness) findAgent() error {
	if s.Toolstack == "xl" {
		return exit.Fail(exit.Unavailable, "%s cannot be frozen: its agent is only reached by virsh, not by xl", s.Domain)
	}
	s.tool.name = "virsh"
	if err := s.tool.askAgent(); err != nil {
		return exit.Fail(exit.Unavailable, "%s cannot be frozen: no agent answers in the guest: %w", s.Domain, err)
	}
	return nil
}

// findRunning sets the toolstack by which the domain runs. One that is paused already, or on
// its way, is not ours to resume.
func (s *Stillness) findRunning() (bool, error) {
	var failures []error
	for _, name := range []string{"virsh", "xl"} {
		if s.Toolstack != "auto" && s.Toolstack != name {
			continue
		}
		s.tool.name = name
		stand, err := s.tool.stand()
		if stand == domain.Runs || stand == domain.Paused {
			return stand == domain.Runs, nil
		}
		failures = append(failures, err)
	}
	if slices.Contains(failures, nil) {
		return false, nil
	}
	return false, exit.Fail(exit.Unavailable, "cannot tell whether %s runs: %w", s.Domain, errors.Join(failures...))
}

// start starts the watchdog and waits until the domain is still.
func (s *Stillness) start(how way) error {
	if err := s.unchain(how); err != nil {
		return exit.Fail(exit.Unavailable, "cannot start a watchdog for %s: %w", s.Domain, err)
	}
	timeout := time.After(patience)
	var why error
	select {
	case r := <-s.reports:
		switch r.word {
		case "still":
			return nil
		case "refused":
			why = errors.New(r.words)
		default:
			why = errors.New("its watchdog has ended")
		}
	case <-timeout:
		why = errors.New("no answer within " + strconv.Itoa(int(patience.Seconds())) + " s")
	}
	s.loosen()
	return exit.Fail(exit.Unavailable, "%s does not let itself be %s: %w", s.Domain, how.done(), why)
}

// unchain starts the watchdog, with nothing that is open here but its leash: neither a lock that
// the caller has nor its standard error, which would keep cron waiting.
func (s *Stillness) unchain(how way) error {
	theirs, leash, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	in, out, err := os.Pipe()
	if err != nil {
		leash.Close()
		return err
	}
	defer out.Close()
	closeOnExec()
	dog := exec.Command("/proc/self/exe", s.Watchdog, string(how), s.tool.name, s.tool.uri, s.Domain)
	dog.Args[0] = "xb-snap"
	dog.Dir = "/"
	dog.Stdin, dog.ExtraFiles = theirs, []*os.File{out}
	dog.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := dog.Start(); err != nil {
		leash.Close()
		in.Close()
		return err
	}
	s.leash, s.reports = leash, make(chan report, 1000)
	go func() {
		defer close(s.reports)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			word, words, _ := strings.Cut(lines.Text(), " ")
			s.reports <- report{word, words}
		}
		dog.Wait()
	}()
	// Before anything else is undone, which may take its time.
	s.cancel = durable.OnSignal(func() { leash.Close() })
	return nil
}

// closeOnExec keeps from programs that we start what our caller has left open for us.
func closeOnExec() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// End lets the domain go. The error, of status Unavailable, says that its file systems were not
// frozen, for certain, until the last snapshot was taken.
func (s *Stillness) End() error {
	if s.leash == nil {
		return nil
	}
	s.loosen()
	o := s.outcome()
	if s.Freeze {
		return s.orGo(s.judgeFreeze(o))
	}
	s.judgePause(o)
	return nil
}

func (s *Stillness) loosen() {
	s.cancel()
	s.leash.Close()
	s.leash = nil
}

// outcome is how a stillness has ended.
type outcome struct {
	free  bool   // the domain goes on
	early bool   // it did so before it was let go
	alive bool   // the watchdog is at work still
	stuck string // why it is not let go
}

// outcome waits for the watchdog's end.
func (s *Stillness) outcome() (o outcome) {
	timeout := time.After(patience)
	for {
		select {
		case r, more := <-s.reports:
			if !more {
				return o
			}
			switch r.word {
			case "free":
				o.free = true
			case "late", "early":
				o.early = true
			case "stuck":
				o.stuck = r.words
			}
		case <-timeout:
			o.alive = true
			return o
		}
	}
}

func (s *Stillness) judgeFreeze(o outcome) error {
	switch {
	case o.early:
		return exit.Fail(exit.Unavailable, "the file systems of %s were thawed before all snapshots were taken", s.Domain)
	case o.free:
		return nil
	case o.alive:
		return exit.Fail(exit.Unavailable, "the file systems of %s are still frozen; this is tried again every second, for %v: %s",
			s.Domain, watchTime, o.stuck)
	}
	if _, err := s.tool.thaw(); err != nil {
		return exit.Fail(exit.Unavailable, "the file systems of %s may be frozen still: its watchdog has ended; "+
			"virsh domfsthaw %s: %w", s.Domain, s.Domain, err)
	}
	return exit.Fail(exit.Unavailable, "the watchdog of %s has ended, and it was thawed", s.Domain)
}

func (s *Stillness) judgePause(o outcome) {
	if o.early {
		s.words.Warn("%s ran again before all snapshots were taken: its disks are not of one instant", s.Domain)
	}
	switch {
	case o.free:
	case o.alive:
		s.words.Error("%s is still paused; this is tried again every second, for %v: %s", s.Domain, watchTime, o.stuck)
	default:
		if err := s.tool.resume(); err != nil {
			s.words.Error("%s may be paused still: its watchdog has ended: %v", s.Domain, err)
		}
	}
}
