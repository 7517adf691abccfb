package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

var commands = []string{"xb-sig", "xb-delta", "xb-patch"}

func TestHelp(t *testing.T) {
	h := newHost(t)
	for _, command := range commands {
		for _, option := range []string{"-h", "--help", "-qh", "target --help"} {
			r := h.sh(command + " " + option)
			r.silent(t)
			if !strings.HasPrefix(r.out, "Usage: "+command+" ") || !strings.Contains(r.out, "Exit status: 0 ") {
				t.Errorf("%s %s prints %q", command, option, r.out)
			}
		}
		for _, option := range []string{"-V", "--version"} {
			r := h.sh(command + " " + option)
			r.silent(t)
			if fields := strings.Fields(r.out); len(fields) != 2 || fields[0] != command {
				t.Errorf("%s %s prints %q", command, option, r.out)
			}
		}
		for _, option := range []string{"--help", "--version"} {
			h.sh(command+" "+option+" >/dev/full").fails(t, ioError, "no space left")
		}
	}
}

func TestUsage(t *testing.T) {
	h := twoImages(t)
	check := h.untouched("target")
	for _, command := range []string{
		"xb-sig", "xb-sig target source", "xb-sig --no-such target", "xb-sig -z target", "xb-sig -b", "xb-sig -b 3K target",
		"xb-sig -b 2M target", "xb-sig -b 5000 target", "xb-sig --hash md5 target", "xb-sig --size 1X target",
		"xb-sig --json target", "xb-sig --missing-ok=yes target", "xb-sig --size 4K -", "xb-sig --progress=sometimes target",
		"xb-delta", "xb-delta source target", "xb-delta - <sig", "xb-delta --level 20 source <sig",
		"xb-delta --level -1 source <sig", "xb-delta --level fast source <sig",
		"xb-delta --bwlimit 0 source <sig", "xb-delta --check --new-signature new source <sig",
		"xb-patch <delta", "xb-patch - <delta", "xb-patch --no-such target <delta", "xb-patch target source <delta",
		"xb-patch --in-place --spool . target <delta", "xb-patch --in-place --force-diverged target <delta",
		"xb-patch --recover --state target", "xb-patch --recover --create target", "xb-patch --record target",
		"xb-patch --json target", "xb-patch --info sig delta", "xb-patch --discard-changes --force-diverged target",
	} {
		r := h.sh(command + " >../notes/out")
		r.fails(t, 64, "try '"+strings.Fields(command)[0]+" --help'")
		if r.status != 64 {
			t.Log(command)
		}
		if out := h.must("cat ../notes/out"); out != "" {
			t.Errorf("%s: something on stdout: %q", command, out)
		}
	}
	check()
}

// TestTerminal demands that no binary stream is written to or read from a terminal.
func TestTerminal(t *testing.T) {
	h := twoImages(t)
	check := h.untouched("target")
	for _, command := range []string{"xb-sig target", "xb-delta --signature sig source", "xb-delta source >/dev/null",
		"xb-patch target", "xb-patch --dry-run target", "xb-patch --in-place target", "xb-delta --signature sig - >/dev/null",
		"xb-sig - >/dev/null"} {
		r := h.sh(fmt.Sprintf("script -qec '%s' /dev/null </dev/null", command))
		if r.status != 64 || !strings.Contains(r.out, "is a terminal") {
			t.Errorf("%s: status %d: %s", command, r.status, r.out)
		}
	}
	check()
	// Words may go to a terminal.
	if r := h.sh("script -qec 'xb-sig --info sig && xb-delta --check --signature sig target' /dev/null"); r.status != 0 ||
		!strings.Contains(r.out, "signature") {
		t.Errorf("status %d: %s", r.status, r.out)
	}
}

// TestFullStdout demands that the last write to stdout is checked.
func TestFullStdout(t *testing.T) {
	h := twoImages(t)
	for _, command := range []string{"xb-sig target", "xb-delta source <sig", "xb-delta --level 0 source <sig",
		"xb-delta --check source <sig", "xb-sig --info sig", "xb-delta --info --json delta", "xb-patch --info delta",
		"xb-patch --state target",
		"xb-patch --dry-run -q target <delta"} {
		h.sh(command+" >/dev/full").fails(t, ioError, "standard output: no space left on device")
	}
}

