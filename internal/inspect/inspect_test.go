package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

var goldenInfo = map[string]struct {
	want  info
	words []string
}{
	"signature-xxh64": {info{Kind: "signature", Version: 1, BlockSize: 4096, Hash: "xxh64", Bytes: 135,
		Image: &image{4096, stream.XXH64, 16484, stream.Sum{0x0fc0d4544e37bbc8}}, Records: 3, Hashed: new(int64(3)), Zero: 2},
		[]string{"signature, version 1, complete", "16484 bytes (16.1 KiB)", "0fc0d4544e37bbc8", "3 hashed, 2 zero"}},
	"delta-xxh64": {info{Kind: "delta", Version: 1, BlockSize: 4096, Hash: "xxh64", Bytes: 152,
		Basis:   &image{4096, stream.XXH64, 8192, stream.Sum{0x4ca1f5fb054526ad}},
		Source:  &image{4096, stream.XXH64, 12291, stream.Sum{0x43a9b8a39ced8c78}},
		Records: 3, Frames: new(int64(1)), Literal: new(int64(1)), Zero: 2, RawBytes: new(int64(3))},
		[]string{"delta, version 1, complete", "4ca1f5fb054526ad", "43a9b8a39ced8c78", "3 in 1 frames", "1 literal, 2 zero"}},
}

func TestGolden(t *testing.T) {
	for name, test := range goldenInfo {
		b := testkit.Golden(t, name)
		var object, words bytes.Buffer
		err := errors.Join(JSON(bytes.NewReader(b), &object), Text(bytes.NewReader(b), &words))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		test.want.Bytes = int64(len(b))
		if want, _ := json.Marshal(test.want); object.String() != string(want)+"\n" {
			t.Errorf("%s:\n%swant\n%s", name, object.String(), want)
		}
		for _, word := range test.words {
			if !strings.Contains(words.String(), word) {
				t.Errorf("%s: %q is missing in\n%s", name, word, words.String())
			}
		}
	}
}

// TestNothingInPart: what is not a whole stream is refused without a word on it.
func TestNothingInPart(t *testing.T) {
	refused := func(b []byte, status int) {
		t.Helper()
		for _, describe := range []func(io.Reader, io.Writer) error{Text, JSON} {
			var out bytes.Buffer
			if err := describe(bytes.NewReader(b), &out); exit.StatusOf(err) != status || out.Len() > 0 {
				t.Errorf("%d bytes: %v, want status %d; said %q", len(b), err, status, out.String())
			}
		}
	}
	refused([]byte("Last login: today\n"), exit.NotOurs)
	for name := range goldenInfo {
		b := testkit.Golden(t, name)
		const magic = 8 // bytes; less than that is no delta either
		for n := magic; n < len(b); n++ {
			refused(b[:n], exit.BadStream)
		}
		refused(append(b, 0), exit.BadStream)
	}
}
