package e2e

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
)

func (h *host) summary(file string) cli.Summary {
	h.Helper()
	var s cli.Summary
	decode(h, string(h.read(file)), &s)
	return s
}

func (h *host) size(file string) int64 {
	h.Helper()
	info, err := os.Stat(h.path(file))
	if err != nil {
		h.Fatal(err)
	}
	return info.Size()
}

// fourChanges makes two images of one size that differ in four blocks, one of which
// becomes zero, and in the length of none.
func fourChanges(t *testing.T) *host {
	h := newHost(t)
	h.image("target", mib+100, 1)
	image := h.read("target")
	for _, block := range []int{3, 4, 100} {
		image[block*4096+5]++
	}
	copy(image[200*4096:201*4096], make([]byte, 4096))
	h.write("source", image)
	h.must("truncate -s 1M target && truncate -s 1M source")
	return h
}

func TestSummary(t *testing.T) {
	for _, options := range []string{"", "--hash sha256"} {
		t.Run(options, func(t *testing.T) { testSummary(fourChanges(t), options) })
	}
}

func testSummary(h *host, options string) {
	h.must("xb-sig " + options + " --summary sum.sig target >sig && xb-delta --summary sum.delta source <sig >delta && " +
		"xb-patch -q --summary sum.patch target <delta && xb-sig " + options + " source >new")
	hash := "xxh64"
	if options != "" {
		hash = "sha256"
	}
	digest := func(stream string) string {
		var info struct{ Image struct{ Digest string } }
		decode(h, h.must("xb-sig --info --json "+stream), &info)
		return info.Image.Digest
	}
	want := cli.Summary{Version: cli.Version, ImageSize: mib, BlockSize: 4096, Hash: hash, BytesRead: mib}
	sig, delta, patch := want, want, want
	sig.Command, sig.Digest, sig.BytesSent = "xb-sig", digest("sig"), h.size("sig")
	delta.Command, delta.Digest, delta.BytesSent = "xb-delta", digest("new"), h.size("delta")
	delta.BytesChanged, delta.BlocksChanged, delta.Source = 4*4096, 4, h.path("source")
	patch.Command, patch.Digest, patch.BytesRead = "xb-patch", digest("new"), h.size("delta")
	patch.BytesChanged, patch.BlocksChanged = 4*4096, 4
	for file, want := range map[string]cli.Summary{"sum.sig": sig, "sum.delta": delta, "sum.patch": patch} {
		got := h.summary(file)
		if got.Seconds <= 0 || got.Seconds > 600 {
			h.Errorf("%s: %v seconds", file, got.Seconds)
		}
		// Of the target it has read what it replaced and what it wrote, and perhaps a block to see how.
		if extra := got.TargetBytesRead - 2*patch.BytesChanged; file == "sum.patch" && extra >= 0 && extra <= 4096 {
			want.TargetBytesRead = got.TargetBytesRead
		}
		want.Seconds = got.Seconds
		if !reflect.DeepEqual(got, want) {
			h.Errorf("%s:\n got %+v\nwant %+v", file, got, want)
		}
	}
	if text := string(h.read("sum.delta")); strings.Count(text, "\n") != 1 ||
		!strings.Contains(text, `"bytes_changed":16384`) {
		h.Errorf("summary %q", text)
	}
}

// TestSummaryHoles demands that holes are not read, and that what failed leaves no
// summary.
func TestSummaryHoles(t *testing.T) {
	h := newHost(t)
	h.must("truncate -s 64M image && printf data | dd of=image bs=1M seek=20 conv=notrunc status=none && " +
		"xb-sig --summary sum image >sig")
	if s := h.summary("sum"); s.ImageSize != 64*mib || s.BytesRead > mib {
		t.Errorf("%d bytes of %d read", s.BytesRead, s.ImageSize)
	}
	h.must("rm sum")
	check := h.untouched("image")
	h.sh("xb-sig --summary sum image >/dev/full").fails(t, ioError)
	h.sh("xb-delta --summary sum image <image >/dev/null").fails(t, notOurs)
	h.sh("xb-patch --summary sum image <sig").fails(t, notOurs)
	check()
	h.sh("xb-sig --summary none/sum image >/dev/null").fails(t, cantCreate, "none/sum")
	if out := h.must("xb-sig --summary /dev/fd/3 image 3>&1 >/dev/null"); !strings.Contains(out, `"command":"xb-sig"`) {
		t.Errorf("summary to a pipe: %q", out)
	}
}

