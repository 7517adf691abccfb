package rdiff

import (
	"cmp"
	"io"

	"xen-backup/internal/stream"
)

// Delta is what a pass over a delta has found: all of it is proved.
type Delta struct {
	stream.Header
	stream.DeltaEnd
	Bytes        int64 // of the stream
	Runs         int64
	LiteralBytes int64
	end          int64 // number of the block after the last run
}

// Changed returns how many bytes the delta changes.
func (d Delta) Changed() int64 {
	bytes := (d.Literals + d.Zeroes) * int64(d.BlockSize)
	if last := d.Blocks(d.Source.Size); d.end == last {
		bytes -= last*int64(d.BlockSize) - d.Source.Size // the last block may be short
	}
	return bytes
}

// Runs calls visit for the bytes of each run of a proved delta, in order; zero says that
// they become zero.
func Runs(delta io.Reader, d Delta, visit func(off, n int64, zero bool) error) error {
	var failed error
	p := pass{add: func(h stream.Header, f *frameJob) {
		for _, r := range f.Runs {
			off, end := r.First*int64(h.BlockSize), min(r.End()*int64(h.BlockSize), d.Source.Size)
			if failed == nil {
				failed = visit(off, end-off, r.Zero)
			}
		}
	}}
	_, err := p.run(delta)
	return cmp.Or(failed, err)
}
