package rdiff

import (
	"io"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// Verify reads a whole delta and proves it: structure, checksums, contents and
// digests.
func Verify(in io.Reader, steps Steps) (Delta, error) {
	p := pass{steps: steps, decode: true}
	return p.run(in)
}

// VerifyOver is Verify, and reads the blocks of the target that the delta replaces: inUse
// is the number of those that are not zero.
func VerifyOver(in io.Reader, target Image, steps Steps) (d Delta, inUse int64, err error) {
	p := pass{steps: steps, decode: true,
		work: func(h stream.Header, f *frameJob) (err error) {
			f.inUse, err = countRuns(target, h, f.Runs, f.buffer())
			return err
		},
		add: func(_ stream.Header, f *frameJob) { inUse += f.inUse },
	}
	d, err = p.run(in)
	return d, inUse, err
}

// proveLiterals decodes the literal data and sums up the terms of its blocks.
func (f *frameJob) proveLiterals(h stream.Header) ([]byte, error) {
	if f.decoded == nil && f.Encoding == stream.Zstd {
		f.decoded = blockdev.Buffer(stream.MaxLiteral)
	}
	raw, err := f.Decode(f.decoded)
	if err != nil {
		return nil, err
	}
	f.terms = stream.Sum{}
	var hash [stream.MaxHashSize]byte
	rest := raw
	for _, r := range f.Runs {
		if r.Zero {
			continue
		}
		for i := r.First; i < r.End(); i++ {
			block := rest[:min(len(rest), h.BlockSize)]
			if isZero(block) {
				return nil, exit.Fail(exit.BadStream, "bad delta: literal block %d is all zero", i)
			}
			h.Hash.Block(hash[:], block)
			f.terms = h.Hash.Add(f.terms, h.Hash.Term(i, hash[:]))
			rest = rest[len(block):]
		}
	}
	return raw, nil
}

// ErrNotBasis is returned where the target's blocks are not those that the delta
// was made against.
var ErrNotBasis = exit.Fail(exit.NotBasis, "the blocks to be replaced are not those that the delta was made against")

// ProveOld reads the blocks of the target that a delta replaces or drops, and
// returns ErrNotBasis if their terms don't add up to what the delta says.
func ProveOld(delta io.Reader, d Delta, target Image) error {
	var sum stream.Sum
	p := pass{
		slices: true,
		work: func(h stream.Header, f *frameJob) error {
			_, err := f.proveOld(h, target, d.Basis.Size)
			return err
		},
		add: func(_ stream.Header, f *frameJob) { sum = d.Hash.Add(sum, f.Old) },
	}
	if _, err := p.run(delta); err != nil {
		return err
	}
	return proveDropped(d, target, sum)
}

// proveOld compares the sum of the old terms in a frame with the target's, when the
// last job of the frame has read its part; last says that this was it.
func (f *frameJob) proveOld(h stream.Header, target Image, size int64) (last bool, err error) {
	sum, err := sumRuns(target, h, size, f.reads, f.buffer())
	if err != nil {
		return false, err
	}
	if last = f.add(h, sum); last && f.of.total.sum != f.of.Old {
		return last, ErrNotBasis
	}
	return last, nil
}

// proveDropped adds the blocks that the delta drops to the sum of those that it
// replaces, and compares that with what the delta says.
func proveDropped(d Delta, target Image, replaced stream.Sum) error {
	first := d.Blocks(d.Source.Size)
	tail := stream.Run{First: first, Count: max(0, d.Blocks(d.Basis.Size)-first)}
	sum := replaced
	work := func(f *frameJob) (err error) {
		f.terms, err = sumRuns(target, d.Header, d.Basis.Size, f.reads, f.buffer())
		return err
	}
	consume := func(f *frameJob) error {
		sum = d.Hash.Add(sum, f.terms)
		return nil
	}
	q, closed := newJobs(passWorkers, work, consume)
	defer closed()
	err := q.Close(cut(tail, d.Header, func(slice stream.Run) error {
		f, err := q.Get()
		if err == nil {
			f.reads = append(f.reads[:0], slice)
			q.Put(f)
		}
		return err
	}))
	if err != nil {
		return err
	}
	if sum != d.Old {
		return ErrNotBasis
	}
	return nil
}

// ErrNotRest is returned where what a delta leaves alone is not as in its basis.
var ErrNotRest = exit.Fail(exit.NotBasis, "the blocks that the delta leaves alone are not those of its basis")

// ProveRest reads a target to which an apply has written some of the delta, and
// returns ErrNotRest if any other block is not that of the basis: then to write the
// rest of the delta would not make it the source. The target must not be larger than
// the source; what has no bytes yet is as good as zero.
func ProveRest(delta io.Reader, d Delta, target Image, count func(int64)) error {
	whole, err := DigestOf(target, d.Header, count)
	if err != nil {
		return err
	}
	var written stream.Sum // or still to be written
	p := pass{
		slices: true,
		work: func(h stream.Header, f *frameJob) error {
			sum, err := sumRuns(target, h, target.Size(), f.reads, f.buffer())
			f.add(h, sum)
			return err
		},
		add: func(_ stream.Header, f *frameJob) { written = d.Hash.Add(written, f.total.sum) },
	}
	if _, err := p.run(delta); err != nil {
		return err
	}
	if d.Hash.Sub(whole.Sum, written) != d.Hash.Sub(d.Basis.Sum, d.Old) {
		return ErrNotRest
	}
	return nil
}

// sumRuns returns the sum of the terms of an image's blocks in runs; the image has
// size bytes.
func sumRuns(img Image, h stream.Header, size int64, runs []stream.Run, buf []byte) (sum stream.Sum, err error) {
	var hash [stream.MaxHashSize]byte
	s := scatter{img: img, bs: int64(h.BlockSize), size: size, buf: buf,
		skipHoles: func(stream.Run) bool { return true },
		visit: func(_ stream.Run, off int64, data []byte) error {
			for i := off / int64(h.BlockSize); len(data) > 0; i++ {
				block := data[:min(len(data), h.BlockSize)]
				if data = data[len(block):]; !isZero(block) {
					h.Hash.Block(hash[:], block)
					sum = h.Hash.Add(sum, h.Hash.Term(i, hash[:]))
				}
			}
			return nil
		}}
	return sum, s.read(runs)
}

// countRuns returns how many of an image's blocks in runs are not zero.
func countRuns(img Image, h stream.Header, runs []stream.Run, buf []byte) (n int64, err error) {
	s := scatter{img: img, bs: int64(h.BlockSize), size: img.Size(), buf: buf,
		skipHoles: func(stream.Run) bool { return true },
		visit: func(_ stream.Run, _ int64, data []byte) error {
			for len(data) > 0 {
				block := data[:min(len(data), h.BlockSize)]
				if data = data[len(block):]; !isZero(block) {
					n++
				}
			}
			return nil
		}}
	return n, s.read(runs)
}
