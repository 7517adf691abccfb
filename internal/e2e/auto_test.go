package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// prepared asks what a target can take of an image.
func (h *host) prepared(source, target, options string) result {
	h.Helper()
	size := strings.TrimSpace(h.must("blockdev --getsize64 " + source + " 2>/dev/null || stat -Lc %s " + source))
	return h.sh(fmt.Sprintf("xb-patch --prepare --peer dom0a --disk domu1/xvda --size %s %s %s", size, options, target))
}

// auto is the pipeline of xen-backup.sh.
func (h *host) auto(source, target, options string) result {
	h.Helper()
	return h.pipe("xb-sig --missing-ok "+target, "xb-delta "+source, "xb-patch --auto --peer dom0a --disk domu1/xvda "+options+" "+target)
}

// says demands an answer of --prepare, without its last words.
func (r result) says(t *testing.T, words string) {
	t.Helper()
	got, _, _ := strings.Cut(r.out, " takes=1 guests=")
	if r.status != 0 || r.err != "" || got != words || strings.Count(r.out, "\n") != 1 {
		t.Errorf("status %d, stderr %q, stdout %q; want %q", r.status, r.err, r.out, words)
	}
}

// spooled reports whether a run has left that a spool was there: the directory is made for the first one.
func (h *host) spooled() bool { return exists(h.state + "/spool") }

func TestAuto(t *testing.T) {
	h := newHost(t)
	h.sparse("source", 5*mib+33, 1)
	h.prepared("source", "target", "").says(t, "full reason=first-copy phase=none")
	if exists(h.path("target")) {
		t.Error("--prepare has created the target")
	}
	h.auto("source", "target", "--mode 640").silent(t)
	h.sameBytes("source", "target")
	if h.spooled() {
		t.Error("a target that was created was spooled to")
	}
	if mode := strings.TrimSpace(h.must("stat -c %a target")); mode != "640" {
		t.Errorf("its mode is %s", mode)
	}
	h.change("source", 2, 3)
	last := strings.TrimSpace(h.must(`xb-patch --state target | sed 's/.*"time":"\([^"]*\)".*/\1/'`))
	h.prepared("source", "target", "").says(t, "full reason=no-base phase=clean last="+last)
	h.auto("source", "target", "--first-copy in-place").silent(t)
	h.sameBytes("source", "target")
	if !h.spooled() {
		t.Error("a standby was written in place")
	}
}

// TestLongPrepareRefuses demands each refusal, its cure, and that nothing is made or changed.
func TestLongPrepareRefuses(t *testing.T) {
	h := newHost(t)
	h.image("source", 4*mib, 1)
	h.auto("source", "target", "").silent(t)
	check := h.untouched("target")
	refused := func(target, options string, status int, words ...string) {
		t.Helper()
		for _, dry := range []string{"", "--dry-run "} {
			r := h.prepared("source", target, dry+options)
			r.fails(t, status, words...)
			if r.out != "" {
				t.Errorf("it prints %q", r.out)
			}
		}
	}
	host := strings.TrimSpace(h.must("hostname"))
	refused("/dev/xbnone/domu1", "", noInput, "on "+host+": lvcreate -y -L 4194304b -n domu1 xbnone")
	refused("/dev/mapper/xb--none-a--b", "", noInput, "lvcreate -y -L 4194304b -n a-b xb-none")
	refused("/dev/xbnone/a/b", "", noInput)
	refused("/dev/xbnone", "", noInput)
	refused("/dev/xbnone/domu1", "--create-lv vg", badConfig, "MAP", "CREATE_LV")
	refused("missing/target", "", noInput, "mkdir -p")
	refused("source/target", "", noInput)
	refused(".", "", noInput)
	refused("target", "-b 64K", notBasis, "HASH=xxh64 and BLOCK_SIZE=4096", "BLOCK_SIZE=65536",
		"once on dom0a: xen-backup.sh --force-diverged domu1")
	refused("target", "--hash sha256", notBasis, "HASH=sha256")
	refused("target", "--disk domu2/xvda", notBasis, "--adopt domu2/xvda")
	h.must("mv target gone")
	refused("target", "", notBasis, "not mounted", "on dom0a: xen-backup.sh --force-diverged domu1")
	h.must("mv gone target")
	check()

	needRoot(t)
	h.must("truncate -s 3M disk && mkfs.ext4 -q guest 4M")
	small := h.loop("disk")
	refused(small, "", badStream, "too small", "3145728")
	refused("guest", "--first-copy in-place", notBasis, "FIRST_COPY=spool")
	held := h.loop("target")
	refused("target", "", busy, held)
	h.must("losetup -d " + held)
	refused("target", "--spool none", cantCreate, "none")
}

