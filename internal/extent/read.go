package extent

import (
	"bufio"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"

	"xen-backup/internal/exit"
)

// maxLine is longer than any line of the text form, in bytes.
const maxLine = 64

// Reader reads the text form of a set, one extent after another: a list of any length takes no
// memory. What it does not find whole, in order and as it is counted at the end is an error
// (status BadStream), because an extent that is lost on the way is a change that nobody copies.
type Reader struct {
	in             *bufio.Reader
	lines          int
	extents, bytes int64
	end            int64 // of the extent before
}

// NewReader returns a reader of a list.
func NewReader(in io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(in, 1<<16)} }

// Next returns the next extent. They are in ascending order and do not overlap. After the last,
// when the end line was found to be right and nothing to follow it, the error is io.EOF.
func (r *Reader) Next() (off, n int64, err error) {
	line, err := r.line()
	if err != nil {
		return 0, 0, err
	}
	first, rest, _ := strings.Cut(line, " ")
	if first == "end" {
		return 0, 0, r.finish(rest)
	}
	off, offOK := number(first)
	n, nOK := number(rest)
	switch {
	case !offOK || !nOK || n == 0 || off > math.MaxInt64-n:
		return 0, 0, r.bad("%q is not OFFSET LENGTH", line)
	case off < r.end:
		return 0, 0, r.bad("%q begins before the end of the extent before it: they must be in order and not overlap", line)
	}
	r.end = off + n
	r.extents, r.bytes = r.extents+1, r.bytes+n
	return off, n, nil
}

// Bytes returns the length of all extents that were read, together.
func (r *Reader) Bytes() int64 { return r.bytes }

// finish demands that the list ends with the counts in its end line.
func (r *Reader) finish(counts string) error {
	extents, bytes, _ := strings.Cut(counts, " ")
	if extents != strconv.FormatInt(r.extents, 10) || bytes != strconv.FormatInt(r.bytes, 10) {
		return r.bad("its end line tells of %q, and there were %d %d", counts, r.extents, r.bytes)
	}
	switch _, err := r.in.ReadByte(); err {
	case io.EOF:
		return io.EOF
	case nil:
		return r.bad("there is more after its end line")
	default:
		return err
	}
}

// line returns the next line, which must have its end: a number may be cut and still be one.
func (r *Reader) line() (string, error) {
	line, err := r.in.ReadSlice('\n')
	switch {
	case err == io.EOF && r.lines == 0 && len(line) == 0:
		return "", exit.Fail(exit.BadStream, "empty input where a list of extents should be: the stage before this one failed")
	case err == io.EOF && len(line) <= maxLine:
		return "", exit.Fail(exit.BadStream, "the list of extents is cut: it ends before its end line")
	case errors.Is(err, bufio.ErrBufferFull), len(line) > maxLine:
		r.lines++
		return "", r.bad("%q... is not OFFSET LENGTH", line[:maxLine])
	case err != nil:
		return "", err
	}
	r.lines++
	return string(line[:len(line)-1]), nil
}

func (r *Reader) bad(format string, args ...any) error {
	return exit.Fail(exit.BadStream, "bad list of extents: line %d: "+format, append([]any{r.lines}, args...)...)
}

// number reads a number as WriteText writes it.
func number(s string) (n int64, ok bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}
