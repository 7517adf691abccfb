package e2e

import (
	"fmt"
	"testing"
)

func TestInPlace(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 5*mib+33, 1)
	h.must("truncate -s 5M target && cp source same")
	h.sync("source", "target", "--in-place").silent(t)
	h.sameBytes("source", "target")
	h.wantPhase("target", "clean")
	if exists(h.state + "/spool*") {
		t.Error("there is a spool")
	}
	h.sync("source", "same", "--in-place").silent(t) // nothing to write
	h.wantPhase("same", "clean")
	h.change("source", 3, 3)
	h.sync("source", "target", "").silent(t)
	h.sameBytes("source", "target")

	// From now on there is something to lose.
	h.change("source", 3, 4)
	check := h.untouched("target")
	h.sync("source", "target", "--in-place").fails(t, notBasis, "without --in-place")
	check()
}

func TestInPlaceLoopDevice(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 5*mib+33, 1)
	h.image("disk", 6*mib, 2)
	tail := h.read("disk")[5*mib+33:]
	target := h.loop("disk")
	h.sync("source", target, "--in-place").fails(t, 0)
	h.must(fmt.Sprintf("blockdev --flushbufs %s && cmp -n %d source %[1]s", target, 5*mib+33))
	if string(h.read("disk")[5*mib+33:]) != string(tail) {
		t.Error("what is behind the image was changed")
	}
	h.sync("source", target, "").silent(t)
}

// TestInPlaceCut cuts a first copy, again and again, and runs it again.
func TestInPlaceCut(t *testing.T) {
	h := newHost(t)
	h.image("source", 8*mib, 1)
	for _, target := range []string{"target", "created"} {
		if target == "target" {
			h.image(target, 8*mib, 2)
		}
		for _, n := range []int{3_000_000, 4_500_000} {
			r := h.pipe("xb-sig --missing-ok "+target, "xb-delta source", fmt.Sprintf("head -c %d", n),
				"xb-patch --in-place --create "+target)
			r.fails(t, badStream, "cut", "incomplete first copy")
			h.wantPhase(target, "incomplete")
		}
		h.sync("source", target, "--in-place").silent(t)
		h.sameBytes("source", target)
		h.wantPhase(target, "clean")
	}
}

// TestInPlaceRefused demands that what is wrong is seen before it is written,
// frame by frame if the delta comes by a pipe.
func TestInPlaceRefused(t *testing.T) {
	h := twoImages(t)
	h.must("cp target other && printf other | dd of=other conv=notrunc status=none")
	h.must("xb-sig other | xb-delta source >wrong")
	h.must("cat target target >other && cp target source && xb-sig other | xb-delta source >larger")
	h.must("xb-sig target >../notes/sig && cat source | xb-delta --signature ../notes/sig - >unsized")
	check := h.untouched("target")
	for _, script := range []string{"xb-patch --in-place target <%s", "cat %s | xb-patch --in-place target"} {
		h.sh(fmt.Sprintf(script, "wrong")).fails(t, notBasis)
		h.sh(fmt.Sprintf(script, "sig")).fails(t, notOurs)
		h.sh(fmt.Sprintf(script, "/dev/null")).fails(t, badStream)
		h.sh(fmt.Sprintf(script, "unsized")).fails(t, badStream, "--in-place")
		h.sh(fmt.Sprintf(script, "larger")).fails(t, notBasis)
		check()
	}
	// A file is proved as a whole, wherever the damage is.
	h.must("truncate -s -1 delta")
	check = h.untouched("target")
	h.sh("xb-patch --in-place target <delta").fails(t, badStream, "cut")
	check()
	h.wantPhase("target", "seen")
}

// TestInPlaceLonger has somebody append to the target after its signature was made: in the
// image's last block, behind it, and where the image has bytes of its own.
func TestInPlaceLonger(t *testing.T) {
	h := newHost(t)
	for _, size := range []int64{mib, mib + 100, mib + 4096, 3 * mib} {
		h.image("source", size, 1)
		h.must("head -c 1M source >target && printf other | dd of=target conv=notrunc status=none && " +
			"xb-sig target | xb-delta source >delta && echo 'a line' >>target")
		check := h.untouched("target")
		for range 2 {
			h.sh("xb-patch -q --in-place target <delta").fails(t, notBasis)
			check()
		}
		h.sh("cat delta | xb-patch --in-place target").fails(t, notBasis)
		if size == mib {
			check()
		}
		if got := h.must("tail -c 7 target"); got != "a line\n" {
			t.Errorf("%d: it ends with %q", size, got)
		}
		h.must("rm -r " + h.state)
		h.sync("source", "target", "-q").silent(t)
		h.sameBytes("source", "target")
	}
}

// TestInPlaceRefusedCreate demands that no file is left where nothing was copied.
func TestInPlaceRefusedCreate(t *testing.T) {
	h := twoImages(t)
	h.must("head -c 40 delta >cut && : >nothing && xb-sig target | xb-delta nothing >shrink")
	for _, input := range []string{"delta", "cut", "shrink", "sig", "/dev/null"} {
		h.sh("cat " + input + " | xb-patch --in-place --create created")
		if exists(h.path("created")) {
			t.Errorf("%s: the target was created", input)
			h.must("rm created")
		}
	}
}

