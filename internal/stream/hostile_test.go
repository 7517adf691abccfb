package stream

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// Streams in this file are put together byte by byte, with right checksums, so
// that what refuses them is the rule under test.

// readSignature reads a signature to its end.
func readSignature(in io.Reader) error {
	r, err := NewSignatureReader(in)
	var rec SignatureRecord
	for err == nil {
		if err = r.Next(&rec); err == io.EOF {
			return nil
		}
	}
	return err
}

// readDelta reads and decodes a delta to its end.
func readDelta(in io.Reader) error {
	r, err := NewDeltaReader(in)
	var f Frame
	for err == nil {
		if err = r.Next(&f); err == io.EOF {
			return nil
		} else if err == nil {
			_, err = f.Decode(nil)
		}
	}
	return err
}

func u32(n int) []byte    { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
func u64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// sealed appends the checksum.
func sealed(parts ...[]byte) []byte {
	b := cat(parts...)
	return append(b, u64(xxhash.Sum64(b))...)
}

func header(magic string, hash, log byte, flags int, size uint64) []byte {
	return sealed([]byte(magic), []byte{1, 0, hash, log}, u32(flags), u64(size))
}

// unsized is the header of an xxh64 stream in blocks of 4 KiB, size unknown.
func unsized(magic string) []byte { return header(magic, 1, 12, 0, 0) }

func signature(size, hashed, zero uint64, records ...[]byte) []byte {
	return sealed(unsized(signatureMagic), cat(records...), []byte{'E'}, u64(size), u64(hashed), u64(zero), u64(0))
}

func hashRecord(n int) []byte {
	return cat([]byte{'H'}, u32(n), bytes.Repeat([]byte{7}, 8*n))
}

func zeroRecord(n uint64) []byte { return cat([]byte{'Z'}, u64(n)) }

func TestSignatureRules(t *testing.T) {
	const block = 4096
	for _, test := range []struct {
		name   string
		stream []byte
		status int
	}{
		{"empty image", signature(0, 0, 0), exit.OK},
		{"full records", signature(2049*block, 2049, 0, hashRecord(1024), hashRecord(1024), hashRecord(1)), exit.OK},
		{"short last block", signature(2*block-1, 1, 1, zeroRecord(1), hashRecord(1)), exit.OK},
		{"largest image", signature(1<<62, 0, 1<<50, zeroRecord(1<<50)), exit.OK},

		{"zero after zero", signature(2*block, 0, 2, zeroRecord(1), zeroRecord(1)), exit.BadStream},
		{"hash after one not full", signature(1024*block, 1024, 0, hashRecord(1023), hashRecord(1)), exit.BadStream},
		{"no hashes", signature(0, 0, 0, hashRecord(0)), exit.BadStream},
		{"no zeroes", signature(0, 0, 0, zeroRecord(0)), exit.BadStream},
		{"too many hashes", signature(1025*block, 1025, 0, hashRecord(1025)), exit.BadStream},
		{"unknown record", signature(block, 1, 0, []byte{'h'}, hashRecord(1)[1:]), exit.BadStream},
		{"frame in a signature", signature(block, 1, 0, []byte{'F'}, hashRecord(1)[1:]), exit.BadStream},
		{"zeroes beyond 2^62", signature(1<<62, 0, 1<<50+1, zeroRecord(1<<50+1)), exit.BadStream},
		{"zeroes that overflow", signature(0, 0, 0, zeroRecord(1<<63), hashRecord(1), zeroRecord(1<<63)), exit.BadStream},
		{"in sum beyond 2^62", signature(1<<62, 1, 1<<50, zeroRecord(1<<50), hashRecord(1)), exit.BadStream},
		{"size one block less", signature(block, 1, 1, hashRecord(1), zeroRecord(1)), exit.BadStream},
		{"size one byte more", signature(2*block+1, 1, 1, hashRecord(1), zeroRecord(1)), exit.BadStream},
		{"size beyond 2^62", signature(1<<62+1, 0, 1<<50, zeroRecord(1<<50)), exit.BadStream},
		{"size that overflows", signature(1<<64-1, 0, 0), exit.BadStream},
		{"hashed count wrong", signature(2*block, 2, 0, hashRecord(1), zeroRecord(1)), exit.BadStream},
		{"zero count wrong", signature(2*block, 1, 2, hashRecord(1), zeroRecord(1)), exit.BadStream},
		{"record after the end", append(signature(0, 0, 0), zeroRecord(1)...), exit.BadStream},
		{"two streams", append(signature(0, 0, 0), signature(0, 0, 0)...), exit.BadStream},
	} {
		if err := readSignature(bytes.NewReader(test.stream)); exit.StatusOf(err) != test.status {
			t.Errorf("%s: %v, want status %d", test.name, err, test.status)
		}
	}
}

func TestHeaderRules(t *testing.T) {
	version2 := sealed([]byte(signatureMagic), []byte{2, 0, 1, 12}, u32(0), u64(0))
	for _, test := range []struct {
		name   string
		stream []byte
		status int
	}{
		{"block size 2^11", header(signatureMagic, 1, 11, 0, 0), exit.BadStream},
		{"block size 2^21", header(signatureMagic, 1, 21, 0, 0), exit.BadStream},
		{"block size 2^255", header(signatureMagic, 1, 255, 0, 0), exit.BadStream},
		{"hash 0", header(signatureMagic, 0, 12, 0, 0), exit.NotOurs},
		{"hash 3", header(signatureMagic, 3, 12, 0, 0), exit.NotOurs},
		{"unknown flag", header(signatureMagic, 1, 12, 2, 0), exit.NotOurs},
		{"unknown flag besides the known one", header(signatureMagic, 1, 12, 3, 4096), exit.NotOurs},
		{"last flag", header(signatureMagic, 1, 12, 1<<31, 0), exit.NotOurs},
		{"flag by which other fields mean something else", header(signatureMagic, 9, 99, 2, 1<<63), exit.NotOurs},
		{"unknown flag in a damaged header", append(header(signatureMagic, 1, 12, 2, 0)[:31], 0), exit.BadStream},
		{"a size that is not known", header(signatureMagic, 1, 12, 0, 1), exit.BadStream},
		{"size beyond 2^62", header(signatureMagic, 1, 12, 1, 1<<62+1), exit.BadStream},
		{"negative size", header(signatureMagic, 1, 12, 1, 1<<63), exit.BadStream},
		{"version 2", version2, exit.NotOurs},
		{"version 2, cut", version2[:10], exit.NotOurs},
		{"delta", unsized(deltaMagic), exit.NotOurs},
		{"empty", nil, exit.BadStream},
		{"noise", []byte("Welcome to dom0b!\r\nLast login\n" + signatureMagic), exit.NotOurs},
		{"short noise", []byte("hi\n"), exit.NotOurs},
		{"magic through a terminal", []byte("\x89xbsig\n" + "more of it"), exit.NotOurs},
	} {
		if _, err := NewSignatureReader(bytes.NewReader(test.stream)); exit.StatusOf(err) != test.status {
			t.Errorf("%s: %v, want status %d", test.name, err, test.status)
		}
	}
	_, err := NewSignatureReader(bytes.NewReader([]byte("\r\n\nWelcome\x1b to dom0b!\r\nsecond line\n")))
	if want := `it begins: Welcome\x1b to dom0b!`; err == nil || !bytes.HasSuffix([]byte(err.Error()), []byte(want)) {
		t.Errorf("noise gives %q, which does not end in %q", err, want)
	}
}

// A later program's stream is no damaged one of this version, in either direction.
func TestAnotherFormat(t *testing.T) {
	for _, h := range []struct {
		hash  byte
		flags int
		words string
	}{
		{1, 2, "flags 0x2 "}, {1, 1 | 1<<31, "flags 0x80000000 "}, {3, 1, "hash 3 "},
	} {
		_, sig := NewSignatureReader(bytes.NewReader(header(signatureMagic, h.hash, 12, h.flags, 4096)))
		_, delta := NewDeltaReader(bytes.NewReader(header(deltaMagic, h.hash, 12, h.flags, 4096)))
		for _, err := range []error{sig, delta} {
			if exit.StatusOf(err) != exit.NotOurs || !strings.Contains(err.Error(), h.words) {
				t.Errorf("hash %d, flags %#x: %v", h.hash, h.flags, err)
			}
		}
	}
}

// rawFrame is a frame whose sizes may lie.
type rawFrame struct {
	encoding    byte
	table       []byte
	raw         []byte
	payload     []byte // raw if nil
	tableSize   int    // the true one if 0, as the others
	rawSize     int
	payloadSize int
}

func (f rawFrame) bytes() []byte {
	if f.payload == nil {
		f.payload = f.raw
	}
	or := func(n, otherwise int) int {
		if n != 0 {
			return n
		}
		return otherwise
	}
	return sealed([]byte{'F', f.encoding}, u32(or(f.tableSize, len(f.table))), u32(or(f.rawSize, len(f.raw))),
		u32(or(f.payloadSize, len(f.payload))), u64(xxhash.Sum64(f.raw)), u64(0), f.table, f.payload)
}

func literals(n int) []byte { return bytes.Repeat([]byte{5}, n) }

// delta has a basis of the source's size, so that nothing but its frames counts.
func delta(source, frames, literal, zero uint64, parts ...[]byte) []byte {
	return deltaFrom(source, source, frames, literal, zero, parts...)
}

func deltaFrom(basis, source, frames, literal, zero uint64, parts ...[]byte) []byte {
	return sealed(unsized(deltaMagic), cat(parts...), []byte{'E'}, u64(basis), u64(0), u64(source), u64(0), u64(0),
		u64(frames), u64(literal), u64(zero))
}

// table encodes pairs of gap and count*2+kind.
func table(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// manyRuns has n runs of one zero block with a gap of one each.
func manyRuns(n int) (b []byte) {
	for range n {
		b = append(b, table(1, 3)...)
	}
	return b
}

func TestDeltaRules(t *testing.T) {
	const block, size = 4096, 4096 * 10000
	full := rawFrame{table: table(0, 256<<1), raw: literals(1 << 20)}.bytes()
	zero := func(numbers ...uint64) []byte { return rawFrame{table: table(numbers...)}.bytes() }
	lit := func(n int, numbers ...uint64) []byte {
		return rawFrame{table: table(numbers...), raw: literals(n)}.bytes()
	}
	runs := rawFrame{table: manyRuns(4096)}.bytes()
	for _, test := range []struct {
		name   string
		stream []byte
		ok     bool
	}{
		{"nothing changed", delta(size, 0, 0, 0), true},
		{"full of data, then another", delta(size, 2, 257, 0, full, lit(block, 0, 2)), true},
		{"full of data, then a short block", delta(256*block+1, 2, 257, 0, full, lit(1, 0, 2)), true},
		{"full of runs, then another", delta(size, 2, 0, 4097, runs, zero(1, 3)), true},
		{"full of runs, then another kind", delta(size, 2, 1, 4096, runs, lit(block, 0, 2)), true},
		{"largest image", delta(1<<62, 1, 0, 1, zero(1<<50-1, 3)), true},
		{"whole largest image", delta(1<<62, 1, 0, 1<<50, zero(0, 1<<51|1)), true},
		{"zero run after a full one", delta(size, 1, 256, 1,
			rawFrame{table: table(0, 256<<1, 0, 3), raw: literals(1 << 20)}.bytes()), true},
		{"zero last block short", delta(block+1, 1, 0, 1, zero(1, 3)), true},

		{"two zero runs in one", delta(size, 1, 0, 2, zero(0, 3, 0, 3)), false},
		{"two literal runs in one", delta(size, 1, 2, 0, lit(2*block, 0, 2, 0, 2)), false},
		{"frame not full, then zero", delta(size, 2, 0, 2, zero(0, 3), zero(1, 3)), false},
		{"frame not full, then literal", delta(size, 2, 2, 0, lit(block, 0, 2), lit(block, 1, 2)), false},
		{"full of data, then zero", delta(size, 2, 256, 1, full, zero(0, 3)), false},
		{"full of runs, then the same run", delta(size, 2, 0, 4097, runs, zero(0, 3)), false},
		{"too many runs", delta(size, 1, 0, 4097, rawFrame{table: manyRuns(4097)}.bytes()), false},
		{"too many literal blocks", delta(size, 1, 257, 0,
			rawFrame{table: table(0, 257<<1), raw: literals(1 << 20)}.bytes()), false},
		{"zero run of no blocks", delta(size, 1, 0, 0, zero(0, 1)), false},
		{"literal run of no blocks", delta(size, 1, 0, 0, zero(0, 0)), false},
		{"overlong gap", delta(size, 1, 0, 1, rawFrame{table: []byte{0x80, 0, 3}}.bytes()), false},
		{"overlong count", delta(size, 1, 0, 1, rawFrame{table: []byte{0, 0x83, 0}}.bytes()), false},
		{"number of 11 bytes", delta(size, 1, 0, 1,
			rawFrame{table: append(bytes.Repeat([]byte{0xff}, 10), 1, 3)}.bytes()), false},
		{"number beyond 2^64", delta(size, 1, 0, 1,
			rawFrame{table: append(bytes.Repeat([]byte{0xff}, 9), 2, 3)}.bytes()), false},
		{"number cut", delta(size, 1, 0, 1, rawFrame{table: []byte{0, 0x83}}.bytes()), false},
		{"gap without count", delta(size, 1, 0, 1, rawFrame{table: []byte{0, 3, 1}}.bytes()), false},
		{"empty table", delta(size, 1, 0, 0, rawFrame{}.bytes()), false},
		{"gap beyond 2^62", delta(1<<62, 1, 0, 1, zero(1<<50, 3)), false},
		{"gap that overflows", delta(1<<62, 1, 0, 2, zero(5, 3, 1<<64-4, 3)), false},
		{"gap of 2^63", delta(1<<62, 1, 0, 1, zero(1<<63, 3)), false},
		{"count beyond 2^62", delta(1<<62, 1, 0, 1<<50+1, zero(0, 1<<51+3)), false},
		{"count that overflows", delta(1<<62, 1, 0, 1<<63-1, zero(1, 1<<64-1)), false},
		{"in sum beyond 2^62", delta(1<<62, 1, 0, 1<<50, zero(1, 1<<51|1)), false},
		{"literal data missing", delta(size, 1, 2, 0, lit(block, 0, 4)), false},
		{"no literal data", delta(size, 1, 1, 0, zero(0, 2)), false},
		{"too much literal data", delta(size, 1, 1, 0, lit(block+1, 0, 2)), false},
		{"literal data of zero runs", delta(size, 1, 0, 1, lit(1, 0, 3)), false},
		{"short block before a zero run", delta(size, 1, 1, 1, lit(1, 0, 2, 1, 3)), false},
		{"short block not at the end", delta(size, 1, 1, 0, lit(1, 0, 2)), false},
		{"short block before another frame", delta(257*block-1, 2, 257, 0,
			rawFrame{table: table(0, 256<<1), raw: literals(1<<20 - 1)}.bytes(), lit(block, 0, 2)), false},
		{"full block beyond the end", delta(block-1, 1, 1, 0, lit(block, 0, 2)), false},
		{"zero run beyond the end", delta(block, 1, 0, 2, zero(0, 5)), false},
		{"stored with another payload", delta(size, 1, 1, 0,
			rawFrame{table: table(0, 2), raw: literals(block), payload: literals(block - 1)}.bytes()), false},
		{"zstd that did not shrink", delta(size, 1, 1, 0,
			rawFrame{encoding: 1, table: table(0, 2), raw: literals(block)}.bytes()), false},
		{"unknown encoding", delta(size, 1, 1, 0,
			rawFrame{encoding: 2, table: table(0, 2), raw: literals(block)}.bytes()), false},
		{"signature's record", delta(size, 0, 0, 0, zeroRecord(1)), false},
		{"wrong number of frames", delta(size, 2, 0, 1, zero(0, 3)), false},
		{"wrong number of literals", delta(size, 1, 1, 1, zero(0, 3)), false},
		{"wrong number of zeroes", delta(size, 1, 0, 2, zero(0, 3)), false},
		{"basis beyond 2^62", deltaFrom(1<<62+1, size, 0, 0, 0), false},
		{"source beyond 2^62", deltaFrom(size, 1<<62+1, 0, 0, 0), false},
		{"more after the end", append(delta(size, 0, 0, 0), 0), false},
	} {
		err := readDelta(bytes.NewReader(test.stream))
		if test.ok && err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if !test.ok {
			testkit.WantStatus(t, test.name, err, exit.BadStream)
		}
	}

	sized := delta(block, 0, 0, 0)
	sized = sealed(header(deltaMagic, 1, 12, 1, 2*block), sized[32:len(sized)-8])
	testkit.WantStatus(t, "another size than in the header", readDelta(bytes.NewReader(sized)), exit.BadStream)
}

// TestFrameRefusedAtOnce: a frame that contradicts itself must not be handed on, not
// even to wait for the end record: xb-patch --in-place writes frames as they come.
func TestFrameRefusedAtOnce(t *testing.T) {
	for name, frame := range map[string]rawFrame{
		"a block missing":  {table: table(0, 4), raw: literals(4096)},
		"all missing":      {table: table(0, 2)},
		"too much":         {table: table(0, 2), raw: literals(4097)},
		"data of no block": {table: table(0, 3), raw: literals(1)},
		"short, then zero": {table: table(0, 2, 0, 3), raw: literals(1)},
		"beyond 2^62":      {table: table(1<<50, 3)},
	} {
		r, err := NewDeltaReader(bytes.NewReader(cat(unsized(deltaMagic), frame.bytes())))
		if err != nil {
			t.Fatal(err)
		}
		testkit.WantStatus(t, name, r.Next(new(Frame)), exit.BadStream)
	}
}

// TestWholeSource: what the basis has not, the delta must bring. Else a device's
// old bytes would become part of the image.
func TestWholeSource(t *testing.T) {
	const block = 4096
	zero := func(numbers ...uint64) []byte { return rawFrame{table: table(numbers...)}.bytes() }
	for _, test := range []struct {
		basis, source uint64
		zeroes        uint64
		frame         []byte
		ok            bool
	}{
		{0, 2 * block, 2, zero(0, 5), true},
		{0, 2 * block, 1, zero(0, 3), false},
		{0, 2 * block, 1, zero(1, 3), false},
		{0, 3 * block, 2, zero(0, 3, 1, 3), false},
		{block, 3 * block, 2, zero(1, 5), true},
		{block + 1, 3 * block, 1, zero(2, 3), false}, // block 1 has become longer
		{block + 1, block + 2, 1, zero(1, 3), true},
		{block + 1, block + 2, 1, zero(0, 3), false},
		{block + 2, block + 1, 1, zero(0, 3), false}, // block 1 has become shorter
		{9 * block, block, 1, zero(0, 3), true},
	} {
		err := readDelta(bytes.NewReader(deltaFrom(test.basis, test.source, 1, 0, test.zeroes, test.frame)))
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// TestHostileLengths: what a peer claims must not cost memory.
func TestHostileLengths(t *testing.T) {
	packed := func(payload []byte) []byte {
		return delta(1<<20, 1, 256, 0,
			rawFrame{encoding: Zstd, table: table(0, 512), raw: literals(1 << 20), payload: payload}.bytes())
	}
	for name, stream := range map[string][]byte{
		"hash record of 2^32 blocks": cat(unsized(signatureMagic), []byte{'H'}, u32(1<<32-1), literals(100)),
		"table of 2^32 bytes":        cat(unsized(deltaMagic), rawFrame{table: table(0, 2), tableSize: 1<<32 - 1}.bytes()),
		"table of 81921 bytes":       cat(unsized(deltaMagic), rawFrame{table: make([]byte, 81921)}.bytes()),
		"literal data of 2^32": cat(unsized(deltaMagic),
			rawFrame{table: table(0, 2), rawSize: 1<<32 - 1, payloadSize: 1<<32 - 1}.bytes()),
		"literal data of 1 MiB + 1": cat(unsized(deltaMagic),
			rawFrame{table: table(0, 2), raw: literals(1<<20 + 1)}.bytes()),
		"payload of 2^32": cat(unsized(deltaMagic),
			rawFrame{encoding: 1, table: table(0, 2), payloadSize: 1<<32 - 1}.bytes()),
		"zstd bomb":               packed(rleFrames(2000, 8)),
		"zstd that claims 1 GiB":  packed(claimed(1 << 30)),
		"zstd that claims 2^63":   packed(claimed(1 << 63)),
		"zstd window of 2 MiB":    packed(windowed(11)),
		"zstd window of 3.75 TiB": packed(windowed(31)),
	} {
		read := readDelta
		if bytes.HasPrefix(stream, []byte(signatureMagic)) {
			read = readSignature
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read(bytes.NewReader(stream))
		runtime.ReadMemStats(&after)
		testkit.WantStatus(t, name, err, exit.BadStream)
		if used := after.TotalAlloc - before.TotalAlloc; used > 12<<20 {
			t.Errorf("%s: %d bytes were allocated", name, used)
		}
	}
}
