package stream

import (
	"encoding/binary"
	"io"
)

// A stream ends with an end record and the checksum of all before it. What lacks a byte of
// them was cut, and one byte more is an error too.

// End completes the signature of an image, whose block size and hash are the header's.
func (w *SignatureWriter) End(i Image) error {
	w.flushHashes()
	w.flushZeroes()
	b := []byte{tagEnd}
	b = binary.LittleEndian.AppendUint64(b, uint64(i.Size))
	b = binary.LittleEndian.AppendUint64(b, uint64(w.hashed))
	b = binary.LittleEndian.AppendUint64(b, uint64(w.zero))
	return w.end(w.Header.Hash.appendSum(b, i.Sum))
}

// DeltaEnd is the end record of a delta.
type DeltaEnd struct {
	Basis, Source    Image
	Old              Sum // of all replaced and dropped blocks of the basis
	Frames           int64
	Literals, Zeroes int64 // blocks
}

// End completes the delta between two images, whose block size and hash are the
// header's; old is the sum over all blocks of the basis that are replaced or dropped.
func (w *DeltaWriter) End(basis, source Image, old Sum) error {
	h := w.Header.Hash
	b := []byte{tagEnd}
	b = binary.LittleEndian.AppendUint64(b, uint64(basis.Size))
	b = h.appendSum(b, basis.Sum)
	b = binary.LittleEndian.AppendUint64(b, uint64(source.Size))
	b = h.appendSum(b, source.Sum)
	b = h.appendSum(b, old)
	b = binary.LittleEndian.AppendUint64(b, uint64(w.end.Frames))
	b = binary.LittleEndian.AppendUint64(b, uint64(w.end.Literals))
	return w.writer.end(binary.LittleEndian.AppendUint64(b, uint64(w.end.Zeroes)))
}

// end writes the end record, to which it adds the checksum, and flushes.
func (w *writer) end(record []byte) error {
	w.write(record)
	w.write(binary.LittleEndian.AppendUint64(nil, w.sum.Sum64()))
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}

func (r *SignatureReader) end() error {
	b := make([]byte, 24+r.Hash.Size())
	if err := r.full(b); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint64(b)
	switch {
	case size > MaxImageSize || r.Blocks(int64(size)) != r.Hashed+r.Zero ||
		binary.LittleEndian.Uint64(b[8:]) != uint64(r.Hashed) ||
		binary.LittleEndian.Uint64(b[16:]) != uint64(r.Zero):
		return r.bad("its end record does not match its blocks")
	}
	r.Image = r.NewImage(int64(size), r.Hash.sum(b[24:]))
	if err := r.checksum(); err != nil {
		return err
	}
	return r.finish()
}

func (r *DeltaReader) endRecord() error {
	n := r.Hash.Size()
	b := make([]byte, 40+3*n)
	if err := r.full(b); err != nil {
		return err
	}
	basis, source := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8+n:])
	counts := b[16+3*n:]
	if binary.LittleEndian.Uint64(counts) != uint64(r.End.Frames) ||
		binary.LittleEndian.Uint64(counts[8:]) != uint64(r.End.Literals) ||
		binary.LittleEndian.Uint64(counts[16:]) != uint64(r.End.Zeroes) {
		return r.bad("its end record does not match its frames")
	}
	if basis > MaxImageSize || source > MaxImageSize || r.Size >= 0 && uint64(r.Size) != source ||
		r.prev.End() > r.Blocks(int64(source)) || r.imageEnd > int64(source) || r.short && r.imageEnd != int64(source) {
		return r.bad("the image size in its end record is not that of its blocks")
	}
	if !r.whole(int64(basis), int64(source)) {
		return r.bad("it lacks blocks that its basis has not")
	}
	r.End.Basis = r.NewImage(int64(basis), r.Hash.sum(b[8:]))
	r.End.Source = r.NewImage(int64(source), r.Hash.sum(b[16+n:]))
	r.End.Old = r.Hash.sum(b[16+2*n:])
	if err := r.checksum(); err != nil {
		return err
	}
	return r.finish()
}

// whole reports whether all blocks are there that the basis has not, or not at that
// length. The sums can't tell where those blocks are zero: without them, what a
// device held there would become part of the image.
func (r *DeltaReader) whole(basis, source int64) bool {
	first, end := min(basis, source)/int64(r.BlockSize), r.Blocks(source)
	return basis == source || first == end || r.tail <= first && r.prev.End() == end
}

// checksum reads a checksum and compares it with that of all before it.
func (r *reader) checksum() error {
	want := r.sum.Sum64()
	var b [8]byte
	if err := r.full(b[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(b[:]) != want {
		return r.bad("wrong checksum of the stream")
	}
	return nil
}

// finish demands the end of the input.
func (r *reader) finish() error {
	switch _, err := r.in.ReadByte(); err {
	case io.EOF:
		return nil
	case nil:
		return r.bad("there is more after its end record")
	default:
		return err
	}
}

// CheckSum demands that the source's sum is what the delta makes of the basis;
// literals is the sum of the terms of all literal blocks.
func (e *DeltaEnd) CheckSum(h Hash, literals Sum) error {
	if h.Add(h.Sub(e.Basis.Sum, e.Old), literals) != e.Source.Sum {
		return errMismatch("delta")
	}
	return nil
}

// CheckSum demands that sum, over all blocks of the signature, is the one in its
// end record.
func (r *SignatureReader) CheckSum(sum Sum) error {
	if sum != r.Image.Sum {
		return errMismatch("signature")
	}
	return nil
}
