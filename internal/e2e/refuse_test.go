package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// twoImages makes a source, a target, the target's signature and the delta.
func twoImages(t *testing.T) *host {
	h := newHost(t)
	h.sparse("source", 2*mib+77, 1)
	h.must("cp source target")
	h.change("target", 12, 2)
	h.must("xb-sig target >sig && xb-delta source <sig >delta")
	return h
}

// refused demands that xb-patch refuses what it is given on stdin and touches
// nothing.
func (h *host) refused(what string, stdin []byte, status int, texts ...string) {
	h.Helper()
	h.note(h.notes+"/stdin", string(stdin))
	check := h.untouched("target")
	// As a file and by a pipe: a file may be looked at first.
	for _, script := range []string{"xb-patch target <../notes/stdin", "cat ../notes/stdin | xb-patch target"} {
		r := h.sh(script)
		if r.status != status {
			h.Errorf("%s: status %d, want %d\n%s", what, r.status, status, r.err)
		}
		r.fails(h, r.status, texts...)
		check()
	}
}

func TestDamagedDelta(t *testing.T) {
	h := twoImages(t)
	delta := h.read("delta")
	random := rand.New(rand.NewPCG(1, 1))
	h.refused("empty", nil, badStream, "empty")
	h.refused("part of the magic", delta[:5], badStream, "cut")
	h.refused("last byte missing", delta[:len(delta)-1], badStream, "cut")
	h.refused("a byte more", append(bytes.Clone(delta), 0), badStream, "more")
	for range 8 {
		n := random.IntN(len(delta))
		h.refused(fmt.Sprintf("cut at %d", n), delta[:n], badStream)
		n = random.IntN(len(delta))
		damaged := bytes.Clone(delta)
		damaged[n] ^= 1 << random.IntN(8)
		status := badStream
		if n < 10 { // magic and version
			status = notOurs
		}
		h.refused(fmt.Sprintf("bit flipped at %d", n), damaged, status)
	}
	for n := range 10 {
		damaged := bytes.Clone(delta)
		damaged[n] ^= 0x20
		h.refused(fmt.Sprintf("flipped at %d", n), damaged, notOurs)
	}
	h.refused("noise", append([]byte("Welcome\x1b[2J\r\nmore\n"), delta...), notOurs, `begins: Welcome\x1b[2J`)
	h.refused("signature", h.read("sig"), notOurs, "this is a signature, not a delta")
	h.must("xb-patch -q target <delta")
	h.sameBytes("source", "target")
}

func TestDamagedSignature(t *testing.T) {
	h := twoImages(t)
	sig := h.read("sig")
	random := rand.New(rand.NewPCG(2, 2))
	try := func(what string, stdin []byte, status int) {
		t.Helper()
		h.note(h.notes+"/stdin", string(stdin))
		check := h.untouched("target")
		r := h.pipe("cat ../notes/stdin", "xb-delta source", "xb-patch target")
		if r.statuses[1] != status || r.status != badStream {
			t.Errorf("%s: statuses %d, want %d from xb-delta and 65 from xb-patch\n%s", what, r.statuses, status, r.err)
		}
		check()
	}
	try("empty", nil, badStream)
	try("a byte more", append(bytes.Clone(sig), 0), badStream)
	try("delta", h.read("delta"), notOurs)
	for range 10 {
		n := random.IntN(len(sig))
		try(fmt.Sprintf("cut at %d", n), sig[:n], badStream)
		n = random.IntN(len(sig)-10) + 10
		damaged := bytes.Clone(sig)
		damaged[n] ^= 1 << random.IntN(8)
		try(fmt.Sprintf("bit flipped at %d", n), damaged, badStream)
	}
}

