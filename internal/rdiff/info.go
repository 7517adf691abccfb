package rdiff

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// Info describes a stream. Sizes are in bytes.
type Info struct {
	Kind      string     `json:"kind"` // "signature" or "delta"
	Version   int        `json:"version"`
	BlockSize int        `json:"block_size"`
	Hash      string     `json:"hash"`
	Bytes     int64      `json:"bytes"` // of the stream
	Image     *ImageInfo `json:"image,omitempty"`
	Basis     *ImageInfo `json:"basis,omitempty"`
	Source    *ImageInfo `json:"source,omitempty"`
	Records   int64      `json:"records"` // signature: records, delta: runs
	Frames    *int64     `json:"frames,omitempty"`
	Hashed    *int64     `json:"hashed_blocks,omitempty"`
	Literal   *int64     `json:"literal_blocks,omitempty"`
	Zero      int64      `json:"zero_blocks"`
	RawBytes  *int64     `json:"literal_bytes,omitempty"`
}

// ImageInfo is an image digest.
type ImageInfo struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

// Describe reads a signature or delta to its end and describes it. A stream that
// is not whole and right is an error.
func Describe(in io.Reader) (*Info, error) {
	buffered := bufio.NewReader(in)
	if stream.IsDelta(buffered) {
		return describeDelta(buffered)
	}
	counted := &countingReader{r: buffered}
	r, err := stream.NewSignatureReader(counted)
	if err != nil {
		return nil, err
	}
	var sum stream.Sum
	b, err := newBasis(r)
	if err != nil {
		return nil, err
	}
	if sum, err = b.drop(); err != nil {
		return nil, err
	}
	if err := r.CheckSum(sum); err != nil {
		return nil, err
	}
	i := describe("signature", r.Header, counted.n)
	i.Image = imageInfo(r.Header, r.Digest)
	i.Records, i.Hashed, i.Zero = r.Records, &r.Hashed, r.Zero
	return i, nil
}

func describeDelta(in io.Reader) (*Info, error) {
	var runs, raw int64
	p := pass{decode: true, count: func(_ stream.Header, f *frameJob) {
		runs += int64(len(f.Runs))
		raw += int64(f.RawSize)
	}}
	d, err := p.run(in)
	if err != nil {
		return nil, err
	}
	i := describe("delta", d.Header, d.Bytes)
	i.Basis, i.Source = imageInfo(d.Header, d.Basis), imageInfo(d.Header, d.DeltaEnd.Source)
	i.Records, i.Frames, i.Literal, i.Zero, i.RawBytes = runs, &d.Frames, &d.Literals, d.Zeroes, &raw
	return i, nil
}

func describe(kind string, h stream.Header, bytes int64) *Info {
	return &Info{Kind: kind, Version: stream.Version, BlockSize: h.BlockSize, Hash: h.Hash.String(), Bytes: bytes}
}

func imageInfo(h stream.Header, d stream.Digest) *ImageInfo {
	return &ImageInfo{d.Size, h.Hash.FormatSum(d.Sum)}
}

func (i *Info) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-15s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	image := func(name string, d *ImageInfo) {
		line(name+" size", "%d bytes (%s)", d.Size, text.FormatSize(d.Size))
		line(name+" digest", "%s", d.Digest)
	}
	line("kind", "%s, version %d, complete", i.Kind, i.Version)
	line("stream size", "%d bytes", i.Bytes)
	line("block size", "%d", i.BlockSize)
	line("hash", "%s", i.Hash)
	if i.Kind == "signature" {
		image("image", i.Image)
		line("records", "%d", i.Records)
		line("blocks", "%d hashed, %d zero", *i.Hashed, i.Zero)
		return b.String()
	}
	image("basis", i.Basis)
	image("source", i.Source)
	line("records", "%d in %d frames", i.Records, *i.Frames)
	line("blocks", "%d literal, %d zero", *i.Literal, i.Zero)
	line("literal data", "%d bytes", *i.RawBytes)
	return b.String()
}

// PrintInfo is --info of the commands: it describes the stream in a file, or that
// on standard input if there is no operand or it is "-".
func PrintInfo(env *cli.Env, flags *cli.Flags, operands []string, asJSON bool) error {
	if err := flags.Only("--info", "--json"); err != nil {
		return err
	}
	var r io.Reader
	switch {
	case len(operands) > 1:
		return exit.Fail(exit.Usage, "--info takes at most one FILE")
	case len(operands) == 1 && operands[0] != "-":
		f, err := os.Open(operands[0])
		if err != nil {
			return exit.OpenFailed(err)
		}
		defer f.Close()
		r = f
	default:
		var err error
		if r, err = env.BinaryIn(); err != nil {
			return err
		}
	}
	info, err := Describe(r)
	if err != nil {
		return err
	}
	if !asJSON {
		return env.Print(info.String())
	}
	text, err := json.Marshal(info)
	if err != nil {
		return exit.Fail(exit.Internal, "--info: %w", err)
	}
	return env.Print(string(text) + "\n")
}
