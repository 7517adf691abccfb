package replicate

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Connect opens the connection to each Dom0 that all programs of a run share, and tells in the run's directory which can
// be reached; then it calls told. It keeps them until in, of whoever has started it, ends.
func Connect(o Options, dom0s []string, in io.Reader, told func() error) error {
	if err := checkNames(dom0s); err != nil {
		return err
	}
	programs, release, err := newChildren()
	if err != nil {
		return err
	}
	defer release()
	var masters []*master
	for i, name := range slices.Compact(slices.Sorted(slices.Values(dom0s))) {
		m := &master{dom0: dom0{name: name, run: o.Run, socket: filepath.Join(o.Run, fmt.Sprintf("ssh.%d", i))}}
		m.words = append(append([]string{"ssh"}, options(o.ConnectTimeout, m.socket)...), "-M", "-N", name)
		masters = append(masters, m)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}()
	known := make(chan error, 1)
	go func() {
		each(masters, len(masters), func(m *master) bool { return m.open(programs, 4*o.ConnectTimeout) })
		err := list(o.Run, masters)
		if err == nil {
			err = told()
		}
		known <- err
	}()
	select {
	case err = <-known:
		if err == nil {
			err = <-ended
		}
	case err = <-ended:
	}
	programs.endAll()
	return err
}

// master is the program that has a connection.
type master struct {
	dom0
	words []string
}

// open waits until the connection is there, or will not be. It goes on for as long as its program does.
func (m *master) open(programs *children, limit time.Duration) bool {
	gone := make(chan *ended, 1)
	go func() { gone <- programs.watch(forever, nil, pipeline{m.words}) }()
	late := time.After(limit)
	for {
		select {
		case e := <-gone:
			m.lose(e)
			return false
		case <-late:
			m.bury(fmt.Sprintf("it lets nobody log in within %d s", int(limit.Seconds())))
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if info, err := os.Lstat(m.socket); err == nil && info.Mode().Type() == os.ModeSocket {
			go func() { m.lose(<-gone) }()
			return true
		}
	}
}

// forever is longer than any run.
const forever = 10 * 365 * 24 * time.Hour

func (m *master) lose(e *ended) {
	m.bury(cmp.Or(e.said.String(), "the connection to it has ended"))
}

// list tells which Dom0s can be reached.
func list(run string, masters []*master) error {
	var b strings.Builder
	for _, m := range masters {
		if m.isDead() {
			why := text.Printable(strings.Join(strings.Fields(m.whyDead()), " "))
			fmt.Fprintf(&b, "%s\t%s\t%s\n", m.name, none, why)
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", m.name, m.socket)
		}
	}
	name := filepath.Join(run, listName)
	if err := os.WriteFile(name+".part", []byte(b.String()), 0o600); err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	if err := os.Rename(name+".part", name); err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	return nil
}
