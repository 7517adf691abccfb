package e2e

import (
	"fmt"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// sizes have ends at, before and behind the borders of blocks and sectors.
var sizes = []int64{0, 1, 511, 4095, 4096, 4097, 3*4096 + 7, mib, 3*mib + 513}

func TestFiles(t *testing.T) {
	for _, options := range testkit.Some(t, 1, "-b 64K --hash sha256", "", "-b 64K", "-b 1M", "--hash sha256") {
		t.Run(options, func(t *testing.T) {
			h := newHost(t)
			for i, size := range sizes {
				source, target := fmt.Sprintf("source%d", i), fmt.Sprintf("target%d", i)
				h.sparse(source, size, uint64(i))
				h.image(target, size, 99)
				sig := "xb-sig " + options + " " + target
				first := h.pipe(sig, "xb-delta "+source, "xb-patch "+target)
				first.fails(t, 0, "first contact")
				if lines := strings.Count(first.err, "\n"); lines != 1 {
					t.Errorf("%d bytes: %d lines on first contact:\n%s", size, lines, first.err)
				}
				h.sameBytes(source, target)
				if size > 0 {
					h.change(source, 3, 7)
				}
				h.pipe(sig, "xb-delta "+source, "xb-patch "+target).silent(t)
				h.sameBytes(source, target)
				h.pipe(sig, "xb-delta "+source, "xb-patch "+target).silent(t)
				h.wantPhase(target, "clean")
			}
		})
	}
}

// TestFileSizes lets a target grow and shrink.
func TestFileSizes(t *testing.T) {
	h := newHost(t)
	h.write("target", nil)
	for i, size := range []int64{1, 4096, 0, 4097, 4095, 12295, 12294, mib, 0, 3*mib + 513, 3 * mib, mib + 1, 4096} {
		h.sparse("source", size, uint64(i))
		h.mustSync("source", "target", "-q")
	}
}

func TestLoopDevices(t *testing.T) {
	for _, size := range []int64{4 * mib, 4*mib + 512, 5*mib - 1536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			h := newHost(t)
			h.sparse("source", size, 1)
			h.image("disk", size, 2)
			source, target := h.loop("source"), h.loop("disk")
			h.sync(source, target, "").fails(t, 0, "first contact")
			h.sameBytes(source, target)
			for _, options := range []string{"", "-b 64K", "-b 1M"} {
				if options != "" { // other blocks: nothing to compare the digests with
					h.must("rm -r " + h.state)
				}
				h.change("source", 5, 8)
				h.must("blockdev --flushbufs " + source)
				r := h.pipe("xb-sig "+options+" "+target, "xb-delta "+source, "xb-patch -q "+target)
				r.silent(t)
				h.sameBytes(source, target)
			}
			h.sync(source, target, "").fails(t, notBasis, "-b")
		})
	}
}

// TestLargerDevice demands that what is behind the image is left alone, named
// once, and no divergence.
func TestLargerDevice(t *testing.T) {
	for _, size := range []int64{2 * mib, 2*mib + 100, 2*mib - 4097} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			h := newHost(t)
			h.image("source", size, 1)
			h.image("disk", 3*mib, 2)
			tail := h.read("disk")[size:]
			target := h.loop("disk")
			h.sync("source", target, "").fails(t, 0, "first contact", fmt.Sprintf("last %d bytes are left alone", 3*mib-size))
			check := func() {
				t.Helper()
				h.must("blockdev --flushbufs " + target)
				h.must(fmt.Sprintf("cmp -n %d source %s", size, target))
				if string(h.read("disk")[size:]) != string(tail) {
					t.Error("what is behind the image was changed")
				}
			}
			check()
			h.change("source", 4, 3)
			h.sync("source", target, "").silent(t)
			check()
		})
	}
}
