package lvm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/cli"
)

// extentsOf returns the extents as pairs.
func extentsOf(e *Extents) [][2]int64 {
	var list [][2]int64
	for off, n := range e.All {
		list = append(list, [2]int64{off, n})
	}
	return list
}

func TestExtents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		unit, size := int64(1+r.IntN(9)), int64(r.IntN(2000))
		e := newExtents(unit, size)
		changed := make([]bool, size)
		for range r.IntN(40) {
			off, n := int64(r.IntN(2200)), int64(r.IntN(30))
			e.add(off, n)
			for i := off / unit * unit; n > 0 && off < size && i < (min(off+n, size)+unit-1)/unit*unit && i < size; i++ {
				changed[i] = true
			}
		}
		var want [][2]int64
		for i, is := range changed {
			switch {
			case !is:
			case i > 0 && changed[i-1]:
				want[len(want)-1][1]++
			default:
				want = append(want, [2]int64{int64(i), 1})
			}
		}
		if got := extentsOf(e); !reflect.DeepEqual(got, want) {
			t.Fatalf("unit %d size %d: %v, want %v", unit, size, got, want)
		}
	}
}

// store builds an exception store: pairs[i] is the origin's chunk of exception i.
func store(chunk int64, origin ...uint64) []byte {
	pairs := int(chunk / exceptionSize)
	le := binary.LittleEndian
	b := le.AppendUint32(nil, storeMagic)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, uint32(chunk/sectorSize))
	b = append(b, make([]byte, int(chunk)-len(b))...)
	for area := 0; area <= len(origin)/pairs; area++ {
		list := make([]byte, chunk)
		for i, o := range origin[area*pairs : min(len(origin), (area+1)*pairs)] {
			le.PutUint64(list[i*exceptionSize:], o)
			le.PutUint64(list[i*exceptionSize+8:], uint64(area*(pairs+1)+2+i))
		}
		b = append(b, list...)
		b = append(b, bytes.Repeat([]byte{0xee}, pairs*int(chunk))...) // the old content
	}
	return b
}

func TestReadStore(t *testing.T) {
	for _, chunk := range []int64{512, 4096, 16384} {
		pairs := int(chunk / exceptionSize)
		for _, n := range []int{0, 1, pairs - 1, pairs, pairs + 1, 2*pairs + 7} {
			origin := make([]uint64, n)
			for i := range origin {
				origin[i] = uint64(3 * (n - i))
			}
			var got []uint64
			err := readStore(bytes.NewReader(store(chunk, origin...)), chunk, func(off, n int64) error {
				if n != chunk || off%chunk != 0 {
					t.Fatalf("extent %d+%d", off, n)
				}
				got = append(got, uint64(off/chunk))
				return nil
			})
			if err != nil || !slices.Equal(got, origin) {
				t.Errorf("chunk %d: %d of %d exceptions, %v", chunk, len(got), n, err)
			}
		}
	}
}

func TestReadBadStore(t *testing.T) {
	good := store(4096, 1, 2, 3)
	for _, c := range []struct {
		what   string
		spoil  func(b []byte) []byte
		status int
	}{
		{"magic", func(b []byte) []byte { b[0]++; return b }, cli.IOError},
		{"invalid", func(b []byte) []byte { b[4] = 0; return b }, cli.BadSnapshot},
		{"version", func(b []byte) []byte { b[8] = 2; return b }, cli.IOError},
		{"chunk size", func(b []byte) []byte { b[12] = 16; return b }, cli.IOError},
		{"huge chunk number", func(b []byte) []byte { b[4096+7] = 0x80; return b }, cli.IOError},
		{"empty", func(b []byte) []byte { return nil }, cli.IOError},
		{"cut in the header", func(b []byte) []byte { return b[:100] }, cli.IOError},
		{"cut in the list", func(b []byte) []byte { return b[:4096+40] }, cli.IOError},
	} {
		err := readStore(bytes.NewReader(c.spoil(bytes.Clone(good))), 4096, func(off, n int64) error { return nil })
		if err == nil || cli.StatusOf(err) != c.status {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	full := make([]uint64, 256) // a full list, and then the end
	if err := readStore(bytes.NewReader(store(4096, full...)[:257*4096]), 4096, func(off, n int64) error { return nil }); err == nil {
		t.Error("a store cut behind a full list")
	}
	for _, chunk := range []int64{0, 256, 5000, 1 << 30} {
		if err := readStore(bytes.NewReader(good), chunk, func(off, n int64) error { return nil }); err == nil {
			t.Errorf("chunk size %d", chunk)
		}
	}
}

// thin_delta.xml is what thin_delta 0.9.0 printed of a volume that was partly discarded.
func TestParseDelta(t *testing.T) {
	text, err := os.ReadFile("testdata/thin_delta.xml")
	if err != nil {
		t.Fatal(err)
	}
	const block = 64 << 10
	e, err := parseDelta(bytes.NewReader(text), 1001*block)
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]int64{{64 * block, 16 * block}, {128 * block, 64 * block}}
	if got := extentsOf(e); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	e, err = parseDelta(bytes.NewReader(text), 130*block-5)
	want[1][1] = 2*block - 5
	if got := extentsOf(e); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("smaller image: %v, want %v, %v", got, want, err)
	}
	end := bytes.LastIndexByte(text, '>')
	for n := range end + 1 {
		if _, err := parseDelta(bytes.NewReader(text[:n]), 1001*block); err == nil {
			t.Fatalf("the first %d bytes of %d are taken for a whole answer", n, len(text))
		}
	}
}

func TestParseBadDelta(t *testing.T) {
	const head, tail = `<superblock data_block_size="128"><diff left="1" right="2">`, `</diff></superblock>`
	for _, body := range []string{
		`<different begin="-1" length="2"/>`,
		`<different begin="1"/>`,
		`<different begin="99999999999999999999" length="1"/>`,
		`<different begin="1" length="9999999999999999"/>`,
		`<shared begin="1" length="1"/>`,
		`</diff><diff>`,
	} {
		if _, err := parseDelta(strings.NewReader(head+body+tail), 1<<30); err == nil {
			t.Errorf("accepted: %s", body)
		}
	}
	for _, text := range []string{``, `<superblock/>`, `<superblock data_block_size="0"><diff/></superblock>`,
		`<superblock data_block_size="128"></superblock>`, `<diff/>`} {
		if _, err := parseDelta(strings.NewReader(text), 1<<30); err == nil {
			t.Errorf("accepted: %s", text)
		}
	}
	far := fmt.Sprintf(`<right_only begin="%d" length="%d"/>`, int64(1)<<40, int64(1)<<40)
	if e, err := parseDelta(strings.NewReader(head+far+tail), 1<<20); err != nil || len(extentsOf(e)) != 0 {
		t.Errorf("behind the end: %v, %v", e, err)
	}
}
