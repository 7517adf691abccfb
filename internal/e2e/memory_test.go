package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// maxResident is what one process may have resident, in KiB, whatever the size of
// the disk.
const maxResident = 64 << 10

// measured runs stages as a pipeline and demands that each stays below maxResident.
func (h *host) measured(stages ...string) result {
	h.Helper()
	notes, err := os.MkdirTemp(h.notes, "rss")
	if err != nil {
		h.Fatal(err)
	}
	counted := make([]string, len(stages))
	for i, stage := range stages {
		counted[i] = fmt.Sprintf("rusage %s/%d %s", notes, i, stage)
	}
	start := time.Now()
	r := h.pipe(counted...)
	var figures []string
	for i, stage := range stages {
		text, err := os.ReadFile(fmt.Sprintf("%s/%d", notes, i))
		if err != nil {
			h.Fatal(err)
		}
		kib, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			h.Fatal(err)
		}
		if kib > maxResident {
			h.Errorf("%s: %d KiB resident, want at most %d", stage, kib, maxResident)
		}
		figures = append(figures, fmt.Sprintf("%s %d MiB", strings.Fields(stage)[0], kib>>10))
	}
	h.Logf("%s in %.1f s", strings.Join(figures, ", "), time.Since(start).Seconds())
	return r
}

