package extent

import (
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

func TestWriteText(t *testing.T) {
	e := NewSet(10, 1005)
	var text strings.Builder
	if err := e.WriteText(&text); err != nil || text.String() != "end 0 0\n" {
		t.Errorf("nothing: %q, %v", text.String(), err)
	}
	text.Reset()
	for _, off := range []int64{1003, 45, 39, 0} {
		e.Add(off, 1)
	}
	if err := e.WriteText(&text); err != nil || text.String() != "0 10\n30 20\n1000 5\nend 3 35\n" {
		t.Errorf("%q, %v", text.String(), err)
	}
}

func TestWriteTextFails(t *testing.T) {
	const size = 1_000_000
	e := NewSet(1, size)
	for off := int64(0); off < size; off += 2 {
		e.Add(off, 1)
	}
	var text strings.Builder
	e.WriteText(&text)
	for _, room := range []int{0, 1, 100_000, text.Len() - 1} {
		if err := e.WriteText(&testkit.FullWriter{Room: room}); err != testkit.ErrFull {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}
