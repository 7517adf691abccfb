package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// TestLongBackground copies in the background, at a limited rate: the outcome is the same, in files and on devices.
func TestLongBackground(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 5*mib+512, 1)
	h.image("file", 5*mib+512, 2)
	targets := []string{"file"}
	if os.Geteuid() == 0 {
		h.image("disk", 5*mib+512, 3)
		targets = append(targets, h.loop("disk"))
	}
	const pace = " --background --read-limit 1G "
	for _, target := range targets {
		h.pipe("xb-sig"+pace+target, "xb-delta"+pace+"source", "xb-patch"+pace+target).fails(t, 0, "first contact")
		h.sameBytes("source", target)
		h.pipe("xb-sig"+pace+target, "xb-delta --check"+pace+"source").silent(t)
	}
	h.must("rm -r " + h.state)
	h.image("file", 5*mib+512, 4)
	h.pipe("xb-sig file", "xb-delta source", "xb-patch --in-place"+pace+"file").fails(t, 0)
	h.sameBytes("source", "file")
	h.change("source", 300, 5)
	h.must("xb-sig file >sig && xb-delta source <sig >delta")
	h.killInApply("file", "delta")
	h.sh("xb-patch --recover" + pace + "file").silent(t)
	h.sameBytes("source", "file")
	for _, command := range []string{"xb-sig --read-limit 0 file", "xb-sig --read-limit 1M -", "xb-delta --read-limit x source",
		"xb-delta --read-limit 1M --signature sig -", "xb-patch --state --background file"} {
		h.sh(command).fails(t, exit.Usage)
	}
}

// TestLimitedReads: what is read of the disk is limited, and holes are not read.
func TestLimitedReads(t *testing.T) {
	h := newHost(t)
	h.image("full", 2*mib, 1)
	h.must("truncate -s 1G holes && xb-sig --read-limit 4K holes >sig")
	start := time.Now()
	h.must("xb-sig --read-limit 4M full >sig")
	if took := time.Since(start); took < 350*time.Millisecond { // less what the bucket holds
		t.Errorf("2 MiB at 4 MiB/s took %v", took)
	}
	start = time.Now()
	h.sh("xb-delta --check --read-limit 4M full <sig").fails(t, 0)
	if took := time.Since(start); took < 350*time.Millisecond {
		t.Errorf("2 MiB at 4 MiB/s took %v", took)
	}
}

// TestBackgroundPriority asks the kernel for the priorities of all threads.
func TestBackgroundPriority(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	h.must("xb-sig target >sig && xb-delta source <sig >delta")
	const lowest = 2<<13 | 7 // best-effort 7
	for command, input := range map[string]string{"xb-sig%s -": "source", "xb-delta%s --signature sig -": "source",
		"xb-patch%s target": "delta"} {
		for _, option := range []string{"", " --background"} {
			in, out := pipeIn(t)
			r := h.start(in, fmt.Sprintf(command, option), "cat")
			content := h.read(input)
			if _, err := out.Write(content[:len(content)/2]); err != nil { // all of it is read: the run is under way
				t.Fatal(err)
			}
			pid := r.stages[0].Process.Pid
			eventually(t, "an input that was read", func() bool {
				n, err := unix.IoctlGetInt(int(out.Fd()), unix.TIOCINQ)
				return err == nil && n == 0
			})
			names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
			for _, name := range names {
				id, _ := strconv.Atoi(filepath.Base(name))
				nice, err := unix.Getpriority(unix.PRIO_PROCESS, id) // 20 - nice
				io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(id), 0)
				if err == unix.ESRCH || errno == unix.ESRCH {
					continue
				}
				if lowered := nice == 1 && io == lowest; lowered != (option != "") {
					t.Errorf("%s: nice %d, %v; I/O priority %#x, %v", r.stages[0], 20-nice, err, io, errno)
				}
			}
			if len(names) < 2 {
				t.Errorf("%s has the threads %q", r.stages[0], names)
			}
			out.Close()
			r.wait()
		}
	}
}

// TestBackgroundZeroes: the kernel is told to zero 1 MiB at a time, for a guest's requests wait behind it.
func TestBackgroundZeroes(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	const size = 9*mib + 512
	h.must(fmt.Sprintf("truncate -s %d source", size))
	h.image("disk", size, 1)
	disk := h.loop("disk")
	h.must("xb-sig " + disk + " >sig && xb-delta source <sig >delta")
	zeroed := regexp.MustCompile(`BLKZEROOUT, \[(\d+), (\d+)\]`)
	h.must("strace -f -e trace=ioctl -o trace xb-patch -q --background " + disk + " <delta")
	at := 0
	for _, call := range zeroed.FindAllStringSubmatch(string(h.read("trace")), -1) {
		off, _ := strconv.Atoi(call[1])
		n, _ := strconv.Atoi(call[2])
		if off != at || n != min(mib, size-at) {
			t.Errorf("bytes %d of %d are zeroed where byte %d was next", n, off, at)
		}
		at = off + n
	}
	if at != size {
		t.Errorf("%d bytes of %d were zeroed:\n%s", at, size, h.read("trace"))
	}
	h.sameBytes("source", disk)
}

// TestProgressFile: the file has one whole line at any time, the last figures at last, and replaces nothing odd.
func TestProgressFile(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib, 1)
	h.image("target", 2*mib, 2)
	h.must("xb-sig target >sig")
	in, out := pipeIn(t)
	r := h.start(in, "xb-delta --progress-file progress --signature sig -", "cat")
	line := regexp.MustCompile(`^[^\n]+ [KM]iB, [^\n]+/s[^\n]*\n$`)
	source := h.read("source")
	for _, part := range [][]byte{source[:mib], source[mib:]} {
		if _, err := out.Write(part); err != nil {
			t.Fatal(err)
		}
		done := fmt.Sprintf("%d.0 MiB, ", map[bool]int{true: 1, false: 2}[&part[0] == &source[0]])
		eventually(t, "the progress "+done, func() bool {
			text, _ := os.ReadFile(h.path("progress"))
			if len(text) > 0 && !strings.HasPrefix(string(text), "0 B") && !line.Match(text) {
				t.Fatalf("the file holds %q", text)
			}
			return strings.HasPrefix(string(text), done)
		})
	}
	out.Close()
	r.wait()
	if text := string(h.read("progress")); !strings.HasSuffix(text, " changed, 2.0 MiB sent\n") {
		t.Errorf("at last it holds %q", text)
	}
	if exists(h.path("progress.*")) || r.said(0) != "" {
		t.Errorf("a part of it is left, or it says %q", r.said(0))
	}
	h.sh("xb-delta --progress-file /dev/null source <sig").fails(t, cantCreate, "no regular file")
	h.sh("xb-delta --progress-file no/progress source <sig").fails(t, cantCreate, "no/progress")
	h.sh("xb-delta --progress-file sig --signature sig source").fails(t, exit.Usage, "one file")
}
