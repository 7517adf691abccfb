package text

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Printable returns s with everything that could steer a terminal escaped.
func Printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r == utf8.RuneError { // mostly a byte that is not UTF-8: show that byte
			fmt.Fprintf(&b, "\\x%02x", s[i])
			continue
		}
		if (r < ' ' && r != '\t') || (r >= 0x7f && r < 0xa0) {
			fmt.Fprintf(&b, "\\x%02x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