// TestOtherBasis gives a target deltas that were made for another image.
func TestOtherBasis(t *testing.T) {
	h := twoImages(t)
	delta := h.read("delta")
	h.must("cp target same && cp target other && cp target larger && echo >>larger && cp target unlike && " +
		"truncate -s 1M unlike")
	h.change("other", 1, 9)
	for _, basis := range []string{"other", "larger", "unlike", "source"} {
		h.must("xb-sig " + basis + " | xb-delta source >d")
		h.refused("made for "+basis, h.read("d"), notBasis, "not the delta's basis")
	}
	h.must("xb-sig other | xb-delta other >empty")
	h.refused("an empty delta", h.read("empty"), notBasis, "not the delta's basis")
	h.must("xb-sig -b 64K other | xb-delta source >d")
	h.refused("other blocks", h.read("d"), notBasis)

	h.must("xb-patch -q target <delta")
	h.refused("applied twice", delta, notBasis, "diverged")
	h.must("xb-sig -b 64K target | xb-delta source >d")
	h.refused("other blocks on a clean target", h.read("d"), notBasis, "-b and --hash", "blocks of 4096")
	h.must("cp same target") // somebody brings the old image back
	h.refused("the clean state is of another image", delta, notBasis, "diverged")
	h.must("xb-patch -q --force-diverged target <delta")
	h.sameBytes("source", "target")
}

// TestSwapped confuses the roles of files and streams.
func TestSwapped(t *testing.T) {
	h := twoImages(t)
	check := h.untouched("target")
	h.sh("xb-patch source <delta").fails(t, notBasis)
	h.sh("xb-patch delta <target").fails(t, notOurs)
	h.sh("xb-patch sig <delta").fails(t, notBasis)
	h.sh("xb-sig target | xb-patch target").fails(t, notOurs)
	h.sh("xb-delta target <delta >/dev/null").fails(t, notOurs, "this is a delta, not a signature")
	h.sh("xb-delta sig <source >/dev/null").fails(t, notOurs)
	h.sh("xb-delta --signature target source >/dev/null").fails(t, notOurs)
	h.sh("xb-delta --signature sig - <target | xb-patch source").fails(t, notBasis)
	check()
}

// TestChangedMeanwhile changes the target between its signature and the delta.
func TestChangedMeanwhile(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			h := newHost(t)
			h.image("source", mib, 1)
			h.must("cp source target")
			if known {
				h.mustSync("source", "target", "-q")
			}
			h.must("printf new | dd of=source bs=1 seek=5000 conv=notrunc status=none && " +
				"xb-sig target | xb-delta source >delta && cp target before")
			for _, place := range []int{5002, 500000} { // in the block to be replaced, and elsewhere
				h.must(fmt.Sprintf("printf changed | dd of=target bs=1 seek=%d conv=notrunc status=none", place))
				h.refused(fmt.Sprintf("changed at %d", place), h.read("delta"), notBasis)
				h.must("cp before target")
			}
			h.must("xb-patch -q target <delta")
			h.sameBytes("source", "target")
		})
	}
}

// TestDiverged lets a standby be used, as in a failover, and then the old source
// come back.
func TestDiverged(t *testing.T) {
	h := newHost(t)
	h.sparse("source", mib, 1)
	h.must("truncate -s 1M target")
	h.mustSync("source", "target", "-q")
	h.change("target", 2, 3)
	h.change("source", 2, 4)
	check := h.untouched("target")
	r := h.sync("source", "target", "")
	r.fails(t, notBasis, "diverged", "--force-diverged")
	check()
	r = h.sync("source", "target", "--force-diverged")
	r.fails(t, 0, "diverged")
	h.sameBytes("source", "target")
	h.sync("source", "target", "").silent(t)
}

