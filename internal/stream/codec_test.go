package stream

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// The zstd frames below are RFC 8878's: magic, descriptor, window, blocks.

// rleFrames has n frames of so many blocks of 128 KiB.
func rleFrames(n, blocks int) (b []byte) {
	for range n {
		b = append(b, windowed(10)[:6]...)
		for i := range blocks {
			header := 128<<10<<3 | 1<<1 // RLE
			if i == blocks-1 {
				header |= 1 // last
			}
			b = append(b, byte(header), byte(header>>8), byte(header>>16), 5)
		}
	}
	return b
}

// windowed is an empty frame with a window of 2^(10+log).
func windowed(log byte) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, log << 3, 1, 0, 0}
}

// claimed is a frame of one byte that says it has n.
func claimed(n uint64) []byte {
	return cat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, u64(n), []byte{1<<3 | 1, 0, 0, 5})
}

func TestDecode(t *testing.T) {
	want := literals(1 << 20)
	for name, f := range map[string]Frame{
		"one frame of the largest size": {
			Encoding: Zstd, Payload: rleFrames(1, 8), RawSize: 1 << 20, RawSum: xxhash.Sum64(want)},
		"stored": {Encoding: Stored, Payload: want, RawSize: 1 << 20, RawSum: xxhash.Sum64(want)},
	} {
		if raw, err := f.Decode(make([]byte, 0, MaxLiteral)); err != nil || !bytes.Equal(raw, want) {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
		f.RawSum++
		_, err := f.Decode(nil)
		testkit.WantStatus(t, name+", wrong sum", err, exit.BadStream)
	}
	for name, payload := range map[string][]byte{
		"too little": rleFrames(1, 7), "too much": rleFrames(1, 9), "no zstd": literals(50), "empty": {},
		"cut": rleFrames(1, 8)[:20], "garbage behind": append(rleFrames(1, 8), 1, 2, 3),
	} {
		f := Frame{Encoding: Zstd, Payload: payload, RawSize: 1 << 20, RawSum: xxhash.Sum64(want)}
		_, err := f.Decode(nil)
		testkit.WantStatus(t, name, err, exit.BadStream)
	}
}

func TestEncode(t *testing.T) {
	for level := 0; level <= MaxLevel; level++ {
		e, err := NewEncoder(level, 2)
		if err != nil {
			t.Fatal(err)
		}
		for name, raw := range map[string][]byte{
			"empty": {}, "short": []byte("abc"), "shrinks": literals(MaxLiteral),
			"text": []byte(fmt.Sprint(make([]int, 4096)))} {
			var f Frame
			e.Encode(&f, raw, make([]byte, 0, MaxLiteral))
			shrinks := level > 0 && len(raw) > 3
			if (f.Encoding == Zstd) != shrinks || (len(f.Payload) < len(raw)) != shrinks || f.RawSize != len(raw) {
				t.Errorf("level %d, %s: encoding %d of %d in %d bytes", level, name, f.Encoding, len(raw), len(f.Payload))
			}
			if got, err := f.Decode(nil); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("level %d, %s: %v", level, name, err)
			}
		}
	}
}
