// Package inspect describes a signature or a delta for whoever looks at one, in words or
// as JSON. What it describes it has read to the end and proved: what is cut, damaged or
// of somebody else is an error, and never described in part.
package inspect

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// info describes a stream. Sizes are in bytes.
type info struct {
	Kind      string `json:"kind"` // "signature" or "delta"
	Version   int    `json:"version"`
	BlockSize int    `json:"block_size"`
	Hash      string `json:"hash"`
	Bytes     int64  `json:"bytes"` // of the stream
	Image     *image `json:"image,omitempty"`
	Basis     *image `json:"basis,omitempty"`
	Source    *image `json:"source,omitempty"`
	Records   int64  `json:"records"` // signature: records, delta: runs
	Frames    *int64 `json:"frames,omitempty"`
	Hashed    *int64 `json:"hashed_blocks,omitempty"`
	Literal   *int64 `json:"literal_blocks,omitempty"`
	Zero      int64  `json:"zero_blocks"`
	RawBytes  *int64 `json:"literal_bytes,omitempty"`
}

// image is an image of the stream, whose block size and hash are the stream's.
type image stream.Image

func (i image) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Size   int64  `json:"size"`
		Digest string `json:"digest"`
	}{i.Size, stream.Image(i).Digest()})
}

// describe reads a signature or delta to its end and describes it. A stream that
// is not whole and right is an error.
func describe(in io.Reader) (*info, error) {
	buffered := bufio.NewReader(in)
	if stream.IsDelta(buffered) {
		return describeDelta(buffered)
	}
	return describeSignature(buffered)
}

func describeSignature(in io.Reader) (*info, error) {
	r, err := stream.NewSignatureReader(in)
	if err != nil {
		return nil, err
	}
	if err := rdiff.VerifySignature(r); err != nil {
		return nil, err
	}
	i := newInfo("signature", r.Header, r.BytesRead())
	i.Image = (*image)(&r.Image)
	i.Records, i.Hashed, i.Zero = r.Records, &r.Hashed, r.Zero
	return i, nil
}

func describeDelta(in io.Reader) (*info, error) {
	d, err := rdiff.Verify(in, rdiff.Steps{})
	if err != nil {
		return nil, err
	}
	i := newInfo("delta", d.Header, d.Bytes)
	i.Basis, i.Source = (*image)(&d.Basis), (*image)(&d.Source)
	i.Records, i.Frames, i.Literal, i.Zero, i.RawBytes = d.Runs, &d.Frames, &d.Literals, d.Zeroes, &d.LiteralBytes
	return i, nil
}

func newInfo(kind string, h stream.Header, bytes int64) *info {
	return &info{Kind: kind, Version: stream.Version, BlockSize: h.BlockSize, Hash: h.Hash.String(), Bytes: bytes}
}

func (i *info) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-15s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	lines := func(name string, i *image) {
		line(name+" size", "%d bytes (%s)", i.Size, text.FormatSize(i.Size))
		line(name+" digest", "%s", stream.Image(*i).Digest())
	}
	line("kind", "%s, version %d, complete", i.Kind, i.Version)
	line("stream size", "%d bytes", i.Bytes)
	line("block size", "%d", i.BlockSize)
	line("hash", "%s", i.Hash)
	if i.Kind == "signature" {
		lines("image", i.Image)
		line("records", "%d", i.Records)
		line("blocks", "%d hashed, %d zero", *i.Hashed, i.Zero)
		return b.String()
	}
	lines("basis", i.Basis)
	lines("source", i.Source)
	line("records", "%d in %d frames", i.Records, *i.Frames)
	line("blocks", "%d literal, %d zero", *i.Literal, i.Zero)
	line("literal data", "%d bytes", *i.RawBytes)
	return b.String()
}

// Text describes the stream in words.
func Text(in io.Reader, out io.Writer) error {
	i, err := describe(in)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, i.String())
	return err
}

// JSON describes the stream as a JSON object.
func JSON(in io.Reader, out io.Writer) error {
	i, err := describe(in)
	if err != nil {
		return err
	}
	text, err := json.Marshal(i)
	if err != nil {
		return exit.Fail(exit.Internal, "--info: %w", err)
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
