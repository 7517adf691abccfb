package standby

import (
	"io"
	"os"
	"sync/atomic"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/state"
)

// input is the delta as it arrives.
type input struct {
	io.Reader
	lock    atomic.Pointer[state.Lock] // nil: nobody needs to know
	bytes   atomic.Int64
	waiting atomic.Bool // for the next byte
}

func (i *input) Read(b []byte) (int, error) {
	if l := i.lock.Load(); l != nil {
		l.Wait()
	}
	i.waiting.Store(true)
	n, err := i.Reader.Read(b)
	i.waiting.Store(false)
	i.bytes.Add(int64(n))
	if l := i.lock.Load(); l != nil {
		if busy := l.Resume(); busy != nil {
			return 0, busy
		}
	}
	return n, err
}

// isFile reports whether an input is a regular file, all of which is there.
func isFile(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// Where a run writes, and may hang in the kernel for minutes while a slow disk works.
const (
	onSpool = iota + 1 // 0: nowhere
	onTarget
)

// movement has the source know whether this end moves: by what has arrived, or, unless the
// run waits for the next byte, by the writes that the device finishes on which it writes.
// Others may write there too, so that counts only meanwhile.
func (c *change) movement() (moved func() bool) {
	c.count()
	spool := blockdev.Counters(c.device.SpoolFile(c.Spool))
	counters := func() string {
		switch c.writing.Load() {
		case onSpool:
			return spool()
		case onTarget:
			return (*c.counters.Load())()
		}
		return ""
	}
	bytes, counted := int64(0), counters()
	return func() (moved bool) {
		if now := c.input.bytes.Load(); now != bytes {
			bytes, moved = now, true
		}
		if now := counters(); now != counted {
			counted, moved = now, moved || !c.input.waiting.Load()
		}
		return moved
	}
}

// count has the movement of the target be told by the device that it is now.
func (c *change) count() {
	counters := blockdev.Counters(c.Target)
	c.counters.Store(&counters)
}