func TestCheck(t *testing.T) {
	h := fourChanges(t)
	h.must("xb-sig target >sig && cp target grown && echo >>grown && cp target shrunk && truncate -s -1 shrunk && : >empty")
	check := h.untouched("target")
	for source, want := range map[string]string{
		"target": "0 blocks 256 changed 0 bytes 0",
		"source": "1 blocks 256 changed 4 bytes 16384",
		"grown":  "1 blocks 257 changed 1 bytes 1",
		"shrunk": "1 blocks 256 changed 1 bytes 4095",
		"empty":  "1 blocks 0 changed 0 bytes 0",
	} {
		r := h.sh("xb-delta --check " + source + " <sig")
		if got := fmt.Sprintf("%d %s", r.status, r.out); got != want+"\n" || r.err != "" {
			t.Errorf("%s: %q, want %q; stderr %q", source, got, want, r.err)
		}
	}
	for _, cut := range []string{"head -c -1 sig", "head -c 100 sig", "cat sig sig"} {
		r := h.sh(cut + " | xb-delta --check source")
		r.fails(t, badStream)
		if r.out != "" {
			t.Errorf("%s: %q on stdout", cut, r.out)
		}
	}
	check()
	h.sh("xb-delta --check --summary sum source <sig")
	if sum := h.must("cat sum"); !strings.Contains(sum, `"first_changed":[12288,409600,819200]`) {
		t.Errorf("where they differ: %s", sum)
	}
}

func TestLongNewSignature(t *testing.T) {
	for _, options := range []string{"", "-b 64K", "--hash sha256"} {
		t.Run(options, func(t *testing.T) { testNewSignature(newHost(t), options) })
	}
}

func testNewSignature(h *host, options string) {
	h.sparse("source", 3*mib+7, 1)
	h.sparse("target", 4*mib, 2)
	h.must("xb-sig " + options + " target >old && xb-sig " + options + " source >want && " +
		"xb-delta --new-signature new source <old >delta && cmp want new")
	// The next delta is made without asking the target.
	h.must("xb-patch -q target <delta")
	h.change("source", 5, 3)
	r := h.sh("xb-delta --signature new source | xb-patch target")
	r.silent(h)
	h.sameBytes("source", "target")
	// A pipe has no holes, and ends where it ends.
	h.must("cat source | xb-delta --signature old --new-signature piped - >/dev/null && xb-sig " + options +
		" source >want")
	var a, b struct{ Image struct{ Digest string } }
	decode(h, h.must("xb-sig --info --json want"), &a)
	decode(h, h.must("xb-sig --info --json piped"), &b)
	if a != b {
		h.Errorf("digest of a pipe %v, of the file %v", b, a)
	}
	check := h.untouched("source")
	h.sh("xb-delta --new-signature fresh source <old >/dev/full").fails(h, ioError)
	h.sh("head -c -9 old | xb-delta --new-signature fresh source >/dev/null").fails(h, badStream)
	h.sh("xb-delta --new-signature source source <old >/dev/null").fails(h, exit.Usage, "overwritten")
	h.sh("xb-delta --new-signature s --summary ./s source <old >/dev/null").fails(h, exit.Usage, "overwritten")
	h.sh("xb-sig --summary source source >/dev/null").fails(h, exit.Usage, "overwritten")
	h.sh("xb-patch --summary source source <delta").fails(h, exit.Usage, "overwritten")
	h.sh("xb-delta --new-signature none/fresh source <old >/dev/null").fails(h, cantCreate)
	check()
}

func TestInfo(t *testing.T) {
	h := fourChanges(t)
	h.must("xb-sig target >sig && xb-delta --level 0 source <sig >delta")
	for _, command := range commands {
		for _, how := range []string{" --info sig", " --info <sig", " --info - <sig"} {
			h.infoHas(command+how, "signature, version 1, complete", fmt.Sprintf("stream size: %d bytes", h.size("sig")),
				"image size: 1048576 bytes", "256 hashed, 0 zero")
		}
		h.infoHas(command+" --info delta", "delta, version 1, complete", "basis size: 1048576", "source size: 1048576",
			"in 1 frames",
			"3 literal, 1 zero", "literal data: 12288 bytes")
		var info struct {
			Kind, Hash                  string
			Bytes                       int64
			Block_size, Frames          int
			Literal_blocks, Zero_blocks int
			Basis, Source               struct{ Size int64 }
		}
		decode(t, h.must(command+" --info --json <delta"), &info)
		if info.Kind != "delta" || info.Hash != "xxh64" || info.Bytes != h.size("delta") || info.Block_size != 4096 ||
			info.Frames != 1 ||
			info.Literal_blocks != 3 || info.Zero_blocks != 1 || info.Basis.Size != mib || info.Source.Size != mib {
			t.Errorf("%s: %+v", command, info)
		}
		h.sh("head -c -1 delta | "+command+" --info").fails(t, badStream, "cut")
		for _, n := range []int{1, 3, 4, 7, 8} { // within the magic, too
			h.sh(fmt.Sprintf("head -c %d delta | %s --info", n, command)).fails(t, badStream, "cut")
		}
		h.sh("head -c 500 sig | "+command+" --info --json").fails(t, badStream, "cut")
		h.sh("echo hello | "+command+" --info").fails(t, notOurs, "hello")
		h.sh(command+" --info </dev/null").fails(t, badStream)
		h.sh(command+" --info missing").fails(t, noInput)
	}
}