// TestDiscardChanges has the administrator of a diverged standby consent to what the source may not decide.
func TestDiscardChanges(t *testing.T) {
	h := newHost(t)
	h.sparse("source", mib, 1)
	h.must("truncate -s 1M target")
	const run = "-q --peer dom0a --disk domu1/xvda"
	h.mustSync("source", "target", run)
	h.sh("xb-patch --discard-changes target").fails(t, 1, "has not diverged")
	h.change("target", 2, 3)
	h.change("source", 2, 4)
	h.sync("source", "target", run).fails(t, notBasis, "diverged", "xb-patch --discard-changes target\n")
	r := h.sh("xb-patch --discard-changes target")
	r.silent(t)
	check := h.untouched("target")
	var lost struct{ Image struct{ Digest string } }
	decode(h, h.must("xb-sig target | xb-sig --info --json"), &lost)
	digest := lost.Image.Digest
	for _, words := range []string{"domu1/xvda from dom0a", "UTC", digest} {
		if !strings.Contains(r.out, words) {
			t.Errorf("it prints %q, without %q", r.out, words)
		}
	}
	h.sync("source", "target", "-q --peer dom0c --disk domu1/xvda").fails(t, notBasis, "it is for an image from dom0a",
		"xb-patch --discard-changes --peer dom0c target\n")
	h.sync("source", "target", "--dry-run "+run).fails(t, 0)
	check()

	var state struct {
		Consent struct{ Peer, Disk, By, Digest string }
	}
	decode(h, h.must("xb-patch --state target"), &state)
	if c := state.Consent; c.Peer != "dom0a" || c.Disk != "domu1/xvda" || c.By == "" || c.Digest != digest {
		t.Errorf("--state shows %+v", c)
	}
	h.sync("source", "target", strings.TrimPrefix(run, "-q ")).fails(t, 0, "the consent of "+state.Consent.By+" from ", digest)
	h.sameBytes("source", "target")
	h.sync("source", "target", run).silent(t)
	h.change("target", 2, 5)
	h.sync("source", "target", run).fails(t, notBasis, "diverged")
	h.must("rm target")
	h.sh("xb-patch --discard-changes target").fails(t, notBasis, "is missing", "--force-diverged")
	h.sh("xb-patch --discard-changes no-such").fails(t, noInput)
}

// TestMigratedAway has a DomU leave its host by a live migration, and its image there refused
// afterwards: the words say what only its administrator can tell.
func TestMigratedAway(t *testing.T) {
	h := newHost(t)
	h.sparse("source", mib, 1)
	h.must("truncate -s 1M target")
	h.mustSync("source", "target", "-q --disk domu1/vda")
	h.change("target", 2, 3)
	h.must(`mkdir bin; cat >bin/virsh <<'END'
#!/bin/sh
case $1 in
list) echo '11111111-2222-4333-8444-555555555555 domu1' ;;
dumpxml*) echo "<domain type='kvm'><name>domu1</name><uuid>11111111-2222-4333-8444-555555555555</uuid></domain>"; cat state ;;
dominfo) echo 'Managed save:   no' ;;
esac
END
chmod +x bin/virsh`)
	h.env[0] = strings.Replace(h.env[0], "PATH=", "PATH="+h.path("bin")+":", 1)
	const words = "domu1 was migrated away from here (virsh: shut off (migrated)): if its disks were copied"
	h.must("echo 'shut off (migrated)' >state")
	h.sync("source", "target", "--disk domu1/vda").fails(t, notBasis, "diverged", words)
	h.must("echo 'shut off (shutdown)' >state")
	if r := h.sync("source", "target", "--disk domu1/vda"); r.status != notBasis || strings.Contains(r.err, "migrated") {
		t.Errorf("shut down: %+v", r)
	}
}

func TestMissingDevice(t *testing.T) {
	h := twoImages(t)
	name := fmt.Sprintf("/dev/xb-e2e-%d", rand.Uint64())
	for _, target := range []string{name, "/dev/mapper/" + name[5:], "/dev/shm/none/missing", "missing", "none/missing",
		"target/missing"} {
		check := h.untouched("target")
		for _, options := range []string{"", "--create", "--in-place", "--create --in-place"} {
			if target == "missing" && options != "" {
				continue // that is what --create is for
			}
			h.sh(fmt.Sprintf("xb-patch %s %s <delta", options, target)).fails(t, noInput, target)
		}
		h.sh("xb-sig "+target).fails(t, noInput, target)
		h.sh("xb-sig --missing-ok "+target+" | xb-delta source | xb-patch "+target).fails(t, noInput)
		check()
		if exists(target) || exists(h.path(target)) {
			t.Errorf("%s was made", target)
		}
	}
	h.sh("xb-patch /dev/null <delta").fails(t, noInput, "neither")
	h.sh("xb-patch . <delta").fails(t, noInput, "neither")
	h.sh("xb-delta missing <sig >/dev/null").fails(t, noInput, "missing")
	h.sh("xb-delta --signature missing source >/dev/null").fails(t, noInput, "missing")
}

