package rdiff

import (
	"bytes"
	"io"
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

// TestFramesShareBuffers with data that does not shrink.
func TestFramesShareBuffers(t *testing.T) {
	encoder, err := stream.NewEncoder(stream.DefaultLevel, 2)
	if err != nil {
		t.Fatal(err)
	}
	takes := func(size int) uint64 {
		source := make([]byte, size)
		fill(rand.New(rand.NewPCG(2, 2)), source)
		src := FromImage(imageFile(t, source, false))
		h := header(stream.XXH64, 4096, int64(size))
		sig, _ := sign(t, FromImage(imageFile(t, make([]byte, size), true)), h)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out := Outputs{stream.NewDeltaWriter(io.Discard, h), encoder, nil}
		if _, err := Diff(signatureReader(t, sig), src, out, Options{}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	takes(16 << 20) // the encoder has its own from now on
	if few, many := takes(16<<20), takes(48<<20); many > few+4*stream.MaxLiteral {
		t.Errorf("16 frames take %d KiB, 48 take %d", few>>10, many>>10)
	}
}
