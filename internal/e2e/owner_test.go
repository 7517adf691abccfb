package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	uuid1 = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	uuid2 = "0d1f8a52-6e0c-4a4e-9d3f-0a6b5f3c2e11"
)

// owner returns whose standby the state says that a target is.
func (h *host) owner(target string) string {
	h.Helper()
	var record struct{ Disk, UUID string }
	decode(h, h.must("xb-patch --state "+target), &record)
	return strings.TrimSpace(record.Disk + " " + record.UUID)
}

func (h *host) wantOwner(target, owner string) {
	h.Helper()
	if got := h.owner(target); got != owner {
		h.Errorf("%s is the standby of %q, want %q", target, got, owner)
	}
}

// TestLongOwner sends the disks of two DomUs to one target, in every way in which a delta
// can be applied.
func TestLongOwner(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("other", mib, 2)
	h.must("cp source target")
	h.sync("source", "target", "-q --peer dom0a --disk domu1/xvda --uuid "+uuid1).silent(t)
	h.wantOwner("target", "domu1/xvda "+uuid1)
	h.must("ln -s target link && xb-sig target | xb-delta other >delta")
	check := h.untouched("target")
	for _, options := range []string{"", "--in-place", "--create", "--dry-run", "--force-diverged", "--spool ../notes"} {
		patch := "xb-patch --peer dom0a " + options + " "
		h.sh(patch+"--disk domu2/xvda link <delta").fails(t, notBasis,
			"standby of domu1/xvda (UUID "+uuid1+"), not of domu2/xvda\n",
			"xb-patch --adopt domu2/xvda link")
		h.sh(patch+"--disk domu1/xvdb target <delta").fails(t, notBasis, "not of domu1/xvdb")
		h.sh(patch+"--disk domu1/xvda --uuid "+uuid2+" target <delta").
			fails(t, notBasis, uuid1, uuid2, "another DomU", "xb-patch --adopt domu1/xvda --uuid "+uuid2+" target")
		h.sh(patch+"target <delta").fails(t, notBasis, "does not say whose disk", "update it on dom0a")
	}
	check()
	// From wherever it comes; where no toolstack keeps a UUID; and by hand.
	for _, options := range []string{"--peer dom0a --disk domu1/xvda --uuid " + strings.ToUpper(uuid1),
		"--disk domu1/xvda", ""} {
		h.change("source", 1, uint64(len(options)))
		h.sync("source", "target", options).silent(t)
		h.wantOwner("target", "domu1/xvda "+uuid1)
	}
	h.sync("source", "target", "--peer dom0c --disk domu1/xvda").fails(t, 0, "dom0c")
	h.must("rm target")
	h.pipe("xb-sig --missing-ok target", "xb-delta other", "xb-patch --create --disk domu2/xvda target").
		fails(t, notBasis, "standby of domu1/xvda")
}

// TestOwnerOfOldState: a state from before takes the first that it is told.
func TestOwnerOfOldState(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.must("cp source target")
	h.sync("source", "target", "-q --peer dom0a").silent(t)
	h.wantOwner("target", "")
	h.sync("source", "target", "--peer dom0a").silent(t)
	h.sync("source", "target", "--peer dom0a --disk domu1/xvda").fails(t, 0, "from now on it is that of domu1/xvda\n")
	h.sync("source", "target", "--peer dom0a --disk domu1/xvda").silent(t)
	h.sync("source", "target", "--peer dom0a --disk domu1/xvda --uuid "+uuid1).fails(t, 0, "domu1/xvda (UUID "+uuid1+")\n")
	h.wantOwner("target", "domu1/xvda "+uuid1)
}

