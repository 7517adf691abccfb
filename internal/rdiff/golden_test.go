package rdiff

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// golden reads one of the streams that were written by hand.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../stream/testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.TrimSpace(line))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden makes the images that the golden streams are of (see their comments).
func TestGolden(t *testing.T) {
	for _, hash := range []stream.Hash{stream.XXH64, stream.SHA256} {
		image := make([]byte, 16484)
		copy(image, bytes.Repeat([]byte{1}, testBlock))
		copy(image[3*testBlock:], bytes.Repeat([]byte{2}, testBlock))
		copy(image[4*testBlock:], bytes.Repeat([]byte{3}, 100))
		got, _ := sign(t, FromImage(imageFile(t, image, true)), header(hash, testBlock, 16484))
		if want := golden(t, "signature-"+hash.String()); !bytes.Equal(got, want) {
			t.Errorf("signature\n%x, want\n%x", got, want)
		}

		basis := make([]byte, 8192)
		copy(basis, bytes.Repeat([]byte{1}, testBlock))
		source := append(make([]byte, 3*testBlock), "abc"...)
		sig, _ := sign(t, FromImage(imageFile(t, basis, true)), header(hash, testBlock, 8192))
		for level := range 3 {
			delta, _, _ := diff(t, sig, FromImage(imageFile(t, source, true)), level, 12291)
			if want := golden(t, "delta-"+hash.String()); !bytes.Equal(delta, want) {
				t.Errorf("delta\n%x, want\n%x", delta, want)
			}
		}
	}
}

func TestInfo(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		want  Info
		words []string
	}{
		"signature-xxh64": {Info{Kind: "signature", Version: 1, BlockSize: 4096, Hash: "xxh64", Bytes: 135,
			Image: &ImageInfo{16484, "0fc0d4544e37bbc8"}, Records: 3, Hashed: new(int64(3)), Zero: 2},
			[]string{"signature, version 1, complete", "16484 bytes (16.1 KiB)", "0fc0d4544e37bbc8", "3 hashed, 2 zero"}},
		"delta-xxh64": {Info{Kind: "delta", Version: 1, BlockSize: 4096, Hash: "xxh64", Bytes: 152,
			Basis: &ImageInfo{8192, "4ca1f5fb054526ad"}, Source: &ImageInfo{12291, "43a9b8a39ced8c78"},
			Records: 3, Frames: new(int64(1)), Literal: new(int64(1)), Zero: 2, RawBytes: new(int64(3))},
			[]string{"delta, version 1, complete", "4ca1f5fb054526ad", "43a9b8a39ced8c78", "3 in 1 frames", "1 literal, 2 zero"}},
	} {
		b := golden(t, name)
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		print := func(json bool, operands ...string) string {
			var out bytes.Buffer
			env := &cli.Env{Name: "xb-test", Stdin: bytes.NewReader(b), Stdout: &out, Stderr: os.Stderr}
			if err := PrintInfo(env, new(cli.Flags), operands, json); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		test.want.Bytes = int64(len(b))
		want, _ := json.Marshal(test.want)
		for _, operands := range [][]string{{file}, {"-"}, nil} {
			if got := print(true, operands...); got != string(want)+"\n" {
				t.Errorf("%s %v:\n%swant\n%s", name, operands, got, want)
			}
			for _, words := range test.words {
				if got := print(false, operands...); !strings.Contains(got, words) {
					t.Errorf("%s %v: %q is missing in\n%s", name, operands, words, got)
				}
			}
		}
	}
	env := &cli.Env{Name: "xb-test", Stdin: strings.NewReader("Last login: today\n"), Stdout: os.Stderr, Stderr: os.Stderr}
	wantStatus(t, "noise", PrintInfo(env, new(cli.Flags), nil, false), exit.NotOurs)
	wantStatus(t, "empty", PrintInfo(env, new(cli.Flags), nil, false), exit.BadStream)
	wantStatus(t, "no file", PrintInfo(env, new(cli.Flags), []string{filepath.Join(dir, "missing")}, false), exit.NoInput)
	wantStatus(t, "two files", PrintInfo(env, new(cli.Flags), []string{"a", "b"}, false), exit.Usage)
}

// TestHugeSparse: holes cost nothing, however large they are.
func TestHugeSparse(t *testing.T) {
	const size = 1<<40 + 5
	sparse := func(data ...int64) *blockdev.File {
		f := imageFile(t, nil, true)
		if err := f.Truncate(size); err != nil {
			t.Skipf("no large files here: %v", err)
		}
		for _, off := range data {
			if _, err := f.WriteAt([]byte{1}, off); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	target, src := sparse(1<<30, 1<<39), sparse(1<<30, 1<<38, size-1)
	sig, _ := sign(t, FromImage(target), header(stream.XXH64, testBlock, size))
	if len(sig) > 200 {
		t.Errorf("the signature has %d bytes", len(sig))
	}
	delta, _, result := diff(t, sig, FromImage(src), 1, size)
	if result.Blocks != 3 || result.Bytes != 2*testBlock+5 || len(delta) > 500 {
		t.Errorf("%+v in %d bytes", result, len(delta))
	}
	d, err := verify(delta)
	if err != nil {
		t.Fatal(err)
	}
	if err := ProveOld(bytes.NewReader(delta), d, target); err != nil {
		t.Error(err)
	}
	apply(t, delta, d, target)
	if got, err := DigestOf(target, d.Header, uncounted); err != nil || got != result.Source {
		t.Errorf("digest %v (%v), want %v", got, err, result.Source)
	}

	// All of it against nothing, and nothing against all of it.
	none, _ := sign(t, FromImage(imageFile(t, nil, true)), header(stream.XXH64, testBlock, 0))
	if _, _, r := diff(t, none, FromImage(src), 1, size); r.Blocks != size/testBlock+1 || r.Bytes != size {
		t.Errorf("from nothing: %+v", r)
	}
	if _, _, r := diff(t, sig, FromImage(imageFile(t, nil, true)), 1, 0); r.Blocks != 0 || !r.Dropped {
		t.Errorf("to nothing: %+v", r)
	}
}