// TestMemorySparse sends an image of 1 TiB with some data through the pipeline, and
// makes it one without any: holes cost nothing.
func TestMemorySparse(t *testing.T) {
	h := newHost(t)
	h.must("truncate -s 1T source target empty")
	f, err := os.OpenFile(h.path("source"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(64) {
		if _, err := f.WriteAt(randomBytes(20000, uint64(i)), i*(1<<34)+i*777); err != nil {
			t.Fatal(err)
		}
	}
	want, err := strconv.Atoi(strings.Fields(h.must("du -k source"))[0])
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	h.measured("xb-sig target", "xb-delta source", "xb-patch target").fails(t, 0)
	h.measured("xb-sig target", "xb-delta --check source").silent(t)
	var got int
	if fmt.Sscan(h.must("du -k target"), &got); got > want+1024 {
		t.Errorf("the target takes %d KiB, the source %d", got, want)
	}
	h.measured("xb-sig target", "xb-delta empty", "xb-patch target").silent(t)
	h.measured("xb-sig target", "xb-delta --check empty").silent(t)
	h.measured("xb-sig --missing-ok created", "xb-delta source", "xb-patch --create --in-place created").silent(t)
	h.measured("xb-sig created", "xb-delta --check source").silent(t)
	if took := time.Since(start); took > testkit.Long {
		t.Errorf("it took %v", took)
	}
}

// TestLongMemoryFull sends random and compressible data at the costliest settings, as
// machines of few and of many cores would.
func TestLongMemoryFull(t *testing.T) {
	h := newHost(t)
	h.image("source", 64*mib, 1)
	f, err := os.OpenFile(h.path("source"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat(randomBytes(5000, 2), 16*mib/5000), 12*mib); err != nil {
		t.Fatal(err)
	}
	h.image("disk", 64*mib, 3)
	target := "disk"
	if os.Geteuid() == 0 {
		target = h.loop("disk")
	}
	env := h.env
	for _, run := range []struct{ cores, sig, delta, patch string }{
		{"2", "-b 4K", "--level 19", ""},
		{"16", "-b 4K", "--level 19", "--in-place"},
		{"16", "-b 1M", "--level 1", ""},
		{"16", "-b 4K --background", "--level 9 --background", "--background"},
		{"16", "-b 1M --hash sha256", "--level 9", "--in-place"},
	} {
		h.must("rm -rf " + h.state)
		h.env = append(env[:len(env):len(env)], "GOMAXPROCS="+run.cores)
		h.measured("xb-sig "+run.sig+" "+target, "xb-delta "+run.delta+" source", "xb-patch "+run.patch+" "+target).
			fails(t, 0)
		h.measured("xb-sig "+run.sig+" "+target, "xb-delta --check source").silent(t)
		h.change("disk", 4000, 4)
	}
	h.measured("cat source", "xb-sig -").silent(t)
}

// TestMemoryHostile gives xb-patch and xb-delta streams that lie about lengths.
func TestMemoryHostile(t *testing.T) {
	h := newHost(t)
	h.image("target", mib, 1)
	header := stream.Header{BlockSize: stream.DefaultBlockSize, Hash: stream.XXH64, Size: stream.MaxImageSize}
	check := h.untouched("target")
	for name, input := range map[string][]byte{
		"a frame that unpacks to 1 GiB": hostileDelta(t, header, bomb(1<<30)),
		"sixty-four such frames":        hostileDelta(t, header, repeat(bomb(64*mib), 64)...),
		"a table of 4 GiB":              patched(hostileDelta(t, header, bomb(4*mib)), 2, 0xff, 0xff, 0xff, 0xff),
		"literal data of 4 GiB":         patched(hostileDelta(t, header, bomb(4*mib)), 6, 0xff, 0xff, 0xff, 0xff),
		"a payload of 4 GiB":            patched(hostileDelta(t, header, bomb(4*mib)), 10, 0xff, 0xff, 0xff, 0xff),
	} {
		h.note(h.notes+"/hostile", string(input))
		for _, stage := range []string{"xb-patch target", "xb-patch --in-place target", "xb-patch --dry-run target",
			"xb-delta --info"} {
			if r := h.measured("cat ../notes/hostile", stage); r.status != badStream {
				t.Errorf("%s: %s: status %d, %s", name, stage, r.status, r.err)
			}
		}
		check()
	}
	// A zero run over all there may be is no lie; no file can be so large.
	const most = stream.MaxImageSize / stream.DefaultBlockSize
	zeroes := &stream.Frame{Runs: []stream.Run{{First: 0, Count: most, Zero: true}}}
	new(stream.Encoder).Encode(zeroes, nil, nil)
	h.note(h.notes+"/hostile", string(hostileDelta(t, header, zeroes)))
	if r := h.measured("cat ../notes/hostile", "xb-patch target"); r.status != badStream {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	check()
	// Nor is an image of nothing but zeroes.
	var sig bytes.Buffer
	w := stream.NewSignatureWriter(&sig, header)
	w.Zeroes(stream.MaxImageSize / stream.DefaultBlockSize)
	if err := w.End(stream.Image{Size: stream.MaxImageSize}); err != nil {
		t.Fatal(err)
	}
	h.note(h.notes+"/hostile", sig.String())
	h.measured("cat ../notes/hostile", "xb-delta target", "xb-delta --info").silent(t)
}

// bomb returns a frame whose payload unpacks to n zero bytes. It is put together by hand (RFC 8878): to compress a GiB
// takes long under the race detector.
func bomb(n int) *stream.Frame {
	const block = 128 << 10
	packed := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3} // a window of 8 MiB
	for left := n / block; left > 0; left-- {
		header := block<<3 | 1<<1 // one byte, so many times
		if left == 1 {
			header |= 1
		}
		packed = append(packed, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return &stream.Frame{Runs: []stream.Run{{First: 0, Count: stream.MaxLiteral / stream.DefaultBlockSize}},
		Encoding: stream.Zstd, Payload: packed, RawSize: stream.MaxLiteral}
}

// TestBomb demands that it is what it is said to be.
func TestBomb(t *testing.T) {
	r, err := zstd.NewReader(bytes.NewReader(bomb(4 * mib).Payload))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, make([]byte, 4*mib)) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

func repeat(f *stream.Frame, n int) (frames []*stream.Frame) {
	for i := range int64(n) {
		next := *f
		next.Runs = []stream.Run{{First: i * 256, Count: 256}}
		frames = append(frames, &next)
	}
	return frames
}

func hostileDelta(t *testing.T, h stream.Header, frames ...*stream.Frame) []byte {
	t.Helper()
	var delta bytes.Buffer
	w := stream.NewDeltaWriter(&delta, h)
	for _, f := range frames {
		if err := w.Frame(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.End(stream.Image{}, stream.Image{Size: stream.MaxImageSize}, stream.Sum{}); err != nil {
		t.Fatal(err)
	}
	return delta.Bytes()
}

// patched overwrites bytes of the first frame, which begins after the header.
func patched(delta []byte, at int, b ...byte) []byte {
	copy(delta[32+at:], b)
	return delta
}