// TestLongOwnerStays demands that whose standby it is outlives what becomes of the content:
// a first copy that is cut, an apply that is interrupted, recovered or given up, and a
// file that lost its name meanwhile.
func TestLongOwnerStays(t *testing.T) {
	h := newHost(t)
	h.image("source", 12*mib, 1)
	h.image("target", 12*mib, 2)
	refused := func() {
		t.Helper()
		h.wantOwner("target", "domu1/xvda "+uuid1)
		check := h.untouched("target")
		for _, options := range []string{"", "--in-place", "--force-diverged"} {
			r := h.sync("source", "target", options+" --disk domu2/xvda")
			if r.statuses[0] == unfinished {
				r.fails(t, unfinished)
			} else {
				r.fails(t, notBasis, "standby of domu1/xvda")
			}
		}
		check()
	}
	mine := "--peer dom0a --disk domu1/xvda --uuid " + uuid1
	h.pipe("xb-sig target", "xb-delta source", "head -c 3000000", "xb-patch --in-place "+mine+" target").
		fails(t, badStream)
	h.wantPhase("target", "incomplete")
	refused()
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	h.killInApply("target", "delta")
	refused()
	h.sh("xb-patch --recover --disk domu2/xvda target").fails(t, notBasis, "standby of domu1/xvda")
	h.must("xb-patch --recover target")
	h.wantPhase("target", "clean")
	refused()
	h.image("source", 12*mib, 3)
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	h.killInApply("target", "delta")
	h.must("xb-patch --abandon-apply target")
	h.wantPhase("target", "incomplete")
	refused()
	h.must("cp target ../notes/mix && cp -a " + h.state +
		" ../notes/incomplete && xb-sig target | xb-delta --level 0 source >delta")
	h.replaceInApply("cp ../notes/mix target && cp target other", " && cp -a ../notes/incomplete "+h.state)
	refused()
}

