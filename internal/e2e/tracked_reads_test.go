package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// traced runs stages as a pipeline, and returns how many bytes each has read of each file, by its system calls.
func (h *host) traced(stages ...string) (read []map[string]int64, r result) {
	h.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		h.Skip("needs strace")
	}
	traces, err := os.MkdirTemp(h.notes, "trace")
	if err != nil {
		h.Fatal(err)
	}
	for i, stage := range stages {
		stages[i] = fmt.Sprintf("strace -ff -qq -y -s 1000 -e abbrev=none -e signal=none "+
			"-e trace=read,readv,pread64,preadv,preadv2,io_submit,mmap -o %s/%d %s", traces, i, stage)
	}
	r = h.pipe(stages...)
	for i := range stages {
		read = append(read, readsOf(h, h.must(fmt.Sprintf("cat %s/%d.*", traces, i))))
	}
	return read, r
}

var (
	calls   = regexp.MustCompile(`(?m)^(?:read|readv|pread64|preadv|preadv2)\(\d+<([^>]*)>.* = (\d+)$`)
	batched = regexp.MustCompile(`aio_lio_opcode=IOCB_CMD_PREAD, aio_fildes=\d+<([^>]*)>, aio_buf=0x[0-9a-f]+, aio_nbytes=(\d+)`)
	mapped  = regexp.MustCompile(`(?m)^mmap\(.*, \d+<([^>]*)>, (\w+)\) = `)
)

func readsOf(h *host, trace string) map[string]int64 {
	h.Helper()
	read := map[string]int64{}
	for _, way := range []*regexp.Regexp{calls, batched, mapped} {
		for _, m := range way.FindAllStringSubmatch(trace, -1) {
			n, err := strconv.ParseInt(m[2], 0, 64)
			if err != nil {
				h.Fatal(err)
			}
			if way == mapped {
				n = 1 << 40 // too much, of a file that counts
			}
			read[strings.TrimPrefix(m[1], h.dir+"/")] += n
		}
	}
	return read
}

// TestLongTrackedReads demands that only what has changed is read: here twice what is listed, there twice what is replaced,
// to prove it and to read it back. Where nobody can tell any more that the target is what it was, all of it is read besides.
func TestLongTrackedReads(t *testing.T) {
	const size = 64 * mib
	h := newTracked(t, "xfs", size)
	file := h.target
	h.must("cp target disk")
	loop := h.loop("disk")
	again := func() { // what is remembered of the file is of the device now
		h.must("xb-sig " + loop + " | xb-delta " + h.snap + " | xb-patch -q --auto --peer dom0a --disk domu1/xvda " + loop)
	}
	counted := fmt.Sprintf("/sys/block/%s/queue/iostats", strings.TrimPrefix(loop, "/dev/"))
	h.Cleanup(func() { h.must("echo 1 >" + counted) }) // it stays with the device, whatever that is next
	for i, c := range []struct {
		what, target, before string
		whole                bool
	}{
		{"file", file, "", false},
		{"file, after a reboot", file, "sed -i s/$(cat /proc/sys/kernel/random/boot_id)/00000000/ " + h.state + "/*.json", true},
		{"device", loop, "", false},
		{"device that counts no writes", loop, "echo 0 >" + counted, true},
	} {
		h.target = c.target
		if c.what == "device" {
			h.must("rm -f " + h.state + "/*target*")
			again()
		}
		h.change("fs/disk", 60, uint64(i))
		snap := h.take()
		var extents, listed int64
		if _, err := fmt.Sscanf(h.must("xb-snap changes --since "+h.snap+" "+snap+" | tail -n 1"), "end %d %d", &extents, &listed); err != nil {
			t.Fatal(err)
		}
		h.must("true; " + c.before)
		read, r := h.traced(h.stages(snap, "", "-v")...)
		r.fails(t, 0)
		if said := strings.Contains(r.err, "reading all of it"); said != c.whole {
			t.Errorf("%s: %s", c.what, r.err)
		}
		sent, applied := h.summary("sent"), h.summary("applied")
		source, target := read[1][strings.TrimPrefix(h.snap, h.dir+"/")]+read[1][strings.TrimPrefix(snap, h.dir+"/")], read[2][c.target]
		t.Logf("%s: %d listed, %d changed; of the source %d read, of the target %d", c.what, listed, sent.BytesChanged, source, target)
		// Of each image it reads a sector to find out whether that goes past the page cache.
		if source < sent.BytesRead || source > sent.BytesRead+2*4096 || target != applied.TargetBytesRead {
			t.Errorf("%s: the programs have counted %d and %d", c.what, sent.BytesRead, applied.TargetBytesRead)
		}
		most := sent.BytesChanged * 21 / 10
		if c.whole { // but for holes
			most += size
		}
		if source > listed*21/10 || target > most {
			t.Errorf("%s: too much was read", c.what)
		}
		h.sameBytes(snap, c.target)
		h.keep(snap)
	}
}
