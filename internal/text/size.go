package text

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a size in bytes: a decimal number, alone or with a unit K, M,
// G or T (also KB, KiB, ...), in any case, each 1024 times the one before. The
// number may have a fraction if there is a unit ("1.5G"). Negative, empty and
// larger than 2^63-1 are errors.
func ParseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "kKmMgGtTiIbB")
	shift, ok := map[string]int{
		"": 0, "b": 0,
		"k": 10, "kb": 10, "kib": 10,
		"m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40,
	}[strings.ToLower(s[len(number):])]
	if !ok || number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, fmt.Errorf("bad size %q: want a number, alone or with K, M, G or T", s)
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("bad size %q: too large", s)
		}
		return n << shift, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || shift == 0 {
		return 0, fmt.Errorf("bad size %q: want a number, alone or with K, M, G or T", s)
	}
	f *= float64(int64(1) << shift)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("bad size %q: too large", s)
	}
	if f > 0 && f < 1 {
		return 0, fmt.Errorf("bad size %q: less than a byte", s)
	}
	return int64(f), nil
}

// FormatSize renders n bytes for people: "4096 B", "1.5 GiB".
func FormatSize(n int64) string {
	if n < 10*1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 4 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %s", f, [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
}