// infoHas demands texts in an output whose columns may have any width.
func (h *host) infoHas(command string, texts ...string) {
	h.Helper()
	out := strings.Join(strings.Fields(h.must(command)), " ")
	for _, text := range texts {
		if !strings.Contains(out, text) {
			h.Errorf("%s: no %q in %q", command, text, out)
		}
	}
}

// TestDryRun demands that it says what would be written, and writes nothing at
// all, not even a lock.
func TestDryRun(t *testing.T) {
	h := fourChanges(t)
	h.must("xb-sig --state-dir ../notes/none target >sig && xb-delta source <sig >delta && rm -rf " + h.state)
	check := h.untouched("target")
	for _, script := range []string{"xb-patch --dry-run -q target <delta", "cat delta | xb-patch -q --dry-run target"} {
		if out := h.must(script); out !=
			"target: would write 3 blocks and zero 1 of 4096 bytes each; image size 1048576, now 1048576\n" {
			t.Errorf("it says %q", out)
		}
	}
	h.must("xb-patch --dry-run -q --summary ../notes/summary target <delta")
	if summary := h.must("cat ../notes/summary"); !strings.Contains(summary, `"blocks_changed":4`) {
		t.Errorf("summary %s", summary)
	}
	h.sh("head -c -1 delta | xb-patch --dry-run target").fails(t, badStream)
	for _, dir := range []string{"none", "delta"} {
		h.sh("xb-patch --dry-run --spool "+dir+" target <delta").fails(t, cantCreate, dir)
	}
	dev := h.loop("--read-only target")
	h.sh("xb-patch --dry-run "+dev+" <delta").fails(t, ioError, "read-only")
	h.must("losetup --detach " + dev)
	h.sh("xb-patch --dry-run source <delta").fails(t, notBasis)
	h.must("xb-sig --missing-ok created | xb-delta source | xb-patch -q --dry-run --create created")
	check()
	if exists(h.state) || exists(h.path("created")) {
		t.Error("something was created")
	}
}

func TestState(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	if out := h.must("xb-patch --state target"); out != `{"phase":"none","device_size":1048576}`+"\n" {
		t.Errorf("without a record: %q", out)
	}
	h.must("xb-sig target >sig")
	h.wantPhase("target", "seen")
	h.must("xb-delta --summary sum source <sig | xb-patch -q --peer dom0a target")
	var record struct {
		Phase, Device, Hash, Digest, Peer, Time string
		Size, Block_size                        int64
		Sent                                    []struct{ Peer, Digest string }
	}
	decode(t, h.must("xb-patch --state target"), &record)
	s := h.summary("sum")
	if record.Phase != "clean" || record.Device != h.path("target") || record.Hash != "xxh64" ||
		record.Digest != s.Digest ||
		record.Peer != "dom0a" || record.Size != mib || record.Block_size != 4096 || record.Time == "" {
		t.Errorf("state %+v", record)
	}
	h.sh("xb-patch --state missing").fails(t, noInput)

	// The source host remembers what it sent.
	h.sh("xb-patch --record source --peer dom0b --disk d/x --target t --stages 0 --sent sum </dev/null").silent(t)
	decode(t, h.must("xb-patch --state source"), &record)
	if len(record.Sent) != 1 || record.Sent[0].Peer != "dom0b" || record.Sent[0].Digest != s.Digest {
		t.Errorf("state %+v", record)
	}
	for _, bad := range []string{"sig", "/dev/null", "source"} {
		r := h.sh("xb-patch --record source --peer dom0b --disk d/x --target t --stages 0 --sent " + bad + " </dev/null")
		if r.fails(t, badStream); !strings.Contains(r.out, "summary") {
			t.Errorf("it says %s", r.out)
		}
	}
	h.sh("xb-patch --record missing --peer dom0b --disk d/x --target t --stages 0 --sent sum </dev/null").fails(t, noInput)
	h.sh("xb-patch --record source --peer .. --disk d/x --target t --stages 0 --sent sum </dev/null").fails(t, 64)
}