// TestLongAdopt demands that a renamed DomU needs one word, which changes nothing else.
func TestLongAdopt(t *testing.T) {
	h := newHost(t)
	h.image("source", 12*mib, 1)
	h.image("target", 12*mib, 2)
	h.sh("xb-patch --adopt domu2/xvda target").fails(t, noInput, "no sync of it is remembered")
	h.wantPhase("target", "none")
	h.sync("source", "target", "-q --peer dom0a --disk domu1/xvda --uuid "+uuid1).silent(t)
	without := func(state string) string {
		for _, line := range strings.Split(state, "\n") {
			if strings.Contains(line, `"disk"`) || strings.Contains(line, `"uuid"`) {
				state = strings.Replace(state, line+"\n", "", 1)
			}
		}
		return state
	}
	before := h.must("cat '" + h.stateFile("target") + "'")
	h.sh("xb-patch --adopt domu2/vda --uuid " + uuid1 + " target").silent(t)
	h.wantOwner("target", "domu2/vda "+uuid1)
	if after := h.must("cat '" + h.stateFile("target") + "'"); without(after) != without(before) {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	h.sync("source", "target", "--disk domu1/xvda").fails(t, notBasis, "standby of domu2/vda")
	h.change("target", 1, 3)
	h.sh("xb-patch --adopt domu3/vda target").silent(t)
	h.wantOwner("target", "domu3/vda")
	h.sync("source", "target", "--disk domu3/vda").fails(t, notBasis, "diverged")
	h.sync("source", "target", "-q --disk domu3/vda --force-diverged").silent(t)

	h.image("source", 12*mib, 4)
	h.must("xb-sig target | xb-delta --level 0 source >delta")
	h.killInApply("target", "delta")
	h.sh("xb-patch --adopt domu4/vda target").silent(t)
	h.sync("source", "target", "--disk domu4/vda").fails(t, unfinished)
	h.must("xb-patch --recover target")
	h.wantOwner("target", "domu4/vda")
	h.sameBytes("source", "target")

	h.must("mv target gone")
	fresh := h.pipe("xb-sig --missing-ok target", "xb-delta source",
		"xb-patch --create --force-diverged --disk domu5/vda target")
	fresh.fails(t, notBasis, "xb-patch --adopt domu5/vda target")
	h.sh("xb-patch --adopt domu5/vda target").silent(t)
	h.pipe("xb-sig --missing-ok target", "xb-delta source", "xb-patch --create --disk domu5/vda target").
		fails(t, notBasis, "missing")
	h.pipe("xb-sig --missing-ok target", "xb-delta source",
		"xb-patch -q --create --force-diverged --disk domu5/vda target").silent(t)
	h.wantOwner("target", "domu5/vda")
	h.sh("xb-patch --adopt domu5/vda nowhere").fails(t, noInput)

	in, out := pipeIn(t)
	r := h.start(in, "xb-patch target")
	eventually(t, "a spool", func() bool { return exists(h.part()) })
	h.sh("xb-patch --adopt domu5/vda target").fails(t, busy, "another xb-patch")
	out.Close()
	r.wait()
}

// TestOwnerByOtherNames leads two DomUs to one file by names that no path tells to be one.
func TestOwnerByOtherNames(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("other", mib, 2)
	h.image("target", mib, 3)
	h.must("mkdir dir mnt && mv target dir/target && ln dir/target dir/hard")
	names := []string{"dir/hard"}
	if os.Geteuid() == 0 {
		h.must("mount --bind dir mnt")
		t.Cleanup(func() { h.sh("umount mnt") })
		names = append(names, "mnt/target")
	}
	h.sync("source", "dir/target", "-q --disk domu1/xvda").silent(t)
	check := h.untouched("dir/target")
	for _, name := range names {
		for _, options := range []string{"", "--in-place", "--force-diverged", "--dry-run"} {
			h.sync("other", name, options+" --disk domu2/xvda").fails(t, notBasis, name+" is the same as "+h.path("dir/target"),
				"standby of domu1/xvda, not of domu2/xvda")
		}
	}
	check()
	h.sync("source", "dir/hard", "-q --disk domu1/xvda").silent(t)
}

// TestOwnerBelowLoop is the same of a file that is reached by a loop device.
func TestOwnerBelowLoop(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("other", mib, 2)
	h.image("target", mib, 3)
	h.sync("source", "target", "-q --disk domu1/xvda").silent(t)
	dev := h.loop("target")
	check := h.untouched("target")
	for _, options := range []string{"", "--in-place", "--force-diverged", "--dry-run"} {
		h.sync("other", dev, options+" --disk domu2/xvda").fails(t, notBasis, dev+" is the same as "+h.path("target"),
			"standby of domu1/xvda, not of domu2/xvda")
	}
	check()
}

// TestOwnerOfTwoNodes is the same of a device with two nodes.
func TestOwnerOfTwoNodes(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("disk", mib, 2)
	dev := h.loop("disk")
	h.must(fmt.Sprintf("mknod node b 7 %s && ln -s %s link", strings.TrimPrefix(dev, "/dev/loop"), dev))
	h.sync("source", dev, "-q --disk domu1/xvda").silent(t)
	h.wantOwner("link", "domu1/xvda")
	check := h.untouched("disk")
	h.sync("source", "link", "--disk domu2/xvda").fails(t, notBasis, "standby of domu1/xvda, not of domu2/xvda")
	h.sync("source", "node", "--disk domu2/xvda").fails(t, notBasis, "node is the same as "+dev)
	check()
}

// TestDiskAndUUID are refused where they are none, and where they mean nothing.
func TestDiskAndUUID(t *testing.T) {
	h := twoImages(t)
	check := h.untouched("target")
	for _, disk := range []string{"domu1", "domu1/", "/xvda", "a/b/c", "'do\tmu/x'", "'a\n/b'", "$(printf 'a/\\377')"} {
		h.sh("xb-patch --disk "+disk+" target <delta").fails(t, 64)
		h.sh("xb-patch --adopt "+disk+" target").fails(t, 64)
	}
	for _, options := range []string{"--disk a/b --uuid 1", "--disk a/b --uuid " + uuid1 + "0", "--uuid " + uuid1,
		"--adopt a/b --peer dom0a",
		"--adopt a/b --disk a/b", "--state --disk a/b", "--abandon-apply --disk a/b", "--adopt a/b --state"} {
		h.sh("xb-patch "+options+" target <delta").fails(t, 64)
	}
	check()
}

// TestDeviceSize demands that --state says how large the target is now.
func TestDeviceSize(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.must("truncate -s 3M target disk")
	h.sync("source", "target", "-q").silent(t)
	h.must("truncate -s 1234567 target")
	want := map[string]int64{"target": 1234567}
	if os.Geteuid() == 0 {
		want[h.loop("disk")] = 3 * mib
	}
	for target, size := range want {
		var record struct {
			DeviceSize int64 `json:"device_size"`
		}
		decode(t, h.must("xb-patch --state "+target), &record)
		if record.DeviceSize != size {
			t.Errorf("%s: %d bytes, want %d", target, record.DeviceSize, size)
		}
	}
}

// TestChangedSince demands that --state does not call clean what was changed since.
func TestChangedSince(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.image("source", mib, 1)
			h.image("disk", mib, 2)
			target := "disk"
			if kind != "file" {
				target = h.loop("disk")
			}
			says := func(want string) {
				t.Helper()
				out := h.must("xb-patch --state " + target)
				if got := strings.Contains(out, `"changed_since":`); got != (want != "") || !strings.Contains(out, want) {
					t.Errorf("want %q in %s", want, out)
				}
			}
			says("")
			h.sync("source", target, "-q").silent(t)
			says(`"phase":"clean"`)
			says(`"changed_since":false`)
			h.must("cmp source " + target)
			says(`"changed_since":false`)
			h.scribble(target, 70000)
			says(`"changed_since":true`)
			h.must("sed -i 's/\"witness\": \"\\([a-z]*\\) [^ ]*/\"witness\": \"\\1 another-boot/' '" + h.stateOf(target) + "'")
			says("")
		})
	}
}

