package rdiff

import (
	"io"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// Target is an image that a delta is applied to.
type Target interface {
	Image
	// WriteRanges writes all ranges, which may lie anywhere but not overlap.
	WriteRanges(ranges []blockdev.Range) error
	// ZeroRange makes bytes read as zero, and gives their space back if it can.
	ZeroRange(off, n int64) error
}

// Apply writes the changes of a proved delta to the target. It neither sets the
// target's size nor syncs.
func Apply(delta io.Reader, d Delta, target Target) error {
	p := pass{workers: target.Readers(), decode: true, work: func(h stream.Header, f *frameJob) error {
		return f.write(h, target, d.Source.Size)
	}}
	_, err := p.run(delta)
	return err
}

func (f *frameJob) write(h stream.Header, target Target, size int64) error {
	bs, raw := int64(h.BlockSize), f.literal
	f.ranges = f.ranges[:0]
	for _, r := range f.Runs {
		off, end := r.First*bs, min(r.End()*bs, size)
		if r.Zero {
			if err := target.ZeroRange(off, end-off); err != nil {
				return err
			}
			continue
		}
		n := min(r.Count*bs, int64(len(raw)))
		f.ranges = append(f.ranges, blockdev.Range{Off: off, Buf: raw[:n]})
		raw = raw[n:]
	}
	return target.WriteRanges(f.ranges)
}

// ApplyInPlace applies a delta to a target of basisSize bytes as it arrives. Each
// frame is proved, and compared with the blocks that it replaces, before any of it
// is written; a target of 0 bytes is not touched before steps.BeforeWrite, which may
// make it. The header must tell the source's size: steps.Header has to see to that.
// The caller must set the target's size, sync, and then demand the source's digest of
// the whole target.
func ApplyInPlace(in io.Reader, target Target, basisSize int64, steps Steps) (Delta, error) {
	var old stream.Sum
	p := pass{steps: steps, decode: true, slices: true,
		work: func(h stream.Header, f *frameJob) error {
			if !f.of.fits(h) {
				return exit.Fail(exit.BadStream, "bad delta: a run goes beyond the image size in its header")
			}
			if last, err := f.proveOld(h, target, basisSize); err != nil || !last {
				return err
			}
			if steps.BeforeWrite != nil {
				if err := steps.BeforeWrite(); err != nil {
					return err
				}
			}
			return f.of.write(h, target, h.Size)
		},
		add: func(h stream.Header, f *frameJob) { old = h.Hash.Add(old, f.Old) },
	}
	d, err := p.run(in)
	if err != nil {
		return d, err
	}
	if d.Basis.Size > basisSize {
		return d, ErrNotBasis
	}
	return d, proveDropped(d, target, old)
}

// fits reports whether a frame stays within the image size in the header. On a larger
// device, bytes behind the image are not ours.
func (f *frameJob) fits(h stream.Header) bool {
	last, bs := f.Runs[len(f.Runs)-1], int64(h.BlockSize)
	missing := f.Literals()*bs - int64(f.RawSize) // of a short last block
	return last.End() <= h.Blocks(h.Size) && (last.Zero || last.End()*bs-missing <= h.Size)
}
