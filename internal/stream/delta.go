package stream

import (
	"encoding/binary"
	"io"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/exit"
)

const (
	// MaxLiteral is the most literal data in a frame, in bytes.
	MaxLiteral = 1 << 20
	// MaxRuns is the most runs in a frame.
	MaxRuns = 4096

	maxTable = MaxRuns * 2 * binary.MaxVarintLen64
)

// Encodings of a frame's payload.
const (
	Stored = 0
	Zstd   = 1
)

// Run is a record of a delta: adjacent blocks that are all literal or all zero.
type Run struct {
	First, Count int64 // blocks
	Zero         bool
}

// End returns the number of the block after the run.
func (r Run) End() int64 { return r.First + r.Count }

// Frame is a piece of a delta: runs in ascending order and the data of the
// literal ones, one after another.
type Frame struct {
	Runs     []Run
	Old      Sum    // sum of the old terms of the blocks in Runs
	Encoding byte   // of Payload
	Payload  []byte // literal data, encoded
	RawSize  int    // bytes of literal data
	RawSum   uint64 // xxh64 of the literal data
}

// Literals returns the number of literal blocks in the frame.
func (f *Frame) Literals() (n int64) {
	for _, r := range f.Runs {
		if !r.Zero {
			n += r.Count
		}
	}
	return n
}

// DeltaWriter writes a delta.
type DeltaWriter struct {
	*writer
	end  DeltaEnd
	next int64 // block after the last run
	buf  []byte
}

// NewDeltaWriter begins a delta; errors of out show at the latest in End.
func NewDeltaWriter(out io.Writer, h Header) *DeltaWriter {
	return &DeltaWriter{writer: newWriter(out, deltaMagic, h)}
}

// Frame adds a frame.
func (w *DeltaWriter) Frame(f *Frame) error {
	var table []byte
	for _, r := range f.Runs {
		table = binary.AppendUvarint(table, uint64(r.First-w.next))
		kind := uint64(0)
		if r.Zero {
			kind = 1
			w.end.Zeroes += r.Count
		} else {
			w.end.Literals += r.Count
		}
		table = binary.AppendUvarint(table, uint64(r.Count)<<1|kind)
		w.next = r.End()
	}
	b := append(w.buf[:0], tagFrame, f.Encoding)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.RawSize))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Payload)))
	b = binary.LittleEndian.AppendUint64(b, f.RawSum)
	b = w.Header.Hash.appendSum(b, f.Old)
	w.buf = append(b, table...)

	sum := xxhash.New()
	sum.Write(w.buf)
	sum.Write(f.Payload)
	w.write(w.buf)
	w.write(f.Payload)
	w.write(binary.LittleEndian.AppendUint64(nil, sum.Sum64()))
	w.end.Frames++
	return w.err
}

// Flush hands on what was written so far.
func (w *DeltaWriter) Flush() error {
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}

// DeltaReader reads a delta.
type DeltaReader struct {
	*reader
	End DeltaEnd // counts so far; the rest is valid after the end record

	prev     Run    // the last run of the last frame
	tail     int64  // first of the adjacent blocks that end with prev
	runs     int    // in the last frame
	raw      int    // literal bytes of the last frame
	imageEnd int64  // in bytes, as far as the literal runs tell
	short    bool   // the last literal block was short: it ends the image
	head     []byte // scratch
}

// NewDeltaReader reads a delta's header. Its errors, and those of Next, have
// status BadStream or NotOurs unless reading itself failed.
func NewDeltaReader(in io.Reader) (*DeltaReader, error) {
	r, err := newReader(in, deltaMagic)
	if err != nil {
		return nil, err
	}
	return &DeltaReader{reader: r}, nil
}

// Next reads the next frame into f, whose buffers it reuses. The frame's own
// checksum is right, its payload not yet decoded (see Frame.Decode). Next returns
// io.EOF after the end record was read and proved right.
func (r *DeltaReader) Next(f *Frame) error {
	var tag [1]byte
	if err := r.full(tag[:]); err != nil {
		return err
	}
	switch tag[0] {
	case tagFrame:
		return r.frame(f)
	case tagEnd:
		if err := r.endRecord(); err != nil {
			return err
		}
		return io.EOF
	}
	return r.bad("unknown record %#02x", tag[0])
}

