package stream

import (
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// MaxLevel is the highest compression level; 0 stores.
const MaxLevel = 19

// DefaultLevel costs least time on a link that is not the bottleneck.
const DefaultLevel = 1

// Encoder encodes the payload of frames. It may be used by several goroutines.
type Encoder struct {
	zstd    *zstd.Encoder // nil: store
	workers int
}

// NewEncoder returns an encoder for a level from 0 (store) to MaxLevel, in zstd's
// own terms; the library has four steps of effort for them.
func NewEncoder(level, workers int) (*Encoder, error) {
	if level == 0 {
		return &Encoder{workers: workers}, nil
	}
	effort := zstd.EncoderLevelFromZstd(level)
	switch effort { // as many as fit into memory
	case zstd.SpeedBestCompression:
		workers = 1 // of 40 MiB
	case zstd.SpeedBetterCompression:
		workers = min(workers, 3) // of 10 MiB
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(effort), zstd.WithEncoderConcurrency(workers),
		zstd.WithWindowSize(MaxLiteral), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	return &Encoder{e, workers}, err
}

// Workers returns how many frames are worth encoding at once.
func (e *Encoder) Workers() int { return e.workers }

// Encode makes raw the literal data of f. Data that does not shrink is stored; f
// then refers to raw itself.
func (e *Encoder) Encode(f *Frame, raw []byte, buf []byte) {
	f.RawSize, f.RawSum = len(raw), xxhash.Sum64(raw)
	f.Encoding, f.Payload = Stored, raw
	if e.zstd == nil || len(raw) == 0 {
		return
	}
	if packed := e.zstd.EncodeAll(raw, buf[:0]); len(packed) < len(raw) {
		f.Encoding, f.Payload = Zstd, packed
	}
}

// decoder decodes payloads. It may be used by several goroutines. Its memory is
// bounded whatever a hostile payload says of itself.
var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(MaxLiteral), zstd.WithDecoderMaxWindow(MaxLiteral), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // only for bad options
	}
	return d
})

// Decode returns the frame's literal data, in buf if it has to be decoded; buf
// should have a capacity of MaxLiteral. An error has status BadStream.
func (f *Frame) Decode(buf []byte) ([]byte, error) {
	raw := f.Payload
	if f.Encoding == Zstd {
		var err error
		if raw, err = decoder().DecodeAll(f.Payload, buf[:0]); err != nil {
			return nil, errBadPayload
		}
	}
	if len(raw) != f.RawSize || xxhash.Sum64(raw) != f.RawSum {
		return nil, errBadPayload
	}
	return raw, nil
}
