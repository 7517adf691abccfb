// Machines runs the lab's two hosts, dom0a and dom0b, as user-mode Linux processes joined by one virtual
// cable. It shows the lines that the machines mark for the operator, keeps their whole consoles in files,
// and ends with the status that dom0a printed, or 70 if the machines failed.
//
// It runs where / is the kernel's own folder (see ../run).
//
// Checks switch dom0b's power by a file WORK/power-dom0b holding "off" or "on"; the file is removed when
// that has been done. With -led-by dom0b it is that host which prints the status, and dom0a's power is switched.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	forOperator = "lab| " // console lines with this prefix are shown
	result      = "lab! " // and this one carries the exit status: a halt itself always exits 0
	cableBuffer = 4 << 20 // bytes; with the default of 208 KiB, ssh between the hosts stalls
	poll        = 20 * time.Millisecond
)

// statusNone says that a machine has not printed its result.
const statusNone = -1

type machine struct {
	name, address, mac string
	tree, work, memory string
	cable              *os.File
	console            io.Writer

	process *exec.Cmd
	ended   chan end // gives one when the process is gone
}

// end is what a machine's console said at last.
type end struct {
	status int    // that it printed, or statusNone
	last   string // line
}

// start boots the machine with the disks as they are, unless it is on.
func (m *machine) start() error {
	if m.ended != nil {
		return nil // is on
	}
	cmd := exec.Command("/usr/bin/linux.uml",
		// Without this word each system call in the machine is a stop for ptrace, and everything takes twice the time.
		// Where seccomp can't be had, the machine says so and dies.
		"seccomp=on",
		"mem="+m.memory, "quiet", "panic=1", "noreboot",
		"con=null", "con0=null,fd:1",
		"umid="+m.name, "uml_dir="+m.work+"/uml/",
		"root=/dev/root", "rootfstype=hostfs", "rootflags="+m.tree, "ro", "init=/boot-lab",
		"ubda="+filepath.Join(m.work, m.name+"-plain.img"),
		"ubdb="+filepath.Join(m.work, m.name+"-volatile.img"),
		// The MAC stays the same over a power cut: with a new one, the peer asks the old one for 50 s.
		"vec0:transport=fd,fd=3,depth=128,mtu=9000,mac="+m.mac,
		"labhost="+m.name, "labaddress="+m.address, "labwork="+m.work)
	cmd.ExtraFiles = []*os.File{m.cable}
	// The machine's memory is an unlinked file there; on a disk it is much slower.
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	m.process, m.ended = cmd, make(chan end, 1)
	go func(ended chan<- end) {
		e := m.readConsole(output)
		cmd.Wait() // a power cut's "killed" is no news, and a halt's 0 says nothing
		ended <- e
	}(m.ended)
	return nil
}

func (m *machine) readConsole(r io.Reader) end {
	e := end{status: statusNone}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return e
		}
		line = strings.TrimRight(line, "\r\n")
		fmt.Fprintln(m.console, line)
		if line != "" {
			e.last = line
		}
		if text, ok := strings.CutPrefix(line, forOperator); ok {
			fmt.Println(text)
		} else if text, ok := strings.CutPrefix(line, result); ok {
			if n, err := strconv.Atoi(text); err == nil {
				e.status = n
			}
		}
	}
}

// cut ends the machine, if it is on, as a power cut does. Its traced processes share its group and its disks, so cut
// returns only when all of them are gone.
func (m *machine) cut() {
	if m.ended == nil {
		return
	}
	group := -m.process.Process.Pid
	syscall.Kill(group, syscall.SIGKILL)
	<-m.ended
	for i := 0; i < 250 && syscall.Kill(group, 0) == nil; i++ {
		time.Sleep(poll)
	}
	m.ended = nil // never ready: a machine without power doesn't end
}

// obey does what the power file asks of the machine.
func (m *machine) obey() error {
	path := filepath.Join(m.work, "power-"+m.name)
	word, err := os.ReadFile(path)
	switch strings.TrimSpace(string(word)) {
	case "off":
		m.cut()
	case "on":
		err = m.start()
	default: // no file, or not yet written
		return nil
	}
	return errors.Join(err, os.Remove(path))
}

// cable returns the two ends of the hosts' network. Both stay open here, so that a machine can be started
// again.
func cable() (a, b *os.File, err error) {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, end := range ends {
		for _, option := range []int{syscall.SO_SNDBUF, syscall.SO_RCVBUF} {
			if err := syscall.SetsockoptInt(end, syscall.SOL_SOCKET, option, cableBuffer); err != nil {
				return nil, nil, err
			}
		}
	}
	return os.NewFile(uintptr(ends[0]), "cable a"), os.NewFile(uintptr(ends[1]), "cable b"), nil
}

// watch waits for a's result and serves b's power file meanwhile. However slow the machines are, they are
// stopped only when nothing was written to their consoles and logs for the time idle.
func watch(ctx context.Context, a, b *machine, idle time.Duration) (status int, err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	seen, since := "", time.Now()
	for {
		select {
		case e := <-a.ended:
			a.ended = nil
			if e.status == statusNone {
				return 0, fmt.Errorf("%s died: %s", a.name, e.last)
			}
			return e.status, nil
		case e := <-b.ended:
			b.ended = nil
			if _, err := os.Stat(filepath.Join(b.work, "poweroff")); err != nil {
				return 0, fmt.Errorf("%s died: %s", b.name, e.last)
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("machines stopped: %w", context.Cause(ctx))
		case <-tick.C:
			if err := b.obey(); err != nil {
				return 0, err
			}
			if now := written(filepath.Join(a.work, "out")); now != seen {
				seen, since = now, time.Now()
			} else if time.Since(since) > idle {
				return 0, fmt.Errorf("machines stopped: nothing was written to consoles and logs for %v", idle)
			}
		}
	}
}

// written says how much is in the files of a folder.
func written(folder string) string {
	var sizes strings.Builder
	files, _ := os.ReadDir(folder) // a file that vanishes meanwhile is a change, too
	for _, file := range files {
		if info, err := file.Info(); err == nil {
			fmt.Fprintln(&sizes, file.Name(), info.Size(), info.ModTime())
		}
	}
	return sizes.String()
}

func run() (status int, err error) {
	tree := flag.String("tree", "", "root tree of both machines")
	work := flag.String("work", "", "folder with disks, programs and checks, which both see as /lab")
	memory := flag.String("memory", "512M", "memory of each machine")
	leader := flag.String("led-by", "dom0a", "the host that prints the result")
	idle := flag.Duration("idle", 10*time.Minute, "how long nothing may be written to consoles and logs")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	endA, endB, err := cable()
	if err != nil {
		return 0, err
	}
	a := &machine{name: "dom0a", address: "10.77.0.1", mac: "02:00:00:00:00:0a", cable: endA}
	b := &machine{name: "dom0b", address: "10.77.0.2", mac: "02:00:00:00:00:0b", cable: endB}
	for _, m := range []*machine{a, b} {
		m.tree, m.work, m.memory = *tree, *work, *memory
		console, err := os.Create(filepath.Join(*work, "out", "console-"+m.name))
		if err != nil {
			return 0, err
		}
		m.console = console
		if err := m.start(); err != nil {
			return 0, err
		}
		defer m.cut()
	}
	if *leader == b.name {
		a, b = b, a
	}
	return watch(ctx, a, b, *idle)
}

func main() {
	// The machines die with the thread that started them (Pdeathsig), so that must be one that stays.
	runtime.LockOSThread()
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		status = 70
	}
	os.Exit(status)
}
