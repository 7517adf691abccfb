package text

import "testing"

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain\ttext": "plain\ttext", "Grüße, 世界": "Grüße, 世界",
		"\x1b[2J": `\x1b[2J`, "a\x00b": `a\x00b`, "\x7f": `\x7f`, "\r\n": `\x0d\x0a`,
		"\u009b31m": `\x9b31m`, "\x89PNG": `\x89PNG`, "\xff\xfe": `\xff\xfe`, "\xe2\x82": `\xe2\x82`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
