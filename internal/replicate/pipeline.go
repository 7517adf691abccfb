package replicate

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xen-backup/internal/exit"
)

// pipeline is a list of programs, of which each reads what the one before it writes.
type pipeline [][]string

// ended is how a pipeline has ended.
type ended struct {
	stages  []int
	stalled time.Duration // it was ended after so long without progress; 0: it was not
	answer  lines         // what the last one has written to its standard output
	said    lines         // what they have written to standard error, those that failed before the others
}

// good reports whether all went well.
func (e *ended) good() bool {
	for _, status := range e.stages {
		if status != exit.OK {
			return false
		}
	}
	return true
}

// failure says what went wrong.
func (e *ended) failure() error {
	if e.stalled > 0 {
		return fmt.Errorf("no progress for %s", e.stalled)
	}
	if len(e.said.list) > 0 {
		return errors.New(e.said.list[0])
	}
	return fmt.Errorf("status %d", e.stages[0])
}

// watch runs a pipeline, and ends it when none of its programs has told of progress for so long. The first one reads in;
// nil is nothing.
func (c *children) watch(limit time.Duration, in *os.File, p pipeline) *ended {
	return c.watchInto(limit, in, nil, p)
}

// watchInto is watch, and out is where the last one writes; nil: that is its answer.
func (c *children) watchInto(limit time.Duration, in, out *os.File, p pipeline) *ended {
	e, moved := &ended{}, &movement{}
	moved.now()
	f, err := e.connect(in, out, len(p), moved)
	if err != nil {
		return &ended{stages: []int{exit.IOError}, said: lines{list: []string{"cannot connect programs: " + err.Error()}}}
	}
	var all []*child
	for i, words := range p {
		ch, err := c.start(words, f.standard[i])
		if err != nil {
			f.said[i].add(words[0] + ": " + err.Error())
		}
		all = append(all, ch)
	}
	f.leave()
	if moved.stops(all, limit) {
		e.stalled = limit
		end(all)
	}
	for _, ch := range all {
		e.stages = append(e.stages, ch.outcome())
	}
	f.readToEnd()
	e.sort(f.said)
	return e
}

// sort takes what each program has said. What comes first is remembered, so that is what a program said that failed, and
// not one that only saw its neighbour end, or warned.
func (e *ended) sort(said []*lines) {
	for _, failed := range []bool{true, false} {
		for i, l := range said {
			if (e.stages[i] != exit.OK) == failed {
				e.said.list = append(e.said.list, l.list...)
			}
		}
	}
}

// movement is when programs last told of progress.
type movement struct{ at atomic.Int64 }

var begin = time.Now()

func (m *movement) now() { m.at.Store(int64(time.Since(begin))) }

// stops waits for the end of all, and reports whether they stand still before.
func (m *movement) stops(all []*child, limit time.Duration) bool {
	for _, ch := range all {
		for !ch.hasEnded() {
			left := limit - (time.Since(begin) - time.Duration(m.at.Load()))
			if left <= 0 {
				return true
			}
			select {
			case <-ch.ended:
			case <-time.After(left):
			}
		}
	}
	return false
}

// files are those of a pipeline.
type files struct {
	standard [][]*os.File // of each program: input, output, errors
	read     []*os.File   // what programs say is read from there
	said     []*lines     // of each program, to standard error
	readers  sync.WaitGroup
}

// connect makes the files of so many programs. Those that it is given are theirs.
func (e *ended) connect(in, last *os.File, programs int, moved *movement) (f *files, err error) {
	f = &files{}
	if in == nil {
		if in, err = os.Open(os.DevNull); err != nil {
			return nil, err
		}
	}
	for i := range programs {
		var next, out, said *os.File
		switch {
		case i < programs-1:
			next, out, err = os.Pipe() // which programs find blocking: see os.File.Fd
		case last != nil:
			out = last
		default:
			out, err = f.collect(&e.answer, moved)
		}
		if err == nil {
			f.said = append(f.said, &lines{})
			said, err = f.collect(f.said[i], moved)
		}
		f.standard, in = append(f.standard, []*os.File{in, out, said}), next
		if err != nil {
			closeAll(next)
			f.leave()
			f.readToEnd()
			return nil, err
		}
	}
	return f, nil
}

// collect returns a file of which all lines are collected. Heartbeats are none, but movements.
func (f *files) collect(to *lines, moved *movement) (out *os.File, err error) {
	in, out, err := os.Pipe() // its own end can be given up while it is read
	if err != nil {
		return nil, err
	}
	f.read = append(f.read, in)
	f.readers.Go(func() {
		defer in.Close()
		to.readAll(in, moved)
	})
	return out, nil
}

// leave closes what only the programs need.
func (f *files) leave() {
	for _, standard := range f.standard {
		closeAll(standard...)
	}
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// afterEnd is how long it may take until all is read that a program has said which has ended: the connection that it used
// has its files, too, and closes them when the other side has.
const afterEnd = 3 * time.Second

// readToEnd reads what programs have said that have ended.
func (f *files) readToEnd() {
	for _, in := range f.read {
		in.SetReadDeadline(time.Now().Add(afterEnd))
	}
	f.readers.Wait()
}

// What is kept of what programs say: a login shell may speak for ever.
const (
	maxLines = 1000
	maxLine  = 4096
)

// lines are what programs say.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) < maxLines {
		l.list = append(l.list, line)
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.list, "\n")
}

func (l *lines) readAll(in *os.File, moved *movement) {
	b := bufio.NewReaderSize(in, maxLine)
	for {
		line, more, err := b.ReadLine()
		if err != nil {
			return
		}
		word := string(line)
		for more && err == nil {
			_, more, err = b.ReadLine()
		}
		switch word {
		case "progress":
			moved.now()
		case "waiting":
		default:
			l.add(word)
		}
	}
}
