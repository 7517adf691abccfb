package text

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "4096": 4096, "007": 7, "1b": 1, "4K": 4096, "4k": 4096, "4kb": 4096, "4KiB": 4096, "4KIB": 4096,
		"1M": 1 << 20, "1g": 1 << 30, "2T": 2 << 40, "1.5G": 3 << 29, "0.5k": 512, ".5K": 512, "1.0001K": 1024,
		"9223372036854775807": math.MaxInt64, "8388607T": 8388607 << 40,
	} {
		if n, err := ParseSize(s); n != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "K", ".", ".K", "-1", "+1", " 1", "1 ", "1 K", "1.5", "1.5b", "1..5K", "1KK", "1KI",
		"1i", "1bk", "1P", "1E3", "0x10",
		"1e3K", "1_000", "NaN", "InfK", "9223372036854775808", "8388608T", "9999999999999999999999T", "8388608.5T", "1,5K",
		"K1"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q is taken for %d", s, n)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: the message does not say it: %v", s, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 4096: "4096 B", 10239: "10239 B", 10240: "10.0 KiB", 3 << 29: "1.5 GiB", 1 << 20: "1.0 MiB",
		1 << 40: "1.0 TiB", 5 << 50: "5120.0 TiB", math.MaxInt64: "8388608.0 TiB",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
