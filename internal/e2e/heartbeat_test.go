package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// talking is a command that is listened to while it runs.
type talking struct {
	*exec.Cmd
	*host
	in       *os.File // nil: it reads a file
	out, err *os.File
}

// talk starts a command; stdin nil: it reads what is written to in.
func (h *host) talk(stdin *os.File, command string) *talking {
	h.Helper()
	words := strings.Fields(command)
	if strings.HasPrefix(words[0], "xb-") {
		words[0] = filepath.Join(bin, words[0])
	}
	c := &talking{Cmd: exec.Command(words[0], words[1:]...), host: h}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			h.Fatal(err)
		}
		h.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	if stdin == nil {
		stdin, c.in = pipe()
	}
	out, stdout := pipe()
	errs, stderr := pipe()
	c.out, c.err = out, errs
	c.Dir, c.Env, c.Stdin, c.Stdout, c.Stderr = h.dir, h.env, stdin, stdout, stderr
	if err := c.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Process.Kill(); go c.Wait() })   // it may hang until a later cleanup
	for _, f := range []*os.File{stdin, stdout, stderr} { // the child has its own
		f.Close()
	}
	return c
}

// end waits for the command's end and demands a status; what it says comes along.
func (c *talking) end(status int) (said string) {
	c.Helper()
	ctx, cancel := untilHang()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Process.Kill() })
	text, err := io.ReadAll(c.err)
	c.Wait()
	if !stop() || err != nil {
		c.Fatalf("hangs: %s, %v", c.Cmd, err)
	}
	if got := c.ProcessState.ExitCode(); got != status {
		c.Errorf("%s: status %d, want %d: %s", c.Cmd, got, status, text)
	}
	return string(text)
}

// heard passes on what is read, a line at a time.
type heard struct {
	*host
	lines chan string
}

func (h *host) hear(r io.Reader) *heard {
	s := &heard{h, make(chan string, 100)}
	go func() {
		defer close(s.lines)
		for in := bufio.NewScanner(r); in.Scan(); {
			s.lines <- in.Text()
		}
	}()
	return s
}

// next returns the next line, "EOF" at the end.
func (s *heard) next() string {
	s.Helper()
	ctx, cancel := untilHang()
	defer cancel()
	select {
	case line, more := <-s.lines:
		if !more {
			return "EOF"
		}
		return line
	case <-ctx.Done():
		s.Fatal("it says nothing any more")
		return ""
	}
}

// until reads on until there is a line.
func (s *heard) until(line string) {
	s.Helper()
	for end := time.Now().Add(10 * time.Minute); ; {
		got := s.next()
		if got == line {
			return
		}
		if got == "EOF" || time.Now().After(end) {
			s.Fatalf("%q where %q should come", got, line)
		}
	}
}

// TestLongHeartbeatWaiting has every command wait for its input: an hour of silence is not
// the same as a run that stands still.
func TestLongHeartbeatWaiting(t *testing.T) {
	h := newHost(t)
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.must("xb-sig target >sig && xb-delta source <sig >delta")
	delta, err := os.ReadFile(h.path("delta"))
	if err != nil {
		t.Fatal(err)
	}
	patch := h.talk(nil, "xb-patch --heartbeat target")
	patch.in.Write(delta[:mib])
	out := h.hear(patch.out)
	out.until("waiting") // after "progress", which came with the input
	// Others keep the disk busy, which does not make it less idle.
	h.must("dd if=/dev/zero of=other bs=1M count=8 conv=fsync status=none")
	if got := out.next(); got != "waiting" {
		t.Errorf("it says %q, want waiting", got)
	}
	patch.in.Write(delta[mib:])
	patch.in.Close()
	for line := "progress"; line != "EOF"; line = out.next() {
		if line != "progress" && line != "waiting" {
			t.Errorf("on standard output: %q", line)
		}
	}
	patch.end(0)
	h.sameBytes("source", "target")
}