// TestAutoDecides demands where a delta is written in place, and where it is not.
func TestAutoDecides(t *testing.T) {
	for _, c := range []struct {
		name, before, options string
		spooled               bool
		warning               string
	}{
		{"unknown", "cp larger target && truncate -s 4M target", "", true, "first contact"},
		{"unknown, in place", "cp larger target && truncate -s 4M target", "--first-copy in-place", false, ""},
		{"longer, in place", "cp larger target", "--first-copy in-place", true, "first contact"},
		{"unknown, forced", "cp larger target && truncate -s 4M target", "--first-copy in-place --force-diverged", true, "first contact"},
		{"incomplete", "xb-sig --missing-ok target | xb-delta source | head -c 3500000 | xb-patch -q --auto " +
			"--peer dom0a --disk domu1/xvda target 2>/dev/null; [ -e target ]", "", false, ""},
		{"incomplete, sent", "xb-sig --missing-ok target | xb-delta source | head -c 3500000 | xb-patch -q --auto --peer dom0a " +
			"--disk domu1/xvda target 2>/dev/null; xb-sig --missing-ok none | xb-delta --summary sum larger >delta; " +
			"xb-patch --record target --peer dom0c --disk d/x --target t --stages 0 --sent sum </dev/null", "--force-diverged", true, "force-diverged"},
		{"missing, forced", "true", "--force-diverged", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.image("source", 4*mib, 1)
			h.image("larger", 5*mib, 2)
			h.must(c.before)
			r := h.auto("source", "target", c.options)
			if r.fails(t, 0, c.warning); c.warning == "" {
				r.silent(t)
			}
			h.sameBytes("source", "target")
			if h.spooled() != c.spooled {
				t.Errorf("spooled: %v, want %v", h.spooled(), c.spooled)
			}
		})
	}
}

// TestPrepareTracks demands that an image which the source still has is the basis only if the target has it, in the
// same terms.
func TestPrepareTracks(t *testing.T) {
	h := newHost(t)
	h.image("source", 4*mib, 1)
	h.auto("source", "target", "").silent(t)
	var state struct {
		Hash, Digest, Time string
	}
	decode(h, h.must("xb-patch --state target"), &state)
	image := "xxh64:4096:4194304:" + state.Digest
	const other = "xxh64:4096:4194304:0123456789abcdef"
	h.prepared("source", "target", "--have "+other+" --have "+image).says(t, "tracked basis="+image+" phase=clean last="+state.Time)
	full := "full reason=no-base phase=clean last=" + state.Time
	h.prepared("source", "target", "--have "+other).says(t, full)
	h.prepared("source", "target", "").says(t, full)
	h.prepared("source", "target", "--force-diverged --have "+image).says(t, "full reason=forced phase=clean last="+state.Time)
	h.must("cp target kept && printf x | dd of=target conv=notrunc status=none && xb-patch -q --discard-changes target")
	h.prepared("source", "target", "--have "+image).says(t, "full reason=forced phase=clean last="+state.Time)
	h.must("rm target && mv kept target && rm " + h.state + "/*.consent*")
	for _, size := range []string{"8M", "1M"} { // what was added or cut off counts as changed
		h.must("truncate -s " + size + " source")
		h.prepared("source", "target", "--have "+image).says(t, "tracked basis="+image+" phase=clean last="+state.Time)
	}
	h.must("truncate -s 4M source")
	h.prepared("source", "target", "--hash sha256 --have "+image).fails(t, notBasis, "HASH=")
	h.prepared("source", "target", "--have 0123456789abcdef").fails(t, 64)
	h.sh("xb-patch --prepare --peer dom0a --disk domu1/xvda target").fails(t, 64, "--size")
	h.sh("xb-patch --prepare --size 1M target").fails(t, 64, "--peer")
	h.sh("xb-patch --first-copy in-place target </dev/null").fails(t, 64, "--first-copy")
}

// TestPrepareRecovers demands that an interrupted apply is finished first, and not by a dry run.
func TestPrepareRecovers(t *testing.T) {
	h := newHost(t)
	h.image("source", 24*mib, 1)
	h.must("cp source target")
	h.auto("source", "target", "-q").silent(t)
	h.change("source", 3000, 2)
	h.must("xb-sig target | xb-delta source >delta")
	h.killInApply("target", "delta")
	h.wantPhase("target", "applying")
	h.prepared("source", "target", "--dry-run").says(t, "full reason=unfinished phase=applying")
	h.wantPhase("target", "applying")
	h.must("mv " + h.state + "/spool/*.delta kept")
	h.prepared("source", "target", "").fails(t, unfinished, "--abandon-apply", "run again")
	h.must("mv kept " + h.state + "/spool/$(basename " + h.state + "/*.json .json).delta")
	if r := h.prepared("source", "target", ""); r.status != 0 || !strings.HasPrefix(r.out, "full reason=no-base phase=clean last=") ||
		!strings.HasSuffix(r.out, " finished=yes\n") {
		t.Errorf("status %d: %s%s", r.status, r.out, r.err)
	}
	h.sameBytes("source", "target")
	h.wantPhase("target", "clean")
}
