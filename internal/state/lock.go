package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// Run is what a run tells others of itself while it has a device's lock.
type Run struct {
	Peer    string `json:"peer,omitempty"`    // as in --peer
	Disk    string `json:"disk,omitempty"`    // as in --disk
	Session string `json:"session,omitempty"` // the connection that it came by: sshd's SSH_CONNECTION
}

// Lock is a device's lock. The lock itself is a flock(2) on its file, nothing else: that
// ends with the process. What the file holds is for those who find it taken.
//
// The first byte of the file has a lock of its own, the gate, which the holder has but while
// it waits for the next byte of its delta. Then it has done nothing that another run could
// not do again. Whoever gets the gate may end it, and until the gate is free again it can't
// go on to what must not be interrupted.
type Lock struct {
	Ended string // what was ended to get the lock, in words; mostly ""

	file     *os.File
	about    about
	told     bool      // the file says who has the lock
	recorded time.Time // when it was last written
}

// about is what the lock's file holds: one JSON object. Whoever reads it trusts it only if
// its process is the one that the kernel says has the lock.
type about struct {
	PID   int       `json:"pid"`
	Start string    `json:"start"` // tells a reused PID apart: see startOf
	Since time.Time `json:"since"`
	Run
	Last float64 `json:"last"` // when it last did something: the kernel's CLOCK_MONOTONIC, in seconds
}

const (
	// recordEvery is how often the file is written while bytes come.
	recordEvery = 10 * time.Second
	// deadAfter is how long no byte may come before the session counts as dead. The source's
	// ssh gives up 5 minutes after it has heard nothing.
	deadAfter = 6 * time.Minute
)

// patience is how long is waited for another process that should be done at once.
var patience = 30 * time.Second

// lockPatience is how long is waited for the locks of all disks of a set.
var lockPatience = time.Minute

// ErrAtWork is the cause where another process has the lock.
var ErrAtWork = errors.New("another xb-patch is at work on it")

// Lock takes the device's lock until it is released or the process ends. If another
// process has it, the error has status Busy and says what is known of that one, unless
// that is a run of the same disk from the same peer whose session is dead: it is ended.
// The lock file stays: removing it would let two processes lock two files of one name.
func (d *Device) Lock(run Run) (*Lock, error) {
	if err := d.dir.Make(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.file(".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot create the lock (see --state-dir): %w", err)
	}
	l := &Lock{file: f}
	err = l.take()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = l.takeOver(d, run)
	}
	if err == nil {
		err = l.begin(run)
	}
	if err != nil {
		f.Close()
		if exit.StatusOf(err) == exit.Busy {
			return nil, err
		}
		return nil, exit.Fail(exit.CantCreate, "cannot lock %s: %w", f.Name(), err)
	}
	d.sweep()
	return l, nil
}

// Release gives the lock back.
func (l *Lock) Release() { l.file.Close() }

// Check reports whether it still keeps others away: where its file was removed or moved, the
// next run has locked another one.
func (l *Lock) Check() error {
	named, err := os.Stat(l.file.Name())
	held, heldErr := l.file.Stat()
	if err != nil || heldErr != nil || !os.SameFile(named, held) {
		return exit.Fail(exit.Busy, "the lock %s was removed or replaced meanwhile, and another run may be at work",
			l.file.Name())
	}
	return nil
}