// TestLongHeartbeatOfReaders: their standard output is data.
func TestLongHeartbeatOfReaders(t *testing.T) {
	h := newHost(t)
	h.image("source", 3*mib, 1)
	h.must("xb-sig source >sig")
	for _, command := range []string{"xb-sig --heartbeat -", "xb-delta --heartbeat source",
		"xb-delta --heartbeat --signature sig -"} {
		t.Run(command, func(t *testing.T) {
			c := h.talk(nil, command)
			err := h.hear(c.err)
			if line := err.next(); line != "" {
				t.Errorf("what a login shell left behind is glued to %q", line)
			}
			err.until("waiting")
		})
	}
}

// slowFS mounts a file system on dir that, once it is frozen, holds back every write, as a
// slow disk does; it returns its device.
func (h *host) slowFS(dir string) (device string) {
	h.Helper()
	h.must("truncate -s 64M disk && mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 disk && mkdir " + dir)
	device = h.loop("disk")
	h.must("mount " + device + " " + dir)
	h.Cleanup(func() { h.sh("fsfreeze -u " + dir + "; umount " + dir) })
	return device
}

// TestLongHeartbeatOfSlowSync has the kernel hold back what is written: that is progress while
// the disk works, and only then.
func TestLongHeartbeatOfSlowSync(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	device := h.slowFS("fs")
	h.image("source", 3*mib, 1)
	h.image("fs/target", 3*mib, 2)
	h.must("xb-sig fs/target >sig && xb-delta source <sig >delta && fsfreeze -f fs")
	patch := h.talk(h.open("delta"), "xb-patch --heartbeat fs/target")
	out := h.hear(patch.out)
	eventually(t, "the apply", h.applying)
	out.until("waiting")
	// As LVM does, and whoever looks around.
	h.must("dd if=" + device + " of=/dev/null bs=4k count=1 skip=15000 iflag=direct status=none")
	if got := out.next(); got != "waiting" {
		t.Errorf("it says %q while others read, want waiting", got)
	}
	// The first KiB of an ext4 is not its own.
	h.must("dd if=/dev/zero of=" + device + " bs=512 count=1 oflag=direct status=none")
	if got := out.next(); got != "progress" {
		t.Errorf("it says %q while the disk works, want progress", got)
	}
	out.until("waiting")
	h.must("fsfreeze -u fs")
	patch.end(0)
	h.sameBytes("source", "fs/target")
}

// TestLongHeartbeatUnheard closes the other end of a run's standard output: before the apply
// that ends the run, whatever it waits for.
func TestLongHeartbeatUnheard(t *testing.T) {
	h := newHost(t)
	h.image("target", 3*mib, 2)
	check := h.untouched("target")
	patch := h.talk(nil, "xb-patch --heartbeat target")
	patch.out.Close()
	if said := patch.end(ioError); !strings.Contains(said, "the heartbeat cannot be written: broken pipe") {
		t.Errorf("it says %q", said)
	}
	check()
	if exists(h.state + "/spool/*") {
		t.Error("its spool is left")
	}
}

// TestLongHeartbeatUnheardInApply: once it applies, the target must become a whole image.
func TestLongHeartbeatUnheardInApply(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	h.slowFS("fs")
	h.image("source", 3*mib, 1)
	h.image("fs/target", 3*mib, 2)
	h.must("xb-sig fs/target >sig && xb-delta source <sig >delta && fsfreeze -f fs")
	patch := h.talk(h.open("delta"), "xb-patch --heartbeat fs/target")
	out := h.hear(patch.out)
	eventually(t, "the apply", h.applying)
	out.until("waiting")
	before := patch.writes()
	patch.out.Close()
	eventually(t, "another line", func() bool { return patch.writes() != before })
	h.must("fsfreeze -u fs")
	patch.end(0)
	h.sameBytes("source", "fs/target")
	h.wantPhase("fs/target", "clean")
}

// writes returns how often a command has tried to write.
func (c *talking) writes() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", c.Process.Pid))
	if err != nil {
		c.Fatal(err)
	}
	_, writes, _ := strings.Cut(string(text), "\nsyscw: ")
	writes, _, _ = strings.Cut(writes, "\n")
	return writes
}
