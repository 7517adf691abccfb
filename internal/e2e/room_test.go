package e2e

import (
	"testing"

	"xen-backup/internal/testkit"
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
	h.sh("xb-patch --spool small target <delta").
		fails(t, cantCreate, "no room for the spool", "it needs 3.0 MiB", "--spool")
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
		for _, command := range []string{"xb-patch target <delta", "xb-patch --in-place target <delta",
			"xb-patch --dry-run target <delta",
			"xb-patch --recover target", "xb-patch --abandon-apply target", "xb-patch --state target",
			"xb-sig target >/dev/null"} {
			h.sh(command).fails(t, 78, "the state of target cannot be used", state)
		}
		check()
		h.must("cp ../notes/good " + state)
	}
	h.sync("source", "target", "").silent(t)
}

// TestFullTarget has a sparse standby on a file system that is too small for its image:
// nothing is written before there is room for all of it.
func TestFullTarget(t *testing.T) {
	h := newHost(t)
	h.image("source", 6*mib, 1)
	h.tmpfs("full", "2M")
	h.must("truncate -s 6M full/target")
	check := h.untouched("full/target")
	h.sync("source", "full/target", "").fails(t, cantCreate, "no room for the image on the file system of",
		"it needs 6.0 MiB more, and there are 2.0 MiB")
	h.wantPhase("full/target", "seen")
	check()
	h.must("mount -o remount,size=16M full")
	h.mustSync("source", "full/target", "-q")
	h.sameBytes("source", "full/target")
	h.sync("source", "full/target", "").silent(t)
}

// TestNoRoomForImage fills the file system of the standby, of which the delta needs new
// blocks: for holes, for blocks that it shares with another file, on btrfs for all that is
// written, and where the standby is a loop device over such a file. The old image stays,
// and what is known of it.
func TestNoRoomForImage(t *testing.T) {
	for _, test := range testkit.Some(t, 1, []struct{ fs, what, make string }{
		{"xfs", "holes", "cp --sparse=always source srv/target"},
		{"btrfs", "all", "cp source srv/target"},
		{"xfs", "shared", "cp source srv/master && cp --reflink=always srv/master srv/target"},
		{"ext4", "holes", "cp --sparse=always source srv/target"},
		{"xfs", "device", "cp --sparse=always source srv/target"},
		{"btrfs", "device", "cp source srv/target"},
	}...) {
		t.Run(test.fs+" "+test.what, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(test.fs, "srv")
			h.must("truncate -s 64M source && dd if=/dev/urandom of=source bs=1M count=4 conv=notrunc status=none")
			if test.what != "holes" && !(test.fs == "xfs" && test.what == "device") {
				h.image("source", 64*mib, 1)
			}
			h.must(test.make)
			target := "srv/target"
			if test.what == "device" {
				target = h.loop("srv/target")
			}
			h.sync("source", target, "-q --disk domu1/xvda").silent(t)
			h.must("dd if=/dev/urandom of=source bs=1M seek=10 count=40 conv=notrunc status=none && " +
				"cp source srv/filler && sync -f srv && rm srv/filler")
			h.leave("srv", 20)
			before := h.digest(target)
			for range 2 {
				h.sync("source", target, "").fails(t, cantCreate, "no room for the image on the file system of "+h.path("srv"),
					"it needs 40.0 MiB more", "there are ")
			}
			h.wantPhase(target, "clean")
			if h.digest(target) != before {
				t.Error("it was changed")
			}
			if free := h.free("srv"); free < 15 || free > 20 {
				t.Errorf("%d MiB are free now", free)
			}
			h.must("rm srv/ballast*; sync -f srv")
			h.sync("source", target, "").silent(t)
			h.must("cmp source " + target)
			if h.readsAll("source", target) {
				t.Error("it was read again")
			}
			// What takes no new blocks needs no room.
			if test.fs == "btrfs" {
				return
			}
			h.must("dd if=/dev/urandom of=source bs=1M seek=10 count=30 conv=notrunc status=none")
			h.leave("srv", 10)
			h.sync("source", target, "").silent(t)
		})
	}
}

// TestLongRoomIsTaken demands that what was counted is still there when it is written, whatever
// others take meanwhile.
func TestLongRoomIsTaken(t *testing.T) {
	for _, fs := range testkit.Some(t, 1, "xfs", "ext4") {
		t.Run(fs, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(fs, "srv")
			h.image("source", 200*mib, 1)
			h.must("truncate -s 200M srv/target && xb-sig srv/target | xb-delta --level 0 source >delta")
			h.leave("srv", 220)
			again := func() { h.must("rm -rf " + h.state + " srv/target srv/rest && truncate -s 200M srv/target") }
			status, said := h.duringFile("delta", "xb-patch -q srv/target", func(int) bool { return h.applying() },
				func() { h.sh("dd if=/dev/zero of=srv/rest bs=1M status=none") }, again)
			if status != 0 {
				t.Errorf("status %d: %s", status, said)
			}
			h.must("cmp source srv/target")
		})
	}
}

// TestNoRoomForCreated demands that no file is left where there is no room for it.
func TestNoRoomForCreated(t *testing.T) {
	h := newHost(t)
	h.fileSystem("xfs", "srv")
	h.image("source", 40*mib, 1)
	h.leave("srv", 20)
	h.must("xb-sig --missing-ok srv/target | xb-delta source >delta")
	h.sh("xb-patch --create srv/target <delta").fails(t, cantCreate, "no room for the image")
	if exists(h.path("srv/target")) {
		t.Error("the target was created")
	}
	if exists(h.state + "/*.json") {
		t.Error("something is remembered")
	}
	h.sh("cat delta | xb-patch --create --in-place srv/target").fails(t, cantCreate, "incomplete first copy")
	h.wantPhase("srv/target", "incomplete")
	h.must("rm srv/ballast*")
	h.sync("source", "srv/target", "--in-place").silent(t)
}

// TestRoomForGuests demands that a standby leaves to the guests on its file system what they
// need: here one of Xen, through a loop device.
func TestRoomForGuests(t *testing.T) {
	h := newHost(t)
	h.fileSystem("xfs", "srv")
	h.image("source", 40*mib, 1)
	h.must("truncate -s 40M srv/target && truncate -s 1M srv/guest && xb-sig srv/target | xb-delta source >delta")
	h.leave("srv", floor+30)
	guest := h.loop("srv/guest")
	h.sh("xb-patch srv/target <delta").fails(t, cantCreate, "256.0 MiB for the guests")
	h.must("cmp -n 41943040 srv/target /dev/zero")
	h.wantPhase("srv/target", "seen")
	h.must("losetup --detach " + guest)
	h.sh("xb-patch -q srv/target <delta").silent(t)
}
