package stream

import (
	"encoding/json"
	"testing"
)

func someImages() map[string]Image {
	return map[string]Image{
		"xxh64:4096:16484:0fc0d4544e37bbc8": {4096, XXH64, 16484, Sum{0x0fc0d4544e37bbc8}},
		"xxh64:1048576:0:0000000000000000":  {1 << 20, XXH64, 0, Sum{}},
		"sha256:65536:4611686018427387904:00000000000000040000000000000003000000000000000200000000000000ff": {
			1 << 16, SHA256, MaxImageSize, Sum{0xff, 2, 3, 4}},
	}
}

func TestImageText(t *testing.T) {
	for text, image := range someImages() {
		if got := image.Text(); got != text {
			t.Errorf("%s, want %s", got, text)
		}
		if got, err := ParseImage(text); err != nil || got != image {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	image := Image{4096, XXH64, 16484, Sum{0x0fc0d4544e37bbc8}}
	if got := image.String(); got != "xxh64 0fc0d4544e37bbc8 of 16484 bytes in blocks of 4096" {
		t.Error(got)
	}
	for _, bad := range []string{
		"", ":::", "xxh64:4096:16484", "xxh64:4096:16484:0fc0d4544e37bbc8:", " xxh64:4096:1:0fc0d4544e37bbc8",
		"md5:4096:1:0fc0d4544e37bbc8", "sha256:4096:1:0fc0d4544e37bbc8", "xxh64:4097:1:0fc0d4544e37bbc8",
		"xxh64:4096:-1:0fc0d4544e37bbc8", "xxh64:4096:4611686018427387905:0fc0d4544e37bbc8",
		"xxh64:4096:01:0fc0d4544e37bbc8", "xxh64:4096:1K:0fc0d4544e37bbc8",
		"xxh64:4096:1:0fc0d4544e37bbc", "xxh64:4096:1:0fc0d4544e37bbcx", "xxh64:4096:1:0FC0D4544E37BBC8",
	} {
		if i, err := ParseImage(bad); err == nil {
			t.Errorf("%q is %v", bad, i)
		}
	}
}

func TestImageJSON(t *testing.T) {
	images := someImages()
	images["none"] = Image{}
	for _, image := range images {
		text, err := json.Marshal(image)
		if err != nil {
			t.Fatal(err)
		}
		var got Image
		if err := json.Unmarshal(text, &got); err != nil || got != image {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	text, _ := json.Marshal(images["xxh64:4096:16484:0fc0d4544e37bbc8"])
	if want := `{"size":16484,"block_size":4096,"hash":"xxh64","digest":"0fc0d4544e37bbc8"}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	for _, bad := range []string{
		`""`, `{"size":1}`, `{"size":1,"block_size":4096,"hash":"xxh64"}`,
		`{"size":1,"block_size":4096,"hash":"xxh64","digest":"00"}`,
		`{"size":-1,"block_size":4096,"hash":"xxh64","digest":"0fc0d4544e37bbc8"}`,
	} {
		var i Image
		if err := json.Unmarshal([]byte(bad), &i); err == nil {
			t.Errorf("%s is %v", bad, i)
		}
	}
}

func TestCompareImages(t *testing.T) {
	i := Image{4096, XXH64, 1, Sum{1}}
	for name, test := range map[string]struct {
		other            Image
		comparable, same bool
	}{
		"same":               {Image{4096, XXH64, 1, Sum{1}}, true, true},
		"another size":       {Image{4096, XXH64, 2, Sum{1}}, true, false},
		"another sum":        {Image{4096, XXH64, 1, Sum{2}}, true, false},
		"another block size": {Image{8192, XXH64, 1, Sum{1}}, false, false},
		"another hash":       {Image{4096, SHA256, 1, Sum{1}}, false, false},
		"none":               {Image{}, false, false},
	} {
		if i.Comparable(test.other) != test.comparable || (i == test.other) != test.same {
			t.Errorf("%s: comparable %v, same %v", name, i.Comparable(test.other), i == test.other)
		}
	}
}
