package stream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"strings"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Version of both formats.
const Version = 1

const (
	HeaderSize = 32     // bytes of a header
	sizeKnown  = 1 << 0 // header flag

	// MinBlockSize and MaxBlockSize bound the block size, in bytes; it is a power
	// of two.
	MinBlockSize     = 4 << 10
	MaxBlockSize     = 1 << 20
	DefaultBlockSize = 4 << 10

	// MaxImageSize bounds an image, in bytes, so that no sum of an offset and a
	// length overflows.
	MaxImageSize = 1 << 62
)

const (
	signatureMagic = "\x89xbsig\r\n"
	deltaMagic     = "\x89xbdlt\r\n"
)

// Header is what a stream begins with.
type Header struct {
	BlockSize int   // bytes
	Hash      Hash  // of blocks
	Size      int64 // image size in bytes, -1 if not known; a hint
}

// CheckBlockSize says whether n bytes is a block size.
func CheckBlockSize(n int64) error {
	if n < MinBlockSize || n > MaxBlockSize || n&(n-1) != 0 {
		return errors.New("block size must be a power of two from 4K to 1M")
	}
	return nil
}

// Blocks returns how many blocks an image of size bytes has.
func (h Header) Blocks(size int64) int64 {
	return (size + int64(h.BlockSize) - 1) / int64(h.BlockSize)
}

// BlockLen returns the length in bytes of block i of an image of size bytes; 0 if
// it has no such block.
func (h Header) BlockLen(i, size int64) int {
	return int(max(0, min(int64(h.BlockSize), size-i*int64(h.BlockSize))))
}

func (h Header) encode(magic string) []byte {
	b := make([]byte, 0, HeaderSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = append(b, byte(h.Hash), byte(bits.TrailingZeros(uint(h.BlockSize))))
	if h.Size >= 0 {
		b = binary.LittleEndian.AppendUint32(b, sizeKnown)
		b = binary.LittleEndian.AppendUint64(b, uint64(h.Size))
	} else {
		b = append(b, make([]byte, 12)...)
	}
	return binary.LittleEndian.AppendUint64(b, xxhash.Sum64(b))
}

// reader reads a stream, keeps its checksum, and classifies what goes wrong.
type reader struct {
	in   *bufio.Reader
	sum  *xxhash.Digest
	kind string // "signature" or "delta"
	n    int64  // bytes taken from in
	Header
}

// BytesRead returns the bytes of the stream that were read so far.
func (r *reader) BytesRead() int64 { return r.n }

// newReader reads the header of a stream with that magic.
func newReader(in io.Reader, magic string) (*reader, error) {
	r := &reader{in: bufio.NewReaderSize(in, 64<<10), sum: xxhash.New(), kind: kindOf(magic)}
	if err := r.magic(magic); err != nil {
		return nil, err
	}
	b := make([]byte, HeaderSize)
	if err := r.full(b[:10]); err != nil {
		return nil, err
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != Version {
		return nil, exit.Fail(exit.NotOurs, "this %s has version %d, and only version %d is known here", r.kind, v, Version)
	}
	if err := r.full(b[10:]); err != nil {
		return nil, err
	}
	return r, r.parse(b)
}

// IsDelta reports whether a stream begins as a delta does, and as no signature: it may be cut within the magic.
func IsDelta(in *bufio.Reader) bool {
	b, _ := in.Peek(len(deltaMagic))
	return strings.HasPrefix(deltaMagic, string(b)) && !strings.HasPrefix(signatureMagic, string(b))
}

func kindOf(magic string) string {
	if magic == deltaMagic {
		return "delta"
	}
	return "signature"
}

// magic demands that the stream begins with the magic, which stays unread.
func (r *reader) magic(magic string) error {
	b, err := r.in.Peek(len(magic))
	switch {
	case string(b) == magic:
		return nil
	case err != nil && err != io.EOF:
		return err
	case len(b) == 0:
		return exit.Fail(exit.BadStream, "empty input where a %s should be: the stage before this one failed", r.kind)
	case err == io.EOF && string(b) == magic[:len(b)]:
		return r.cut()
	}
	for _, m := range []string{signatureMagic, deltaMagic} {
		if string(b) == m {
			return exit.Fail(exit.NotOurs, "this is a %s, not a %s", kindOf(m), r.kind)
		}
	}
	noise, _ := r.in.Peek(min(r.in.Buffered(), 200)) // what is there: more may never come
	line, _, _ := bytes.Cut(bytes.TrimLeft(noise, "\r\n"), []byte("\n"))
	return exit.Fail(exit.NotOurs, "not a %s; does the login shell at the other end print something? it begins: %s",
		r.kind, text.Printable(string(bytes.TrimRight(line, "\r"))))
}

func (r *reader) parse(b []byte) error {
	flags := binary.LittleEndian.Uint32(b[12:])
	size := binary.LittleEndian.Uint64(b[16:])
	r.Header = Header{Hash: Hash(b[10]), Size: int64(size)}
	switch {
	case binary.LittleEndian.Uint64(b[24:]) != xxhash.Sum64(b[:24]):
		return r.bad("wrong checksum of the header")
	// Somebody meant this: with a flag or a hash of a later program nothing behind it
	// need be what is known here.
	case flags&^sizeKnown != 0:
		return exit.Fail(exit.NotOurs, "this %s is of another format, with flags %#x that are not known here: "+
			"is the program at the other end a newer one?", r.kind, flags&^sizeKnown)
	case r.Hash != XXH64 && r.Hash != SHA256:
		return exit.Fail(exit.NotOurs, "this %s is of another format, with a hash %d that is not known here: "+
			"is the program at the other end a newer one?", r.kind, b[10])
	case b[11] < 12 || b[11] > 20:
		return r.bad("bad block size 2^%d", b[11])
	case size > MaxImageSize || flags == 0 && size != 0:
		return r.bad("bad image size %d", size)
	}
	r.BlockSize = 1 << b[11]
	if flags == 0 {
		r.Size = -1
	}
	return nil
}

func (r *reader) bad(format string, args ...any) error {
	return exit.Fail(exit.BadStream, "bad %s: "+format, append([]any{r.kind}, args...)...)
}

func (r *reader) cut() error {
	return exit.Fail(exit.BadStream, "the %s is cut: it ends before its end record", r.kind)
}

// full fills b and adds it to the checksum.
func (r *reader) full(b []byte) error {
	if _, err := io.ReadFull(r.in, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return r.cut()
		}
		return err
	}
	r.sum.Write(b)
	r.n += int64(len(b))
	return nil
}

// writer writes a stream and keeps its checksum. Its first error sticks.
type writer struct {
	out *bufio.Writer
	sum *xxhash.Digest
	Header
	n   int64
	err error
}

func newWriter(out io.Writer, magic string, h Header) *writer {
	w := &writer{out: bufio.NewWriterSize(out, 64<<10), sum: xxhash.New(), Header: h}
	w.write(h.encode(magic))
	return w
}

func (w *writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
		w.sum.Write(b)
		w.n += int64(len(b))
	}
}

// Written returns the bytes written so far.
func (w *writer) Written() int64 { return w.n }