func (l *Lock) take() error { return unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// begin tells who has the lock now.
func (l *Lock) begin(run Run) error {
	if err := l.shut(); err != nil {
		return err
	}
	l.about = about{PID: os.Getpid(), Start: startOf(os.Getpid()), Since: time.Now().UTC().Truncate(time.Second), Run: run}
	l.record()
	return nil
}

// Wait tells that the run begins to wait for the next byte of its delta.
func (l *Lock) Wait() {
	l.record()
	if l.told {
		l.gate(unix.F_OFD_SETLK, unix.F_UNLCK)
	}
}

// Resume tells that the wait is over. If the run is being ended just now, that is an error
// with status Busy.
func (l *Lock) Resume() error {
	err := l.shut()
	l.record()
	return err
}

// record writes the file, but not all the time. Where it can't, nobody can tell whose lock
// it is, and that is all.
func (l *Lock) record() {
	now := time.Now()
	if now.Sub(l.recorded) < recordEvery {
		return
	}
	l.recorded, l.about.Last = now, monotonic()
	text, err := json.Marshal(l.about)
	if err == nil {
		_, err = l.file.WriteAt(append(text, '\n'), 0)
	}
	if err == nil {
		err = l.file.Truncate(int64(len(text) + 1))
	}
	l.told = err == nil
}

// shut keeps others from ending the run. Who has the gate has it for a moment, or is about
// to end this run.
func (l *Lock) shut() error {
	for end := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		err := l.gate(unix.F_OFD_SETLK, unix.F_WRLCK)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil // another error: where there are no such locks, nobody else has one either
		}
		if time.Now().After(end) {
			return exit.Fail(exit.Busy, "another run takes this one's session for dead")
		}
	}
}

func (l *Lock) gate(command int, kind int16) error {
	return unix.FcntlFlock(l.file.Fd(), command, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: 0, Len: 1})
}

// open reports whether the holder of the lock leaves the gate to others.
func (l *Lock) open() bool {
	gate := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
	return unix.FcntlFlock(l.file.Fd(), unix.F_OFD_GETLK, &gate) == nil && gate.Type == unix.F_UNLCK
}

// takeOver gets the lock from a run whose session is dead, or says who has it.
func (l *Lock) takeOver(d *Device, run Run) error {
	pid, theirs := l.holder()
	busy := func() error {
		return exit.Fail(exit.Busy, "%s: %w%s", d.path, ErrAtWork, l.describe(pid, theirs))
	}
	if theirs == nil || !theirs.deadFor(run) {
		return busy()
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return busy()
	}
	defer unix.Close(process)
	if l.gate(unix.F_OFD_SETLK, unix.F_WRLCK) != nil {
		return busy() // it works, or another one is ending it
	}
	// With the gate it can't go on to anything, and with process it can't be another
	// one of that number: is it still the one, and is it still so quiet?
	nowPID, now := l.holder()
	if nowPID != pid || now == nil || *now != *theirs || unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0) != nil {
		l.gate(unix.F_OFD_SETLK, unix.F_UNLCK)
		return busy()
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err := l.take(); !errors.Is(err, unix.EWOULDBLOCK) {
			l.Ended = fmt.Sprintf("process %d, which had the lock and was dead: for %s nothing came from %s",
				pid, theirs.quiet(), theirs.Peer)
			return err
		}
	}
	l.gate(unix.F_OFD_SETLK, unix.F_UNLCK)
	return busy()
}

// deadFor reports whether a run that waits for its delta may be ended by another one: one of
// the same disk from the same peer, that came by another connection than the one on which
// nothing comes any more, and at the end of which nobody is. A scan that finds nothing for
// an hour is silent too, and alive.
func (a *about) deadFor(run Run) bool {
	return run.Peer != "" && a.Peer == run.Peer && run.Disk != "" && a.Disk == run.Disk &&
		run.Session != "" && a.Session != "" && a.Session != run.Session && a.quiet() > deadAfter && unanswered(a.Session)
}

// quiet returns for how long no byte has come, to recordEvery.
func (a *about) quiet() time.Duration {
	return time.Duration((monotonic() - a.Last) * float64(time.Second)).Round(time.Second)
}

// describe says what is known of the holder of the lock.
func (l *Lock) describe(pid int, a *about) string {
	if pid == 0 {
		return "" // of another user, or in another PID namespace
	}
	text := fmt.Sprintf(": process %d", pid)
	if a == nil {
		return text
	}
	if a.Peer != "" {
		text += ", from " + a.Peer
	}
	if a.Disk != "" {
		text += ", of " + a.Disk
	}
	text += ", since " + a.Since.Format("2006-01-02 15:04:05 MST")
	if !l.open() {
		return text
	}
	text += fmt.Sprintf("; it receives its delta, the last byte of which came %s ago", a.quiet())
	if a.quiet() > deadAfter {
		text += fmt.Sprintf("\nif nobody sends to it any more: kill %d", pid)
	}
	return text
}

