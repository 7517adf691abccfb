package stream

import (
	"encoding/binary"
	"io"

	"xen-backup/internal/exit"
)

// MaxHashes is the number of hashes in a full hash record.
const MaxHashes = 1024

const (
	tagHashes = 'H'
	tagZeroes = 'Z'
	tagEnd    = 'E'
	tagFrame  = 'F'
)

// SignatureWriter writes a signature. Blocks are added in order.
type SignatureWriter struct {
	*writer
	hashes []byte // of a hash record that is not full
	zeroes int64  // of a zero record that may go on
	hashed int64  // all blocks in hash records
	zero   int64  // all blocks in zero records
}

// NewSignatureWriter begins a signature; errors of out show at the latest in End.
func NewSignatureWriter(out io.Writer, h Header) *SignatureWriter {
	return &SignatureWriter{writer: newWriter(out, signatureMagic, h)}
}

// Hash adds one block that is not zero.
func (w *SignatureWriter) Hash(hash []byte) error {
	w.flushZeroes()
	w.hashes = append(w.hashes, hash...)
	w.hashed++
	if len(w.hashes) == MaxHashes*w.Header.Hash.Size() {
		w.flushHashes()
	}
	return w.err
}

// Zeroes adds n zero blocks.
func (w *SignatureWriter) Zeroes(n int64) error {
	w.flushHashes()
	w.zeroes += n
	w.zero += n
	return w.err
}

func (w *SignatureWriter) flushHashes() {
	if len(w.hashes) == 0 {
		return
	}
	count := len(w.hashes) / w.Header.Hash.Size()
	w.write(binary.LittleEndian.AppendUint32([]byte{tagHashes}, uint32(count)))
	w.write(w.hashes)
	w.hashes = w.hashes[:0]
}

func (w *SignatureWriter) flushZeroes() {
	if w.zeroes > 0 {
		w.write(binary.LittleEndian.AppendUint64([]byte{tagZeroes}, uint64(w.zeroes)))
		w.zeroes = 0
	}
}

// SignatureRecord is a run of blocks in a signature.
type SignatureRecord struct {
	Count  int64  // blocks; 0 in the end record
	Hashes []byte // Count hashes, or nil if the blocks are zero
}

// SignatureReader reads a signature.
type SignatureReader struct {
	*reader
	Records int64 // read so far, the end record not counted
	Hashed  int64 // blocks in hash records so far
	Zero    int64 // blocks in zero records so far
	Image   Image // valid after the end record

	last int64 // hashes in the last record, -1 after a zero record
}

// NewSignatureReader reads a signature's header. Its errors, and those of Next,
// have status BadStream or NotOurs unless reading itself failed.
func NewSignatureReader(in io.Reader) (*SignatureReader, error) {
	r, err := newReader(in, signatureMagic)
	if err != nil {
		return nil, err
	}
	return &SignatureReader{reader: r, last: MaxHashes}, nil
}

// Next reads the next record into rec, whose buffer it reuses. It returns io.EOF
// after the end record was read and proved right.
func (r *SignatureReader) Next(rec *SignatureRecord) error {
	var tag [1]byte
	if err := r.full(tag[:]); err != nil {
		return err
	}
	*rec = SignatureRecord{Hashes: rec.Hashes[:0]}
	switch tag[0] {
	case tagHashes:
		return r.hashes(rec)
	case tagZeroes:
		return r.zeroes(rec)
	case tagEnd:
		if err := r.end(); err != nil {
			return err
		}
		return io.EOF
	}
	return r.bad("unknown record %#02x", tag[0])
}

func (r *SignatureReader) hashes(rec *SignatureRecord) error {
	var b [4]byte
	if err := r.full(b[:]); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(b[:]))
	switch {
	case n == 0 || n > MaxHashes:
		return r.bad("hash record of %d blocks", n)
	case r.last != MaxHashes && r.last != -1:
		return r.bad("hash record after one that is not full")
	}
	if size := int(n) * r.Hash.Size(); cap(rec.Hashes) < size {
		rec.Hashes = make([]byte, size, MaxHashes*r.Hash.Size())
	} else {
		rec.Hashes = rec.Hashes[:size]
	}
	rec.Count, r.last = n, n
	r.Hashed += n
	return r.count(r.full(rec.Hashes))
}

func (r *SignatureReader) zeroes(rec *SignatureRecord) error {
	var b [8]byte
	if err := r.full(b[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(b[:])
	switch {
	case n == 0 || n > MaxImageSize/MinBlockSize:
		return r.bad("zero record of %d blocks", n)
	case r.last == -1:
		return r.bad("zero record after a zero record")
	}
	rec.Count, rec.Hashes, r.last = int64(n), nil, -1
	r.Zero += rec.Count
	return r.count(nil)
}

// count bounds the image after each record.
func (r *SignatureReader) count(err error) error {
	r.Records++
	if err == nil && r.Hashed+r.Zero > MaxImageSize/int64(r.BlockSize) {
		return r.bad("it describes more than 2^62 bytes")
	}
	return err
}

// errMismatch is for a sum that an end record gives and the content does not.
func errMismatch(kind string) error {
	return exit.Fail(exit.BadStream, "bad %s: the digest in its end record is not that of its content", kind)
}