func TestSmallDevice(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib+512, 1)
	h.image("disk", 2*mib, 2)
	target := h.loop("disk")
	check := h.untouched("disk")
	for _, options := range []string{"", "--in-place", "--dry-run"} {
		h.sync("source", target, options).fails(t, badStream, "too small", "2097152", "2097664")
		check()
	}
	// Its size not known beforehand, the delta has to come to its end.
	h.must("xb-sig " + target + " >../notes/sig")
	r := h.pipe("cat source", "xb-delta --signature ../notes/sig -", "xb-patch "+target)
	r.fails(t, badStream, "too small")
	check()
}

// TestAppended has somebody append to the target while the delta arrives: the image
// would be cut there.
func TestAppended(t *testing.T) {
	h := twoImages(t)
	h.must("cp target before && echo more >>before")
	for _, options := range []string{"", "--in-place"} {
		h.must("head -c -5 before >target")
		in, out := pipeIn(t)
		r := h.start(in, "xb-patch "+options+" target")
		fds := fmt.Sprintf("ls -l /proc/%d/fd", r.stages[0].Process.Pid)
		eventually(t, "an open target", func() bool { return strings.Contains(h.sh(fds).out, h.path("target")+"\n") })
		h.must("echo more >>target")
		out.Write(h.read("delta"))
		out.Close()
		if status := r.wait()[0]; status != notBasis {
			t.Errorf("%s: status %d: %s", options, status, r.said(0))
		}
		h.sameBytes("before", "target")
		h.wantPhase("target", "seen")
	}
}

// TestTooLargeForFiles has an image that is larger than ext4 allows to a file.
func TestTooLargeForFiles(t *testing.T) {
	h := newHost(t)
	h.tmpfs("big", "1M")
	h.must("truncate -s 20M disk && mkfs.ext4 -q disk && mkdir ext4")
	h.must("mount " + h.loop("disk") + " ext4")
	t.Cleanup(func() { h.sh("umount ext4") })
	h.must("head -c 1M /dev/urandom >ext4/target && cp ext4/target old")
	h.must("head -c 100000 /dev/urandom >big/source && truncate -s 17T big/source")
	h.must("xb-sig ext4/target | xb-delta big/source >delta && xb-sig --missing-ok ext4/new | xb-delta big/source >first")
	for _, options := range []string{"", "--in-place", "--dry-run"} {
		h.sh("xb-patch "+options+" ext4/target <delta").fails(t, badStream, "no file of")
		h.sh("xb-patch --create "+options+" ext4/new <first").fails(t, badStream, "no file of")
	}
	h.sameBytes("old", "ext4/target")
	h.wantPhase("ext4/target", "seen")
	if exists(h.path("ext4/new")) {
		t.Error("a file was created")
	}
}

// TestReadOnlyDevice: a device that cannot be written is refused before an apply is
// recorded.
func TestReadOnlyDevice(t *testing.T) {
	h := twoImages(t)
	dev := h.loop("target")
	h.must("xb-sig " + dev + " | xb-delta source >delta")
	t.Cleanup(func() { h.must("blockdev --setrw " + dev) }) // the flag outlives the loop
	h.must("blockdev --setro " + dev)
	check := h.untouched("target")
	h.sh("xb-patch "+dev+" <delta").fails(t, ioError, "read-only")
	h.sh("xb-patch --in-place "+dev+" <delta").fails(t, ioError, "read-only")
	check()
	h.wantPhase(dev, "seen")
}