// TestClosedPipe demands that a stage whose reader is gone ends soon, and tells.
func TestClosedPipe(t *testing.T) {
	h := twoImages(t)
	h.image("big", 32*mib, 1)
	for _, stage := range []string{"xb-sig -b 4K big", "xb-delta big <sig", "cat big | xb-delta --signature sig -",
		"xb-delta --level 19 big <sig"} {
		r := h.pipe(stage, "head -c 1 >/dev/null")
		if r.statuses[0] != ioError || !strings.Contains(r.err, "broken pipe") {
			t.Errorf("%s: status %d: %s", stage, r.statuses[0], r.err)
		}
	}
}

// TestRefusedEarly demands that xb-delta notices at once that its reader is gone, also
// when it has nothing to write: to read a whole disk for nobody takes hours.
func TestRefusedEarly(t *testing.T) {
	h := newHost(t)
	h.image("source", 32*mib, 1)
	h.must("xb-sig source >sig")
	in, out := pipeIn(t)
	r := h.start(in, "xb-delta --signature sig -", "head -c 1")
	r.stages[1].Wait() // head has read a byte of the header and is gone
	source := h.read("source")
	for n := 0; n < 31; n++ {
		if _, err := out.Write(source[n*mib : (n+1)*mib]); err != nil {
			break // it has ended
		}
		time.Sleep(100 * time.Millisecond)
		if n == 30 {
			t.Error("it reads on")
		}
	}
	out.Close()
	if status := r.wait()[0]; status != ioError || !strings.Contains(r.said(0), "standard output: broken pipe") {
		t.Errorf("status %d: %s", status, r.said(0))
	}
}

// TestProgress demands figures on a signal, and nothing without being asked.
func TestProgress(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	h.must("xb-sig target >sig && xb-delta source <sig >delta")
	for _, command := range []string{"xb-sig -", "xb-delta --signature sig -", "xb-patch target"} {
		in, out := pipeIn(t)
		r := h.start(in, command, "cat")
		name := strings.Fields(command)[0]
		input := h.read("source")
		if name == "xb-patch" {
			input = h.read("delta")
		}
		if _, err := out.Write(input[:len(input)/2]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if said := r.said(0); said != "" {
			t.Errorf("%s says %q unasked", command, said)
		}
		r.signal(0, syscall.SIGUSR1)
		eventually(t, "figures from "+name, func() bool {
			said := r.said(0)
			return strings.HasPrefix(said, name+": ") && strings.Contains(said, "/s")
		})
		out.Close()
		r.wait()
	}
	// Where there are no figures, to ask for them does no harm.
	in, out := pipeIn(t)
	r := h.start(in, "xb-patch --dry-run -q target")
	time.Sleep(100 * time.Millisecond)
	r.signal(0, syscall.SIGUSR1)
	out.Close()
	if status := r.wait()[0]; status != badStream {
		t.Errorf("--dry-run ends with status %d", status)
	}
	for _, command := range []string{"xb-sig --progress=always target", "xb-delta --progress=always source <sig",
		"xb-sig --progress target",
		"xb-patch -q --progress=always target <delta"} {
		r := h.sh(command + " >/dev/null")
		r.fails(t, 0, ": 1.0 MiB", "/s")
	}
}

// TestProgressTotal demands that the parts of a run add up to what there was.
func TestProgressTotal(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 3*mib, 1)
	h.sh("xb-sig --progress=always source >/dev/null").fails(t, 0, "3.0 MiB of 3.0 MiB (100 %)")
	h.must("xb-sig source >sig")
	h.sh("xb-delta --progress=always source <sig >/dev/null").fails(t, 0, "3.0 MiB of 3.0 MiB (100 %)", "sent")
}

func TestBandwidth(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib, 1)
	h.must(": >target && xb-sig target >sig")
	for _, level := range []string{"0", "1"} {
		start := time.Now()
		h.must("xb-delta --level " + level + " --bwlimit 2M source <sig >delta")
		if took := time.Since(start); took < 800*time.Millisecond || took > time.Minute {
			t.Errorf("2 MiB at 2 MiB/s took %v", took)
		}
	}
	h.must("xb-patch -q target <delta")
	h.sameBytes("source", "target")
}

// TestQuiet demands that -q keeps warnings back, and -v says more.
func TestQuiet(t *testing.T) {
	h := twoImages(t)
	h.must("cp target again")
	h.sh("xb-patch -v target <delta").fails(t, 0, "first contact")
	h.sh("xb-sig again | xb-delta source | xb-patch -q again").silent(t)
	h.sh("xb-patch -q again <delta").fails(t, notBasis, "diverged")
}
