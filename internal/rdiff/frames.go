package rdiff

import (
	"xen-backup/internal/ordered"
	"xen-backup/internal/stream"
)

// frameBuilder gathers changes into frames, which are compressed in parallel and
// written in order.
type frameBuilder struct {
	h   stream.Header
	q   *ordered.Queue[packing] // nil: changes are not kept
	cur *packing
}

// packing is a frame on its way to the stream.
type packing struct {
	stream.Frame
	raw, packed []byte
}

// encodingRoom is what data that does not shrink takes more until that is known: headers of a frame and of its blocks.
// Without it each of its frames would leave a buffer to the garbage collector.
const encodingRoom = 4 << 10

func newFrameBuilder(h stream.Header, out Outputs) *frameBuilder {
	if out.Delta == nil {
		return &frameBuilder{}
	}
	workers := out.Encoder.Workers()
	alloc := func() *packing {
		return &packing{raw: make([]byte, 0, stream.MaxLiteral), packed: make([]byte, 0, stream.MaxLiteral+encodingRoom)}
	}
	work := func(p *packing) error {
		out.Encoder.Encode(&p.Frame, p.raw, p.packed)
		return nil
	}
	consume := func(p *packing) error { return out.Delta.Frame(&p.Frame) }
	return &frameBuilder{h: h, q: ordered.New(workers, depth(workers), alloc, work, consume)}
}

// add appends a change to the frame, and begins another frame if it does not fit
// (the rule is part of the format: see package stream).
func (b *frameBuilder) add(c change, data []byte) error {
	if b.q == nil {
		return nil
	}
	extends := false
	if b.cur != nil {
		n := len(b.cur.Runs)
		last := &b.cur.Runs[n-1]
		extends = last.End() == c.First && last.Zero == c.Zero
		switch {
		case len(b.cur.raw)+len(data) > stream.MaxLiteral, !extends && n == stream.MaxRuns:
			b.flush()
		case extends:
			last.Count += c.Count
		}
	}
	if b.cur == nil {
		p, err := b.q.Get()
		if err != nil {
			return err
		}
		p.Frame = stream.Frame{Runs: p.Runs[:0]}
		p.raw, b.cur, extends = p.raw[:0], p, false
	}
	if !extends {
		b.cur.Runs = append(b.cur.Runs, c.Run)
	}
	b.cur.raw = append(b.cur.raw, data...)
	b.cur.Old = b.h.Hash.Add(b.cur.Old, c.old)
	return nil
}

func (b *frameBuilder) flush() {
	b.q.Put(b.cur)
	b.cur = nil
}

// close writes the last frame, unless there was an error, and waits for all.
func (b *frameBuilder) close(err error) error {
	if b.q == nil {
		return err
	}
	if err == nil && b.cur != nil {
		b.flush()
	}
	return b.q.Close(err)
}
