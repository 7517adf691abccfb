package rdiff

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"

	"xen-backup/internal/stream"
)

// TestPassesShareBuffers: whatever the garbage collector does meanwhile, all passes of a run together have in memory
// what one of them needs.
func TestPassesShareBuffers(t *testing.T) {
	const size = 2 * passDepth * stream.MaxLiteral
	source := make([]byte, size)
	fill(rand.New(rand.NewPCG(1, 1)), source)
	basis := imageFile(t, make([]byte, size), true)
	sig, _ := sign(t, FromImage(basis), header(stream.XXH64, 4096, size))
	delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, false)), 1, size)
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	passes := func() {
		for _, pass := range []func() error{
			func() error { _, err := verify(delta); return err },
			func() error { return ProveOld(bytes.NewReader(delta), d, basis) },
			func() error { return Apply(bytes.NewReader(delta), d, basis) },
			func() error { return CheckWritten(bytes.NewReader(delta), d, basis) },
		} {
			if err := pass(); err != nil {
				t.Fatal(err)
			}
		}
	}
	passes() // has the buffers from now on
	if err := basis.ZeroRange(0, size); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	passes()
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 4*stream.MaxLiteral {
		t.Errorf("a run after another one takes %d KiB more", took>>10)
	}
}
