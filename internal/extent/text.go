package extent

import (
	"bufio"
	"fmt"
	"io"
)

// WriteText writes the text form of a set: offset and length of each extent, in bytes as
// decimal numbers with a space between them, one extent a line, in ascending order.
func (e *Set) WriteText(w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<16)
	for off, n := range e.All {
		if _, err := fmt.Fprintln(b, off, n); err != nil {
			return err
		}
	}
	return b.Flush()
}
