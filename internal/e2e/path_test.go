package e2e

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// fileURI writes a name as a wrapper does: all but a few characters percent-encoded, so
// that no shell finds anything in it.
func (h *host) fileURI(name string) string {
	uri := "file://"
	for _, c := range []byte(h.path(name)) {
		if c < utf8.RuneSelf && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)) || strings.IndexByte("/._-", c) >= 0) {
			uri += string(rune(c))
		} else {
			uri += fmt.Sprintf("%%%02X", c)
		}
	}
	return uri
}

// TestLongFileURIs demands that any name reaches the far side, where a shell takes the command
// line apart.
func TestLongFileURIs(t *testing.T) {
	h := newHost(t)
	ssh := h.startSSHD("")
	for i, name := range []string{"Windows 10.img", "grün.img", "a\nb.img", "100%.img", "%41.img", "a'b\"c$(id)*?#.img",
		"file:x", " ", "\xff"} {
		source, target := "source of "+name, name
		h.image(source, mib, uint64(i))
		h.image(target, mib, uint64(i+10))
		uri := h.fileURI(target)
		r := h.pipe(ssh+" xb-sig "+uri, "xb-delta "+h.fileURI(source), ssh+" xb-patch "+uri)
		r.fails(t, 0, "first contact")
		if h.digest(source) != h.digest(target) {
			t.Errorf("%q is not its source", name)
		}
	}
	h.sh("xb-patch --state ./file:x").silent(t)
	h.sh("xb-patch --state file:x").fails(t, 64, "./file:")
	h.sh("xb-patch --state file://dom0b"+h.path("Windows%2010.img")).fails(t, 64, "dom0b")
	h.must("xb-sig --summary " + h.fileURI("su m") + " 'Windows 10.img' >'s ig' && test -s 'su m'")
	h.must("xb-delta --check --signature " + h.fileURI("s ig") + " 'Windows 10.img'")
	h.must("xb-sig --info " + h.fileURI("s ig"))
}
