package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// domain defines a shut-off domain on the host, with one disk, and no other one.
func (h *host) domain(name, uuid, disk string) {
	h.Helper()
	if _, err := exec.LookPath("virsh"); err != nil {
		h.Skip("no virsh")
	}
	h.note(h.notes+"/node.xml", fmt.Sprintf(`<node><domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
<name>%s</name><uuid>%s</uuid><memory>8192</memory><os><type>hvm</type></os>
<devices><disk type='file'><source file='%s'/><target dev='vdz'/></disk></devices>
<test:runstate>5</test:runstate></domain></node>`, name, uuid, h.path(disk)))
	if out := h.must("virsh list --all --name"); strings.TrimSpace(out) != name {
		h.Skipf("libvirt's test driver knows %q", out)
	}
}

// everyWay are the ways in which a delta can be applied.
var everyWay = []string{"", "--in-place", "--dry-run", "--force-diverged", "--create"}

// TestLongAnothersDisk has the target among the disks of a domain of that host that is shut off:
// one of another name, and one of this name that is another one.
func TestLongAnothersDisk(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	h.must("xb-sig target | xb-delta source >delta && ln -s target link && ln target hard")
	for name, says := range map[string]string{"own": "own (" + uuid2 + "), as its disk vdz",
		"web": "web (" + uuid2 + "), as its disk vdz"} {
		for _, path := range []string{"target", "link", "hard"} {
			h.domain(name, uuid2, path)
			check := h.untouched("target")
			for _, way := range everyWay {
				h.sh("xb-patch "+way+" --disk web/vda --uuid "+uuid1+" target <delta").
					fails(t, busy, "another domain of this host: "+says)
			}
			check()
		}
	}
	h.domain("own", uuid2, "missing")
	h.sh("xb-sig --missing-ok missing | xb-delta source | xb-patch --create --disk web/vda missing").
		fails(t, busy, "another domain")
	if exists(h.path("missing")) {
		t.Error("it was created")
	}
	h.must("rm hard")
	h.domain("renamed", uuid1, "target")
	h.sync("source", "target", "-q --disk web/vda --uuid "+uuid1).silent(t)
	h.domain("own", uuid2, "target") // whatever it was before
	h.sync("source", "target", "--disk web/vda --uuid "+uuid1).fails(t, busy, "another domain")
	h.sync("source", "target", "").fails(t, busy, "another domain")
	h.sync("source", "target", "--toolstack xl --disk web/vda").fails(t, 0)
}

// TestCannotAskWhose: where the toolstack does not answer, nothing is overwritten that no
// sync has left there.
func TestCannotAskWhose(t *testing.T) {
	h := newHost(t)
	h.image("source", mib, 1)
	h.image("target", mib, 2)
	h.domain("web", uuid1, "target")
	h.sync("source", "target", "-q --disk web/vda").silent(t)
	h.must("rm ../notes/node.xml")
	h.change("source", 1, 1)
	h.sync("source", "target", "--disk web/vda").silent(t)
	h.must("rm -r " + h.state)
	check := h.untouched("target")
	for _, way := range everyWay {
		h.sync("source", "target", way+" --disk web/vda").fails(t, 69, "cannot tell whose disk")
	}
	check()
}

// TestStrangersDisk finds on the target, of which nothing is remembered, what somebody has
// made to use it.
func TestStrangersDisk(t *testing.T) {
	for _, test := range testkit.Some(t, 1, []struct{ kind, what, make string }{
		{"ext4", "a file system (ext4)", "mkfs.ext4 -q -E lazy_itable_init=0 target"},
		{"xfs", "a file system (xfs)", "truncate -s 320M target && mkfs.xfs -q target"},
		{"btrfs", "a file system (btrfs)", "truncate -s 128M target && mkfs.btrfs -q target"},
		{"swap", "a signature (swap)", "chmod 600 target && mkswap target"},
		// One partition of type 83 from sector 2048 on, and data in it.
		{"partitions", "a partition table (dos)",
			`printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\040\0\0' | dd of=target bs=1 seek=446 conv=notrunc status=none &&
			printf '\125\252' | dd of=target bs=1 seek=510 conv=notrunc status=none && printf data | dd of=target bs=1M seek=2 conv=notrunc status=none`},
	}...) {
		t.Run(test.kind, func(t *testing.T) {
			h := newHost(t)
			h.image("source", 4*mib, 1)
			h.must("truncate -s 16M target && " + test.make)
			size := h.size("target")
			h.must(fmt.Sprintf("truncate -s %d source", size))
			check := h.untouched("target")
			h.sync("source", "target", "").fails(t, notBasis, "target holds "+test.what, "--force-diverged")
			h.sync("source", "target", "--dry-run").fails(t, notBasis, "target holds "+test.what, "--force-diverged")
			h.sync("source", "target", "--in-place").fails(t, notBasis, "target holds "+test.what, "without --in-place")
			check()
			h.sync("source", "target", "--force-diverged").fails(t, 0, test.what)
			h.sameBytes("source", "target")
			h.change("source", 2, 2)
			h.sync("source", "target", "").silent(t)
		})
	}
}

// TestSeededCopy lets a copy through that came by other means, and what is only garbage.
func TestSeededCopy(t *testing.T) {
	h := newHost(t)
	h.must("truncate -s 16M source && mkfs.ext4 -q -E lazy_itable_init=0 source && cp source seeded && " +
		"truncate -s 20M larger && dd if=source of=larger conv=notrunc status=none")
	h.image("garbage", 16*mib, 3)
	h.change("source", 3, 4)
	for _, target := range []string{"seeded", "larger", "garbage"} {
		h.sync("source", target, "--dry-run").fails(t, 0, "first contact")
		h.sync("source", target, "").fails(t, 0, "first contact")
		h.sameBytes("source", target)
	}
	// Of a device, what is behind the image is not lost and does not count.
	h.must("cp source disk && truncate -s 24M disk && " +
		"dd if=/dev/urandom of=disk bs=1M seek=16 count=8 conv=notrunc status=none")
	h.change("source", 2, 5)
	h.sync("source", h.loop("disk"), "").fails(t, 0, "first contact")
}