// TestReversed changes the roles after a failover: both sides know their last
// common image, so the way back needs no force, and one that lacks it is refused.
func TestReversed(t *testing.T) {
	h := newHost(t)
	h.image("a", mib, 1)
	h.must("truncate -s 1M b")
	h.must("xb-sig b | xb-delta --summary sum a | xb-patch -q --peer hostA b && xb-patch --record a --peer hostB --disk d/x --target t --stages 0 --sent sum </dev/null")
	h.change("b", 3, 3) // the domain runs on b now
	h.pipe("xb-sig a", "xb-delta b", "xb-patch --peer hostB a").silent(t)
	h.sameBytes("a", "b")
	h.change("b", 1, 4)
	h.change("a", 1, 5) // and somewhere else too
	check := h.untouched("a")
	h.pipe("xb-sig a", "xb-delta b", "xb-patch --peer hostB a").fails(t, notBasis, "diverged")
	check()
}

// TestLastCommonImage has an image that was sent to two hosts at two times, and one that was
// got from a host and sent back to it later: who is refused is told the last one that the
// sender of the delta had, too.
func TestLastCommonImage(t *testing.T) {
	h := newHost(t)
	h.image("a", mib, 1)
	h.image("b", mib, 2)
	h.must("xb-sig b | xb-delta --summary sum a >/dev/null && xb-patch --record a --peer hostA --disk d/x --target t --stages 0 --sent sum </dev/null")
	h.change("a", 3, 3)
	h.must("xb-sig b | xb-delta --summary sum a >/dev/null && xb-patch --record a --peer hostB --disk d/x --target t --stages 0 --sent sum </dev/null")
	common := h.summary("sum").Digest
	h.change("a", 1, 4)
	h.pipe("xb-sig a", "xb-delta b", "xb-patch --peer hostB a").fails(t, notBasis, "remembered is xxh64 "+common)

	h.image("c", mib, 5)
	h.must("truncate -s 1M d; xb-sig d | xb-delta c | xb-patch -q --peer hostB d")
	h.must("sed -i -E 's/(\"time\": *\")[0-9]{4}/\\12001/' " + h.stateFile("d"))
	h.change("d", 3, 6)
	h.must("xb-sig b | xb-delta --summary sum d >/dev/null && xb-patch --record d --peer hostB --disk d/x --target t --stages 0 --sent sum </dev/null")
	common = h.summary("sum").Digest
	h.change("d", 1, 7)
	h.pipe("xb-sig d", "xb-delta c", "xb-patch --peer hostB d").fails(t, notBasis, "remembered is xxh64 "+common)
}

// TestThirdHost lets a host come back with an old image when the domain has moved on to
// another one: what that has sent to a third host is newer, and not for it to overwrite.
func TestThirdHost(t *testing.T) {
	h := newHost(t)
	h.image("a", mib, 1)
	h.must("cp a b; cp a c; printf old | dd of=a conv=notrunc status=none")
	h.must("xb-sig c | xb-delta --summary sum b | xb-patch -q --peer hostB c && xb-patch --record b --peer hostC --disk d/x --target t --stages 0 --sent sum </dev/null")
	check := h.untouched("b")
	h.pipe("xb-sig b", "xb-delta a", "xb-patch --peer hostA b").
		fails(t, notBasis, "diverged", "sent to hostC", "not known to hostA")
	check()
	h.pipe("xb-sig b", "xb-delta a", "xb-patch --peer hostC --dry-run b").fails(t, 0, "")
	h.must("xb-sig b | xb-delta a | xb-patch -q --peer hostA --force-diverged b")
	// c has the image that hostB left in it, which a host that took over may overwrite;
	// whether hostA is that one, or was away for long, is for somebody to judge.
	h.pipe("xb-sig c", "xb-delta a", "xb-patch --peer hostA c").fails(t, 0, "its last image from hostB", "from hostA")
	h.must("xb-sig c | xb-delta a | xb-patch -q c")
	h.pipe("xb-sig c", "xb-delta a", "xb-patch --peer hostA c").
		fails(t, 0, "its last image from a host that was not named", "from hostA")
}
