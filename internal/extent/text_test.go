package extent

import (
	"errors"
	"strings"
	"testing"
)

func TestWriteText(t *testing.T) {
	e := NewSet(10, 1005)
	var text strings.Builder
	if err := e.WriteText(&text); err != nil || text.String() != "" {
		t.Errorf("nothing: %q, %v", text.String(), err)
	}
	for _, off := range []int64{1003, 45, 39, 0} {
		e.Add(off, 1)
	}
	if err := e.WriteText(&text); err != nil || text.String() != "0 10\n30 20\n1000 5\n" {
		t.Errorf("%q, %v", text.String(), err)
	}
}

// full takes so many bytes, and no more.
type full int

var errFull = errors.New("full")

func (w *full) Write(b []byte) (int, error) {
	n := min(len(b), int(*w))
	if *w -= full(n); n < len(b) {
		return n, errFull
	}
	return n, nil
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
		w := full(room)
		if err := e.WriteText(&w); err != errFull {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}
