package standby

import (
	"io"
	"os"
	"sync/atomic"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
)

// takeLock takes the target's lock and tells what this run is, so that another one can
// say whom it finds.
func (p *patcher) takeLock() (err error) {
	run := state.Run{Peer: p.Peer, Disk: p.Disk, Session: p.Session}
	if p.lock, err = p.device.Lock(run); err != nil {
		return err
	}
	if p.lock.Ended != "" {
		p.user.Warn("%s: ended %s", p.Target, p.lock.Ended)
	}
	return nil
}

// input is the delta as it arrives.
type input struct {
	io.Reader
	lock    *state.Lock // nil: nobody needs to know
	bytes   atomic.Int64
	waiting atomic.Bool // for the next byte
}

func (i *input) Read(b []byte) (int, error) {
	if i.lock != nil {
		i.lock.Wait()
	}
	i.waiting.Store(true)
	n, err := i.Reader.Read(b)
	i.waiting.Store(false)
	i.bytes.Add(int64(n))
	if i.lock != nil {
		if busy := i.lock.Resume(); busy != nil {
			return 0, busy
		}
	}
	return n, err
}

// watched returns the delta on standard input so that it is seen how it arrives.
func (p *patcher) watched(in io.Reader) io.Reader {
	p.input.Reader = in
	if !isFile(in) {
		p.input.lock = p.lock
	}
	return &p.input
}

// isFile tells whether an input is a regular file, all of which is there.
func isFile(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// startProgress begins to show what the run does.
func (p *patcher) startProgress() { p.progress = p.user.Begin(p.movement()) }

// Where a run writes, and may hang in the kernel for minutes while a slow disk works.
const (
	onSpool = iota + 1 // 0: nowhere
	onTarget
)

// movement has the source know whether this end moves: by what has arrived, or, unless the
// run waits for the next byte, by the writes that the device finishes on which it writes.
// Others may write there too, so that counts only meanwhile.
func (p *patcher) movement() (moved func() bool) {
	target, spool := blockdev.Counters(p.Target), blockdev.Counters(p.device.SpoolFile(p.Spool))
	counters := func() string {
		switch p.writes.Load() {
		case onSpool:
			return spool()
		case onTarget:
			return target()
		}
		return ""
	}
	bytes, counted := int64(0), counters()
	return func() (moved bool) {
		if now := p.input.bytes.Load(); now != bytes {
			bytes, moved = now, true
		}
		if now := counters(); now != counted {
			counted, moved = now, moved || !p.input.waiting.Load()
		}
		return moved
	}
}
