package lvm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/testkit"
)

// extentsOf returns the extents as pairs.
func extentsOf(e *extent.Set) [][2]int64 {
	var list [][2]int64
	for off, n := range e.All {
		list = append(list, [2]int64{off, n})
	}
	return list
}

// endless is an exception store that lists so many chunks of the origin, all over
// it, and no two of them adjacent.
type endless struct{ exceptions, chunks uint64 }

func (s endless) ReadAt(b []byte, off int64) (int, error) {
	if off == 0 {
		return copy(b, store(4096)), nil
	}
	list := uint64(off/4096-1) / 257
	for i := range uint64(256) {
		n, origin, kept := list*256+i, uint64(0), uint64(0)
		if n < s.exceptions {
			origin, kept = n*2654435761%(s.chunks/2)*2, 1
		}
		binary.LittleEndian.PutUint64(b[16*i:], origin)
		binary.LittleEndian.PutUint64(b[16*i+8:], kept)
	}
	return len(b), nil
}

// TestChangesMemory measures a process that has a limit on its heap as every command
// has, and reads the changes of 16 TiB. With more than a million extents the set joins
// neighbours, and still has every block in its place.
func TestChangesMemory(t *testing.T) {
	const size, maxResident = 16 << 40, 64 << 10
	const block, blocks = 64 << 10, 3 * extent.Max // of thin_delta, which lists every second one
	what := os.Getenv("TEST_CHANGES_MEMORY")
	var e *extent.Set
	var err error
	switch what {
	case "":
		binary := t.TempDir() + "/lvm.test" // without the race detector, which takes memory of its own
		if out, err := exec.Command("go", "test", "-c", "-o", binary, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, what := range []string{"store", "thin_delta"} {
			c := exec.Command(binary, "-test.run=^TestChangesMemory$")
			c.Env = append(os.Environ(), "TEST_CHANGES_MEMORY="+what)
			out, err := c.CombinedOutput()
			var kib int // of its own life: getrusage counts the parent, whose memory it had before it was itself
			if _, rest, _ := strings.Cut(string(out), "VmHWM:"); err == nil {
				_, err = fmt.Sscan(rest, &kib)
			}
			t.Logf("%s: %d KiB resident, %.1f s", what, kib, c.ProcessState.UserTime().Seconds())
			if err != nil || kib > maxResident {
				t.Errorf("%s: more than %d KiB resident, or %v: %s", what, maxResident, err, out)
			}
		}
		return
	case "store":
		debug.SetMemoryLimit(55 << 20)
		e = extent.NewSet(4096, size)
		err = readStore(endless{4 * extent.Max, size / 4096}, 4096, func(off, n int64) error { e.Add(off, n); return nil })
	case "thin_delta":
		debug.SetMemoryLimit(55 << 20)
		r, w := io.Pipe()
		go func() {
			b := bufio.NewWriter(w)
			b.WriteString(`<superblock data_block_size="128"><diff left="1" right="2">`)
			for i := int64(0); i < blocks; i += 2 {
				fmt.Fprintf(b, "\n    <different begin=\"%d\" length=\"1\"/>", i)
			}
			b.WriteString(`</diff></superblock>`)
			w.CloseWithError(b.Flush())
		}()
		e, err = parseDelta(r, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, next := 0, int64(0) // next is the first block that is not known to be in the set
	for off, length := range e.All {
		n++
		if next*block >= off {
			next = max(next, ((off+length)/block+1)/2*2)
		}
	}
	if n == 0 || n > extent.Max {
		t.Fatalf("%d extents", n)
	}
	if what == "thin_delta" && next < blocks {
		t.Fatalf("block %d is missing in the set", next)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.Write(status)
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
	for _, chunk := range []int64{512, 4096, 8192} {
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
		{"magic", func(b []byte) []byte { b[0]++; return b }, exit.IOError},
		{"invalid", func(b []byte) []byte { b[4] = 0; return b }, exit.BadSnapshot},
		{"version", func(b []byte) []byte { b[8] = 2; return b }, exit.IOError},
		{"chunk size", func(b []byte) []byte { b[12] = 16; return b }, exit.IOError},
		{"huge chunk number", func(b []byte) []byte { b[4096+7] = 0x80; return b }, exit.IOError},
		{"empty", func(b []byte) []byte { return nil }, exit.IOError},
		{"cut in the header", func(b []byte) []byte { return b[:100] }, exit.IOError},
		{"cut in the list", func(b []byte) []byte { return b[:4096+40] }, exit.IOError},
	} {
		err := readStore(bytes.NewReader(c.spoil(bytes.Clone(good))), 4096, func(off, n int64) error { return nil })
		if err == nil || exit.StatusOf(err) != c.status {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	full := make([]uint64, 256) // a full list, and then the end
	cut := bytes.NewReader(store(4096, full...)[:257*4096])
	if err := readStore(cut, 4096, func(off, n int64) error { return nil }); err == nil {
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

// What came first is told, not that the other end of the pipe then broke.
func TestThinDeltaFails(t *testing.T) {
	const head = `echo '<superblock data_block_size="128"><diff left="1" right="2">'; `
	const more = `while echo '<same begin="0" length="1"/>'; do :; done; `
	for _, c := range []struct{ what, script, words string }{
		{"unknown, then much", head + `echo '<shared begin="1" length="1"/>'; ` + more + `echo "Broken pipe" >&2; exit 1`,
			"unexpected element <shared>"},
		{"unknown, then its own failure", head + `echo '<shared/></diff></superblock>'; echo "bad metadata" >&2; exit 1`,
			"unexpected element <shared>"},
		{"unknown, no failure", head + `echo '<shared/></diff></superblock>'`, "unexpected element <shared>"},
		{"no XML", `echo "usage: thin_delta"; exit 0`, "EOF"},
		{"fails at once", `echo "bad metadata" >&2; exit 1`, "thin_delta: bad metadata"},
		{"fails in the middle", head + `echo "bad metadata" >&2; exit 1`, "thin_delta: bad metadata"},
		{"fails in an element", head + `printf '<same beg'; echo "bad metadata" >&2; exit 1`, "thin_delta: bad metadata"},
		{"fails at the end", head + `echo '</diff></superblock>'; echo "bad metadata" >&2; exit 1`,
			"thin_delta: bad metadata"},
		{"cut", head, "EOF"},
	} {
		testkit.Programs(t, map[string]string{"thin_delta": c.script})
		_, err := thinDelta("/dev/null", "1", "2", 1<<30)
		if exit.StatusOf(err) != exit.Unavailable || !strings.Contains(err.Error(), c.words) ||
			strings.Contains(err.Error(), "ipe") {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
