package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// TestLongMovedCampaign compares snapshots while their bytes are moved about by all that a file system has for that,
// and others write to the places that become free: no byte that differs is missing, ever. XB_CAMPAIGN makes it so
// many times as many comparisons.
func TestLongMovedCampaign(t *testing.T) {
	least := testkit.Rounds(t, 4)
	for kind, programs := range map[string][]string{
		"xfs": {"xfs_fsr $(ls fs/.image.xb-snap-* | shuf -n 1)"},
		"btrfs": {"btrfs balance start --full-balance fs",
			"btrfs filesystem defragment -f -t 64M $(ls fs/.image.xb-snap-* | shuf -n 1)",
			"sync -f fs"}, // only then may what has become free be used again
	} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(kind, "fs")
			snaps := h.rewritten()
			r := rand.New(rand.NewPCG(1, 2))
			m := &mover{host: h, snaps: snaps, passes: make(map[string]int)}
			for _, snap := range snaps {
				m.images = append(m.images, content(t, snap))
			}
			stop := m.start(programs)
			defer stop()
			n, busy, listed, whole := 0, 0, int64(0), int64(0)
			for ; n < least || whole == 0 && n < 20*least || !m.all(programs, 1); n++ {
				i := r.IntN(len(snaps) - 1)
				j := i + 1 + r.IntN(len(snaps)-1-i)
				switch res := h.sh("xb-snap changes --since " + snaps[i] + " " + snaps[j]); {
				case res.status == exit.Busy && res.out == "" && strings.Contains(res.err, "being moved"):
					busy++
				case res.status == 0 && res.err == "":
					_, bytes := covered(t, m.images[i], m.images[j], readExtents(t, res.out))
					listed, whole = listed+bytes, whole+rewrittenBlocks*fsBlock
				default:
					t.Fatalf("status %d: %s%s", res.status, res.out, res.err)
				}
				if t.Failed() {
					return
				}
			}
			stop()
			t.Logf("%s: %d pairs, none missed a byte, %d could not be told; of the others %d %% were listed; passes: %v",
				kind, n, busy, 100*listed/max(1, whole), m.passes)
			if whole == 0 {
				t.Error("nothing could ever be compared")
			}
		})
	}
}

const rewrittenBlocks = 3000

// rewritten returns three snapshots of an image that was rewritten here and there between them.
func (h *host) rewritten() (snaps []string) {
	h.Helper()
	h.image("fs/image", rewrittenBlocks*fsBlock, 1)
	for i := range uint64(3) {
		h.change("fs/image", 60, i)
		snaps = append(snaps, strings.TrimSpace(h.must("xb-snap create --owner none --size 20M fs/image")))
	}
	return snaps
}

// mover moves the bytes of snapshots until it is told to stop.
type mover struct {
	*host
	snaps  []string
	images [][]byte // what is in them, for ever

	sync.Mutex
	passes map[string]int // how often each way of moving came through
}

// start returns a function that ends it, which may be called twice.
func (m *mover) start(programs []string) (stop func()) {
	m.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	forever := func(name string, pass func() error) {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := pass(); err != nil && ctx.Err() == nil {
					m.Errorf("%s: %v", name, err)
					return
				}
				m.Lock()
				m.passes[name]++
				m.Unlock()
			}
		})
	}
	for _, program := range programs {
		forever(program, func() error {
			c := exec.Command("sh", "-c", program)
			c.Dir, c.Env = m.dir, m.env
			if out, err := c.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	forever("FIDEDUPERANGE", m.deduplicate)
	forever("writing", m.scribble)
	return func() { cancel(); all.Wait() }
}

// all reports whether each way of moving came through so often.
func (m *mover) all(programs []string, passes int) bool {
	m.Lock()
	defer m.Unlock()
	for _, name := range append(programs, "FIDEDUPERANGE", "writing") {
		if m.passes[name] < passes {
			return m.Failed()
		}
	}
	return true
}

// deduplicate makes every block that is the same in two snapshots have one place, which makes many small extents of
// what a defragmentation has put together.
func (m *mover) deduplicate() error {
	var files []*os.File
	for _, name := range m.snaps {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	images := m.images
	for i := 1; i < len(files); i++ {
		for at := 0; at < len(images[0]); at += fsBlock {
			end := at
			for end < len(images[0]) && bytes.Equal(images[0][end:end+fsBlock], images[i][end:end+fsBlock]) {
				end += fsBlock
			}
			if end == at {
				continue
			}
			err := unix.IoctlFileDedupeRange(int(files[0].Fd()), &unix.FileDedupeRange{Src_offset: uint64(at),
				Src_length: uint64(end - at),
				Info:       []unix.FileDedupeRangeInfo{{Dest_fd: int64(files[i].Fd()), Dest_offset: uint64(at)}}})
			if err != nil {
				return err
			}
			at = end
		}
	}
	return nil
}

// scribble fills some of what is free, and makes it free again.
func (m *mover) scribble() error {
	f, err := os.OpenFile(m.path("fs/scribble"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := blockdev.Buffer(mib)
	copy(b, bytes.Repeat([]byte("scribble"), mib/8))
	for range 16 {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return nil
}
