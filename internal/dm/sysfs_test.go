package dm

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestMajorMinor(t *testing.T) {
	for _, c := range []struct {
		major, minor uint32
		text, xen    string
	}{
		{8, 0, "8:0", "8:0"},
		{253, 17, "253:17", "fd:11"},
		{253, 256, "253:256", "fd:100"},
		{4095, 1<<20 - 1, "4095:1048575", "fff:fffff"},
	} {
		rdev := unix.Mkdev(c.major, c.minor)
		if got := MajorMinor(rdev); got != c.text || Major(rdev) != uint64(c.major) {
			t.Errorf("%s: %s, major %d", c.text, got, Major(rdev))
		}
		for base, text := range map[int]string{10: c.text, 16: c.xen} {
			if got, err := ParseMajorMinor(text, base); got != rdev || err != nil {
				t.Errorf("%s: %#x, want %#x (%v)", text, got, rdev, err)
			}
		}
	}
	for _, text := range []string{"", "8", "8:", ":0", "8:0:0", "4096:0", "8:1048576", "-1:0", "a:0"} {
		if rdev, err := ParseMajorMinor(text, 10); err == nil {
			t.Errorf("%q: %#x", text, rdev)
		}
	}
}