func (r *DeltaReader) frame(f *Frame) error {
	size := 21 + r.Hash.Size()
	r.head = append(r.head[:0], tagFrame)
	if err := r.more(size); err != nil {
		return err
	}
	head := r.head
	f.Encoding = head[1]
	table := binary.LittleEndian.Uint32(head[2:])
	raw := binary.LittleEndian.Uint32(head[6:])
	payload := binary.LittleEndian.Uint32(head[10:])
	f.RawSum = binary.LittleEndian.Uint64(head[14:])
	f.Old = r.Hash.sum(head[22:])
	switch {
	case table < 2 || table > maxTable:
		return r.bad("frame with a table of %d bytes", table)
	case raw > MaxLiteral:
		return r.bad("frame of %d bytes", raw)
	case f.Encoding == Stored && payload != raw, f.Encoding == Zstd && payload >= raw, f.Encoding > Zstd:
		return r.bad("frame of %d bytes with a payload of %d in encoding %d", raw, payload, f.Encoding)
	}
	if err := r.more(int(table)); err != nil {
		return err
	}
	if cap(f.Payload) < int(payload) {
		f.Payload = make([]byte, payload, MaxLiteral)
	}
	f.Payload, f.RawSize = f.Payload[:payload], int(raw)
	if err := r.full(f.Payload); err != nil {
		return err
	}
	sum := xxhash.New()
	sum.Write(r.head)
	sum.Write(f.Payload)
	var b [8]byte
	if err := r.full(b[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(b[:]) != sum.Sum64() {
		return r.bad("wrong checksum of frame %d", r.End.Frames)
	}
	r.End.Frames++
	return r.table(f, r.head[1+size:])
}

// more appends n bytes of the stream to r.head.
func (r *DeltaReader) more(n int) error {
	old := len(r.head)
	r.head = append(r.head, make([]byte, n)...)
	return r.full(r.head[old:])
}

// table parses a frame's runs and holds them against the rules of the format.
func (r *DeltaReader) table(f *Frame, table []byte) error {
	f.Runs = f.Runs[:0]
	next, blocks := r.prev.End(), int64(0)
	maxBlocks := MaxImageSize / int64(r.BlockSize)
	for len(table) > 0 {
		var gap, count uint64
		var ok bool
		if gap, table, ok = uvarint(table); !ok {
			return r.bad("bad number in a table")
		}
		if count, table, ok = uvarint(table); !ok || count>>1 == 0 {
			return r.bad("bad number in a table")
		}
		if gap > uint64(maxBlocks) || count>>1 > uint64(maxBlocks) || next+int64(gap)+int64(count>>1) > maxBlocks {
			return r.bad("a run goes beyond 2^62 bytes")
		}
		run := Run{next + int64(gap), int64(count >> 1), count&1 == 1}
		switch {
		case r.short:
			return r.bad("a run follows the image's last block")
		case len(f.Runs) == MaxRuns:
			return r.bad("a table has too many runs")
		case len(f.Runs) > 0 && gap == 0 && run.Zero == f.Runs[len(f.Runs)-1].Zero:
			return r.bad("two runs that should be one")
		case len(f.Runs) == 0 && r.End.Frames > 1 && !r.wasFull(run):
			return r.bad("a frame that is not full is not the last one")
		}
		f.Runs = append(f.Runs, run)
		if gap > 0 {
			r.tail = run.First
		}
		next = run.End()
		if run.Zero {
			r.End.Zeroes += run.Count
			continue
		}
		if blocks += run.Count; blocks > MaxLiteral/int64(r.BlockSize) {
			return r.bad("a table with more blocks than a frame has")
		}
		r.imageEnd = next * int64(r.BlockSize)
	}
	r.End.Literals += blocks
	missing := blocks*int64(r.BlockSize) - int64(f.RawSize)
	last := f.Runs[len(f.Runs)-1]
	if missing < 0 || missing >= int64(r.BlockSize) || missing > 0 && last.Zero {
		return r.bad("a table that does not match its literal data")
	}
	r.imageEnd -= missing
	r.short = missing > 0
	r.prev, r.runs, r.raw = last, len(f.Runs), f.RawSize
	return nil
}

// wasFull reports whether the frame before had no room for the first block of run.
func (r *DeltaReader) wasFull(run Run) bool {
	if !run.Zero && r.raw == MaxLiteral {
		return true
	}
	extends := run.First == r.prev.End() && run.Zero == r.prev.Zero
	return !extends && r.runs == MaxRuns
}

// uvarint reads an unsigned LEB128 number in its shortest form.
func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

var errBadPayload = exit.Fail(exit.BadStream, "bad delta: a frame's payload does not decode to its literal data")
