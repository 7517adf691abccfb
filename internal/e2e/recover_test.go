package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// interrupted returns a host on which xb-patch was killed in its apply.
func interrupted(t *testing.T) *host {
	h := newHost(t)
	h.image("source", 12*mib, 1)
	h.image("target", 12*mib, 2)
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	h.killInApply("target", "delta")
	return h
}

// TestRecover demands that every command on the target says 83 and names the
// cure, and that the cure needs nothing but what is on the host.
func TestRecover(t *testing.T) {
	h := interrupted(t)
	h.must("cp source ../notes/source && rm source")
	check := h.untouched("target")
	for _, command := range []string{"xb-sig target >/dev/null", "xb-patch target <delta",
		"xb-patch --force-diverged target <delta",
		"xb-patch --in-place target <delta", "xb-patch --dry-run target <delta", "xb-patch target </dev/null",
		"xb-sig --missing-ok target"} {
		h.sh(command).fails(t, unfinished, "xb-patch --recover target")
	}
	h.wantPhase("target", "applying")
	check()
	h.sh("xb-patch --recover target").silent(t)
	h.sameBytes("../notes/source", "target")
	h.wantPhase("target", "clean")
	if exists(h.state + "/spool/*") {
		t.Error("the spool is still there")
	}
	h.sync("../notes/source", "target", "").silent(t)
	for _, mode := range []string{"--recover", "--abandon-apply"} {
		h.sh("xb-patch " + mode + " target").silent(t)
		h.sh("xb-patch -v "+mode+" target").fails(t, 0, "nothing to "+strings.TrimSuffix(mode[2:], "-apply"))
		h.sh("xb-patch "+mode+" missing").fails(t, noInput)
	}
	h.wantPhase("target", "clean")
}

// TestTerminatedApply demands that a polite signal in the apply tells what is to
// be done. It is sent as soon as the state says "applying".
func TestTerminatedApply(t *testing.T) {
	h := newHost(t)
	h.image("source", 64*mib, 1)
	h.image("target", 64*mib, 2)
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	r := h.start(h.open("delta"), "xb-patch target")
	eventually(t, "an apply", h.applying)
	r.signal(0, syscall.SIGTERM)
	if status := r.wait()[0]; status != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d: %s", status, r.said(0))
	}
	if said := r.said(0); !strings.Contains(said, "xb-patch --recover target") {
		t.Errorf("it says %q", said)
	}
	h.wantPhase("target", "applying")
	h.must("xb-patch --recover target")
	h.sameBytes("source", "target")
}

// TestDamagedSpool takes away what --recover needs: it must say so, touch nothing,
// and keep what is there, until the image is given up by name.
func TestDamagedSpool(t *testing.T) {
	h := interrupted(t)
	spool := h.state + "/spool/" + escaped(h.path("target")) + ".delta"
	h.must("cp " + spool + " ../notes/spool && xb-sig source | xb-delta delta >../notes/other")
	for damage, status := range map[string]int{
		"printf x | dd of=%s bs=1 seek=5000000 conv=notrunc status=none": badStream,
		"truncate -s 5000000 %s": badStream,
		": >%s":                  badStream,
		"echo noise >%s":         notOurs,
		"cp ../notes/other %s":   badStream,
		"rm %s":                  unfinished,
	} {
		h.must(fmt.Sprintf(damage, spool))
		check := h.untouched("target")
		h.sh("xb-patch --recover target").fails(t, status, spool, "xb-patch --abandon-apply target")
		check()
		h.wantPhase("target", "applying")
		h.must("cp ../notes/spool " + spool)
	}
	h.must("truncate -s 5000000 " + spool)
	h.sh("xb-patch --abandon-apply target").silent(t)
	h.wantPhase("target", "incomplete")
	if exists(spool) {
		t.Error("the spool is still there")
	}
	h.mustSync("source", "target", "--in-place")
	h.wantPhase("target", "clean")
}

// TestRecoverBusy demands that a recovery looks for users as an apply does, and that
// this comes first.
func TestRecoverBusy(t *testing.T) {
	h := interrupted(t)
	dev := h.loop("target")
	check := h.untouched("target")
	h.sh("xb-patch --recover target").fails(t, busy, "backs "+dev)
	h.sh("xb-patch target </dev/null").fails(t, busy, "backs "+dev) // before the phase and the stream
	h.wantPhase("target", "applying")
	check()
	h.must("losetup --detach " + dev)
	h.must("xb-patch --recover target")
	h.sameBytes("source", "target")
}

// TestRecoverMissing takes the target away after the crash: what is unfinished is told
// all the same, and can be given up.
func TestRecoverMissing(t *testing.T) {
	h := interrupted(t)
	h.must("rm target")
	for _, command := range []string{"xb-sig --missing-ok target >/dev/null", "xb-patch target <delta",
		"xb-patch --create --in-place target <delta"} {
		h.sh(command).fails(t, unfinished, "--recover")
	}
	h.wantPhase("target", "applying")
	h.sh("xb-patch --recover target").fails(t, noInput)
	h.sh("xb-patch --abandon-apply target").silent(t)
	h.sh("xb-patch --state target").fails(t, noInput)
	h.pipe("xb-sig --missing-ok target", "xb-delta source", "xb-patch --create --in-place target").silent(t)
	h.sameBytes("source", "target")
}

// TestRecoverTampered lets somebody write where the delta does not, between the
// crash and the recovery, or puts another image in the target's place: what would
// result is no whole image, and nothing is written.
func TestRecoverTampered(t *testing.T) {
	h := newHost(t)
	h.image("source", 12*mib, 1)
	h.must("cp source target")
	h.must("dd if=/dev/urandom of=target bs=1M count=8 conv=notrunc status=none")
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	h.killInApply("target", "delta")
	f, err := os.OpenFile(h.path("target"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("tampered"), 10*mib); err != nil {
		t.Fatal(err)
	}
	f.Close()
	refused := func() {
		t.Helper()
		check := h.untouched("target")
		h.sh("xb-patch --recover target").fails(t, notBasis, "another disk", "nothing was written", "--abandon-apply target")
		check()
		h.wantPhase("target", "applying")
		if !exists(h.state + "/spool/*.delta") {
			t.Error("the spool is gone")
		}
	}
	refused()
	h.must("printf appended >>target")
	refused()
	h.must("truncate -s 12M target")
	h.must("mv target ../notes/mix && head -c 12M /dev/urandom >target")
	refused()
	h.must("cp ../notes/mix target && printf %s \"$(dd if=source bs=8 skip=$((10*131072)) count=1 status=none | base64)\" | base64 -d | dd of=target bs=8 seek=$((10*131072)) conv=notrunc status=none")
	h.must("xb-patch --recover target")
	h.sameBytes("source", "target")
}

// TestStateLost: a state that cannot be read may be that of an unfinished apply,
// and the spool that finishes it must not be given up unseen.
func TestStateLost(t *testing.T) {
	h := interrupted(t)
	record := h.state + "/" + escaped(h.path("target")) + ".json"
	h.must("cp '" + record + "' ../notes/record && : >'" + record + "'")
	for _, command := range []string{"xb-patch --state target", "xb-patch --recover target", "xb-patch target <delta",
		"xb-sig target >/dev/null"} {
		h.sh(command).fails(t, 78, "an apply may be unfinished", "/spool/"+escaped(h.path("target"))+".delta: keep it")
	}
	h.must("cp ../notes/record '" + record + "' && xb-patch --recover target")
	h.sameBytes("source", "target")
}