// holder returns the process that has the lock, as the kernel says, and what it has told
// of itself; 0 and nil where that is not known.
func (l *Lock) holder() (pid int, a *about) {
	if pid = l.holderPID(); pid == 0 {
		return 0, nil
	}
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, 1<<16))
	a = new(about)
	if err != nil || json.Unmarshal(text, a) != nil || a.PID != pid || a.Start == "" || a.Start != startOf(pid) {
		return pid, nil
	}
	return pid, a
}

// holderPID looks for the lock in /proc/locks (proc_locks(5)): "1: FLOCK  ADVISORY  WRITE
// 1234 08:01:56789 0 EOF". On some file systems the device there is not that of stat(2),
// so the process is asked which file it has.
func (l *Lock) holderPID() int {
	info, err := l.file.Stat()
	if err != nil {
		return 0
	}
	var stat unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(l.file.Fd()), &stat) != nil {
		return 0
	}
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], fmt.Sprintf(":%d", stat.Ino)) {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && hasOpen(pid, info) {
			return pid
		}
	}
	return 0
}

func hasOpen(pid int, file os.FileInfo) bool {
	descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, name := range descriptors {
		if info, err := os.Stat(name); err == nil && os.SameFile(info, file) {
			return true
		}
	}
	return false
}

// startOf returns when a process was started, in the kernel's ticks since it booted: field
// 22 of proc_pid_stat(5). Before it only the name of the program may have blanks and
// parentheses.
func startOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// monotonic returns the kernel's clock that nobody sets, the same for all processes.
func monotonic() float64 { return clock(unix.CLOCK_MONOTONIC) }

// uptime returns how long the kernel has run, sleep included.
func uptime() float64 { return clock(unix.CLOCK_BOOTTIME) }

func clock(id int32) float64 {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return float64(t.Nano()) / 1e9
}

// sweep removes the temporary files of runs that were killed while they saved the
// state, and the change of a set that was killed after it was finished; only who has the
// lock may have one.
func (d *Device) sweep() {
	for _, suffix := range []string{".json", ".held", ".consent"} {
		left, _ := filepath.Glob(filepath.Join(globEscape(string(d.dir)), "."+globEscape(d.base)+suffix+".*"))
		for _, name := range left {
			rest := strings.TrimPrefix(filepath.Base(name), "."+d.base+suffix+".")
			if !strings.Contains(rest, ".") { // else that of a file called "x.json"
				os.Remove(name)
			}
		}
	}
	changes, _ := d.changes()
	for _, c := range changes {
		if finished, err := c.IsFinished(d.dir); err == nil && finished {
			d.dir.RemoveChange(c.Set)
		}
	}
	if h, err := d.Held(); err == nil && h != nil {
		left, _ := filepath.Glob(filepath.Join(globEscape(string(d.dir)), setsDir, "."+h.Set+".json.*"))
		for _, name := range left {
			os.Remove(name)
		}
	}
}

// LockAll takes the locks of several devices, in the order of their identities, so that no
// two runs wait for each other, and waits for each of them until a minute has passed.
func LockAll(devices []*Device, run Run) (locks map[*Device]*Lock, err error) {
	locks = make(map[*Device]*Lock)
	end := time.Now().Add(lockPatience)
	for _, d := range slices.SortedFunc(slices.Values(devices), func(a, b *Device) int {
		return strings.Compare(a.base, b.base)
	}) {
		l, err := d.Lock(run)
		for ; exit.StatusOf(err) == exit.Busy && time.Now().Before(end); l, err = d.Lock(run) {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			for _, l := range locks {
				l.Release()
			}
			return nil, err
		}
		locks[d] = l
	}
	return locks, nil
}
