package replicate

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/durable"
	"xen-backup/internal/program"
)

// children starts programs in the process group of this one, and leaves none behind: a signal that ends this process
// ends them first, and where it is killed, or whoever started it is, the kernel ends them.
type children struct {
	thread chan func() // what is done on the one thread that starts them, for its end would be their parent's

	mu    sync.Mutex
	alive map[*child]bool
}

// child is a program that was started.
type child struct {
	process *os.Process
	ended   chan struct{} // closed when it has ended
	status  int           // of it then, as a shell tells it
}

// What a shell says of a program that it cannot run, or that was ended.
const (
	notExecutable = 126
	notFound      = 127
	bySignal      = 128 // and above: it was ended by one
)

// patience is how long a program that was asked to end may take for that, and one that was killed.
const patience = 2 * time.Second

func newChildren() (c *children, release func(), err error) {
	c = &children{thread: make(chan func()), alive: make(map[*child]bool)}
	closeOnExec()
	if err := program.EndWithParent(); err != nil {
		return nil, nil, err
	}
	go func() {
		runtime.LockOSThread() // for good
		for do := range c.thread {
			do()
		}
	}()
	return c, durable.OnSignal(c.endAll), nil
}

// closeOnExec has no program inherit what this one has inherited, such as a lock: it may stay longer.
func closeOnExec() {
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

func (c *children) onThread(do func()) {
	done := make(chan struct{})
	c.thread <- func() { defer close(done); do() }
	<-done
}

// start starts a program with these standard files. Of one that cannot be started the status is the shell's.
func (c *children) start(words []string, standard []*os.File) (*child, error) {
	ch := &child{ended: make(chan struct{})}
	path, err := program.Find(words[0])
	if err == nil {
		// A signal that comes meanwhile waits until it can end this one, too.
		_, err = durable.Create(func() (func(), error) {
			var err error
			c.onThread(func() { ch.process, err = startProcess(path, words, standard) })
			if err == nil {
				c.mu.Lock()
				c.alive[ch] = true
				c.mu.Unlock()
			}
			return func() {}, err
		})
	}
	if err != nil {
		ch.status = notExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			ch.status = notFound
		}
		close(ch.ended)
		return ch, err
	}
	go c.wait(ch)
	return ch, nil
}

func startProcess(path string, words []string, files []*os.File) (*os.Process, error) {
	return os.StartProcess(path, words, &os.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
}

func (c *children) wait(ch *child) {
	state, err := ch.process.Wait()
	ch.status = bySignal
	if err == nil {
		if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
			ch.status += int(ws.Signal())
		} else {
			ch.status = ws.ExitStatus()
		}
	}
	c.mu.Lock()
	delete(c.alive, ch)
	c.mu.Unlock()
	close(ch.ended)
}

func (c *children) endAll() {
	c.mu.Lock()
	var all []*child
	for ch := range c.alive {
		all = append(all, ch)
	}
	c.mu.Unlock()
	end(all)
}

// end ends programs, also those that stand still. One that not even a kill ends, for it waits for a disk, is left to the
// kernel.
func end(all []*child) {
	for _, signals := range [][]os.Signal{{syscall.SIGTERM, syscall.SIGCONT}, {syscall.SIGKILL}} {
		for _, ch := range all {
			for _, s := range signals {
				if ch.process != nil {
					ch.process.Signal(s)
				}
			}
		}
		late := time.After(patience)
		for _, ch := range all {
			select {
			case <-ch.ended:
			case <-late:
				late = closedTime
			}
		}
	}
}

// closedTime is a time that has come.
var closedTime = func() <-chan time.Time { c := make(chan time.Time); close(c); return c }()

// hasEnded reports whether it has.
func (ch *child) hasEnded() bool {
	select {
	case <-ch.ended:
		return true
	default:
		return false
	}
}

// outcome returns the status of one that has ended, or that was killed and does not.
func (ch *child) outcome() int {
	if ch.hasEnded() {
		return ch.status
	}
	return bySignal + int(syscall.SIGKILL)
}