// TestInPlaceRemoved demands a word before a file that held a standby is created
// again: it may just not be mounted.
func TestInPlaceRemoved(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib, 1)
	again := func(options string) result {
		return h.pipe("xb-sig --missing-ok target", "xb-delta source", "xb-patch --create "+options+" target")
	}
	again("--in-place").silent(t)
	h.must("rm target")
	again("--in-place").fails(t, notBasis, "not mounted", "--force-diverged")
	if exists(h.path("target")) {
		t.Error("the target was created")
	}
	again("--force-diverged").fails(t, 0)
	h.sameBytes("source", "target")
}

func TestCreate(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 2*mib+5, 1)
	for i, options := range []string{"--create", "--create --in-place"} {
		target := fmt.Sprintf("created%d", i)
		check := h.untouched("source")
		h.sync("source", target, "").fails(t, noInput, target)
		h.pipe("xb-sig --missing-ok "+target, "xb-delta source", "xb-patch "+target).fails(t, noInput, target)
		check()
		h.pipe("xb-sig --missing-ok "+target, "xb-delta source", "xb-patch "+options+" "+target).silent(t)
		h.sameBytes("source", target)
		h.sync("source", target, "--create").silent(t)
	}
	h.must("xb-sig --missing-ok empty | xb-delta source >delta && : >nothing")
	h.pipe("xb-sig --missing-ok empty", "xb-delta nothing", "xb-patch --create empty").silent(t)
	h.sameBytes("nothing", "empty")
	check := h.untouched("source")
	h.sh("xb-patch --create missing/created <delta").fails(t, noInput)
	h.sh("xb-patch --create source/created <delta").fails(t, noInput)
	check()
	h.must("ln -s /dev/xb-e2e-none link && ln -s /dev devices")
	check = h.untouched("source")
	for _, target := range []string{"link", "devices/xb-e2e-none", "/dev/../dev/xb-e2e-none"} {
		h.sh("xb-patch --create "+target+" <delta").fails(t, noInput)
		h.sh("xb-patch --create --in-place "+target+" <delta").fails(t, noInput)
	}
	check()
	if exists("/dev/xb-e2e-none") {
		t.Error("a file was made below /dev by way of a link")
	}
	h.sh("xb-patch --create link <delta").fails(t, noInput, "link is a link to /dev/xb-e2e-none")
	h.sh("prlimit --fsize=65536 xb-patch --create created <delta").fails(t, cantCreate, "RLIMIT_FSIZE", "65536")
}

// TestCreateRefused demands that a target that cannot be created, or that somebody
// else makes meanwhile, is not remembered as half written.
func TestCreateRefused(t *testing.T) {
	h := newHost(t)
	h.image("source", 5*mib, 1)
	h.must("xb-sig --missing-ok target | xb-delta source >delta")
	for _, options := range []string{"--create", "--create --in-place"} {
		in, out := pipeIn(t)
		r := h.start(in, "xb-patch "+options+" target")
		delta := h.read("delta")
		out.Write(delta[:100_000])
		eventually(t, "xb-patch at work", func() bool { return exists(h.state + "/*.lock") })
		h.must("echo mine >target")
		out.Write(delta[100_000:])
		out.Close()
		if status := r.wait()[0]; status != cantCreate {
			t.Errorf("%s: status %d: %s", options, status, r.said(0))
		}
		if got := h.must("cat target"); got != "mine\n" {
			t.Errorf("%s: the other's file is %.20q", options, got)
		}
		h.wantPhase("target", "none")
		if exists(h.state + "/spool/*") {
			t.Errorf("%s: a spool is left", options)
		}
		h.must("rm -r target " + h.state)
	}
}

// TestGrownSource demands that a device that was a target first and then, grown, a
// source, is signed as far as its last image goes.
func TestGrownSource(t *testing.T) {
	h := newHost(t)
	h.image("small", 4*mib, 1)
	h.image("grown", 6*mib, 2)
	h.must("truncate -s 8M disk")
	dev := h.loop("disk")
	size := func(want int) {
		t.Helper()
		h.infoHas("xb-sig "+dev+" | xb-sig --info", fmt.Sprintf("image size: %d bytes", want*mib))
	}
	size(8)
	h.sync("small", dev, "-q").silent(t)
	size(4)
	h.must("sleep 1; xb-sig --missing-ok none | xb-delta --summary sum grown >delta")
	h.must("xb-patch --record " + dev + " --peer dom0b --disk d/x --target t --stages 0 --sent sum </dev/null")
	size(6)
	h.must("truncate -s 5M disk && losetup --set-capacity " + dev)
	size(5)
}

// TestHoles demands that a sparse image stays sparse, and that what becomes zero
// becomes a hole.
func TestHoles(t *testing.T) {
	h := newHost(t)
	h.must("truncate -s 64M source && printf data | dd of=source bs=1M seek=20 conv=notrunc status=none")
	h.image("target", 8*mib, 1)
	h.mustSync("source", "target", "-q")
	h.pipe("xb-sig --missing-ok created", "xb-delta source", "xb-patch -q --create created").silent(t)
	for _, target := range []string{"target", "created"} {
		var kib int
		fmt.Sscan(h.must("du -k "+target), &kib)
		if kib > 64 {
			t.Errorf("%s takes %d KiB, want a few", target, kib)
		}
	}
}