// stateOf returns the file with the state of a target or loop device.
func (h *host) stateOf(target string) string {
	if strings.HasPrefix(target, "/") {
		return h.state + "/" + escaped(target) + ".json"
	}
	return h.stateFile(target)
}

// TestCreateOwner demands that the user of the guests can open what is created.
func TestCreateOwner(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	h.image("source", mib, 1)
	create := func(target, options string) result {
		return h.pipe("xb-sig --missing-ok "+target, "xb-delta source", "xb-patch --create "+options+" "+target)
	}
	for i, in := range []string{"", "--in-place "} {
		for j, test := range []struct{ options, want, says string }{
			{"", "root:root 600", ""},
			{"--owner daemon:mail --mode 640", "daemon:mail 640", ""},
			{"--owner daemon", "daemon:daemon 600", ""},
			{"--owner nobody-here:daemon --mode 644", "root:root 644", "unknown user nobody-here"},
			{"--owner daemon:nobody-here", "root:root 600", "unknown group nobody-here"},
		} {
			target := fmt.Sprintf("target%d%d", i, j)
			r := create(target, in+test.options)
			if r.status != 0 || test.says == "" && r.err != "" || !strings.Contains(r.err, test.says) {
				t.Errorf("%s%s: status %d: %s", in, test.options, r.status, r.err)
			}
			if got := strings.TrimSpace(h.must("stat -c '%U:%G %a' " + target)); got != test.want {
				t.Errorf("%s%s: it is %s, want %s", in, test.options, got, test.want)
			}
		}
	}
	for _, options := range []string{"--mode 0", "--mode 999", "--mode 4755", "--mode 444", "--owner ''"} {
		create("refused", options).fails(t, 64)
	}
	h.sh("xb-patch --owner daemon target00 </dev/null").fails(t, 64, "go with --create")
}

// TestMissingDirectory demands that it is said what to make.
func TestMissingDirectory(t *testing.T) {
	h := twoImages(t)
	h.must("ln -s nowhere link && ln -s /xb-none/at/all far && mkdir there")
	for target, says := range map[string]string{
		"none/target": "there is no directory " + h.path("none") + "; is its file system mounted? else: mkdir -p " +
			h.path("none"),
		"there/a/b/target": "there is no directory " + h.path("there/a") +
			"; is its file system mounted? else: mkdir -p " + h.path("there/a/b"),
		"link/target": h.path("link") +
			" is a link to nowhere, which does not exist; is its file system mounted? else: mkdir -p " + h.path("nowhere"),
		"far/sub/target": h.path("far") +
			" is a link to /xb-none/at/all, which does not exist; is its file system mounted? else: mkdir -p /xb-none/at/all/sub",
		"/dev/xb-none/target": "/dev/xb-none/target: no such device or file",
	} {
		for _, command := range []string{"xb-patch --create %s <delta", "xb-patch --create --in-place %s <delta",
			"xb-patch --state %s", "xb-sig %s"} {
			h.sh(fmt.Sprintf(command, target)).fails(t, noInput, says+"\n")
		}
	}
	for _, dir := range []string{"there/a/b", "nowhere"} {
		h.must("mkdir -p " + dir)
	}
	h.must("xb-sig --missing-ok link/target | xb-delta source | xb-patch --create link/target")
}
