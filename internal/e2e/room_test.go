package e2e

import (
	"testing"
)

// TestNoRoomForSpool fills the spool's file system.
func TestNoRoomForSpool(t *testing.T) {
	h := newHost(t)
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.must("xb-sig target | xb-delta source >delta")
	h.tmpfs("small", "1M")
	check := h.untouched("target")
	h.sync("source", "target", "--spool small").fails(t, cantCreate, "no room for the spool", "--spool")
	check()
	h.sh("xb-patch --spool small target <delta").fails(t, cantCreate, "no room for the spool", "it needs 3.0 MiB", "--spool")
	check()
	h.sh("xb-patch --spool missing target <delta").fails(t, cantCreate, "--spool")
	h.sh("xb-patch --spool delta target <delta").fails(t, cantCreate, "--spool")
	check()
	h.mustSync("source", "target", "-q")
}

// TestNoRoomForState fills the file system of the state, where the spool is too by
// default.
func TestNoRoomForState(t *testing.T) {
	h := newHost(t)
	h.image("source", 3*mib, 1)
	h.image("target", 3*mib, 2)
	h.tmpfs("state", "1M")
	h.env = append(h.env, "XB_STATE_DIR="+h.path("state"))
	check := h.untouched("target")
	h.sync("source", "target", "").fails(t, cantCreate, "no room for the spool", "--spool")
	check()
	h.must("xb-sig target | xb-delta source >delta")
	h.must("head -c 2M /dev/zero >state/full || true")
	check = h.untouched("target")
	h.sync("source", "target", "--spool .").fails(t, cantCreate)
	check()
	h.sh("xb-patch --spool . target <delta").fails(t, cantCreate)
	check()
	h.must("rm state/full")
	h.mustSync("source", "target", "-q --spool .")
}

func TestNoStateDirectory(t *testing.T) {
	h := twoImages(t)
	check := h.untouched("target")
	for _, dir := range []string{"sig", "sig/below", "/proc/xen-backup"} {
		h.sh("xb-patch --state-dir "+dir+" target <delta").fails(t, cantCreate, "--state-dir")
		h.sh("XB_STATE_DIR="+dir+" xb-patch target <delta").fails(t, cantCreate, "--state-dir")
	}
	check()
}

// TestUnreadableState damages the state: to take it for none would forget an
// unfinished apply.
func TestUnreadableState(t *testing.T) {
	h := twoImages(t)
	h.mustSync("source", "target", "-q")
	state := h.stateFile("target")
	for _, damage := range []string{": >" + state, "head -c 40 " + state + " >x; cp x " + state, "echo nonsense >" + state,
		`sed -i 's/"phase": ".*"/"phase": "dirty"/' ` + state, `sed -i 's/"version": 1/"version": 2/' ` + state,
		`sed -i 's/"identity": "/&x/' ` + state} {
		h.must("cp " + state + " ../notes/good; " + damage)
		check := h.untouched("target")
		for _, command := range []string{"xb-patch target <delta", "xb-patch --in-place target <delta", "xb-patch --dry-run target <delta",
			"xb-patch --recover target", "xb-patch --abandon-apply target", "xb-patch --state target", "xb-sig target >/dev/null"} {
			h.sh(command).fails(t, 78, "the state of target cannot be used", state)
		}
		check()
		h.must("cp ../notes/good " + state)
	}
	h.sync("source", "target", "").silent(t)
}

// TestFullTarget fills the target's file system in the middle of the apply. The
// cure is room and --recover.
func TestFullTarget(t *testing.T) {
	h := newHost(t)
	h.image("source", 6*mib, 1)
	h.tmpfs("full", "2M")
	h.must("truncate -s 6M full/target")
	r := h.sync("source", "full/target", "")
	r.fails(t, ioError, "no space left", "xb-patch --recover full/target")
	h.wantPhase("full/target", "applying")
	h.sh("xb-patch --recover full/target").fails(t, ioError, "no space left", "xb-patch --recover full/target")
	h.sync("source", "full/target", "").fails(t, unfinished, "xb-sig: full/target: an apply is unfinished")
	h.wantPhase("full/target", "applying")
	h.must("mount -o remount,size=16M full")
	h.must("xb-patch --recover full/target")
	h.sameBytes("source", "full/target")
	h.sync("source", "full/target", "").silent(t)
}
