package extent

import (
	"bufio"
	"fmt"
	"io"
)

// WriteText writes the text form of a set: offset and length of each extent, in bytes as
// decimal numbers with a space between them, one extent a line, in ascending order; and at
// last a line "end EXTENTS BYTES" with how many there were and their length together, by
// which a list that was cut is known.
func (e *Set) WriteText(w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<16)
	var extents, bytes int64
	for off, n := range e.All {
		if _, err := fmt.Fprintln(b, off, n); err != nil {
			return err
		}
		extents, bytes = extents+1, bytes+n
	}
	fmt.Fprintln(b, "end", extents, bytes) // its error is Flush's
	return b.Flush()
}