// TestSectorSizes copies to a device whose sectors are not the source's: said once, at the
// first contact.
func TestSectorSizes(t *testing.T) {
	h := newHost(t)
	needRoot(t)
	h.image("source", mib, 1)
	h.must("truncate -s 1M target other")
	dev := strings.TrimSpace(h.must("losetup --find --show --sector-size 4096 target"))
	testkit.Count(h, dev)
	t.Cleanup(func() { h.must("losetup --detach " + dev) })
	const words = "logical sectors of 4096 bytes, and its source of 512"
	h.must("xb-sig " + dev + " | xb-delta source >delta")
	for _, options := range []string{"--dry-run", "--dry-run --in-place", ""} {
		if r := h.sh("xb-patch --sector-size 512 " + options + " " + dev + " <delta"); r.status != 0 ||
			strings.Count(r.err, words) != 1 {
			t.Errorf("%q: status %d: %s", options, r.status, r.err)
		}
	}
	h.change("source", 1, 2)
	h.sync("source", dev, "--sector-size 512").silent(t)
	h.must("xb-sig --missing-ok new | xb-delta source >delta")
	for _, options := range []string{"--create", "--create --in-place"} {
		if r := h.sh("xb-patch --sector-size 4K " + options + " new <delta"); r.status != 0 ||
			!strings.Contains(r.err, "sectors of 512 bytes, and its source of 4096") {
			t.Errorf("%q: status %d: %s", options, r.status, r.err)
		}
		h.must("rm -r new ../state")
	}
	h.sh("xb-patch --create --sector-size 512 new <delta").silent(t)
	h.sh("xb-patch --create --sector-size 1000 new <delta").fails(t, exit.Usage, "1000")
}

// TestSourceWithoutWitness reads a device that counts no writes: nothing would tell of one.
func TestSourceWithoutWitness(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	dev := h.loop("source")
	control := "/sys/block/" + filepath.Base(dev) + "/queue/iostats"
	if r := h.sh("echo 0 >" + control); r.status != 0 {
		t.Skip(r.err)
	}
	t.Cleanup(func() { h.must("echo 1 >" + control) }) // it outlives the loop
	h.must("xb-sig target >sig")
	h.sh("xb-delta --signature sig "+dev+" >delta").fails(t, unavailable, "nothing would tell", "iostats", "--allow-live")
	if size := len(h.read("delta")); size != 0 {
		t.Errorf("a delta of %d bytes", size)
	}
	h.must("xb-delta --allow-live --signature sig " + dev + " >delta && xb-patch -q target <delta")
	h.sameBytes("source", "target")
	h.must("echo 1 >" + control)
	h.must("xb-sig target | xb-delta " + dev + " | xb-patch target")
}

// TestSourceChanged writes to the source while it is read: no complete delta leaves,
// unless it is said that this may happen.
func TestSourceChanged(t *testing.T) {
	h := newHost(t)
	h.image("source", 2*mib, 1)
	h.image("target", 2*mib, 2)
	h.must("xb-sig target >sig")
	for _, live := range []bool{false, true} {
		in, out := pipeIn(t)
		command := "xb-delta --new-signature fresh source"
		if live {
			command += " --allow-live"
		}
		r := h.start(in, command, "tee ../notes/delta")
		sig := h.read("sig")
		out.Write(sig[:100])
		// It writes the header once it has looked at the source.
		eventually(t, "a header", func() bool {
			info, err := os.Stat(h.notes + "/delta")
			return err == nil && info.Size() > 0
		})
		h.change("source", 1, 3)
		out.Write(sig[100:])
		out.Close()
		want := busy
		if live {
			want = 0
		}
		if status := r.wait()[0]; status != want {
			t.Errorf("live %v: status %d: %s", live, status, r.said(0))
		}
		if exists(h.path("fresh")) != live {
			t.Errorf("live %v: the new signature is there: %v", live, !live)
		}
		h.must("rm ../notes/delta")
	}
}
