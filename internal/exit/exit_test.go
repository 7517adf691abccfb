package exit

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
)

func TestStatusOf(t *testing.T) {
	inner := Fail(NotBasis, "inner")
	for name, test := range map[string]struct {
		err    error
		status int
	}{
		"nil":                  {nil, OK},
		"unclassified":         {io.ErrUnexpectedEOF, IOError},
		"classified":           {inner, NotBasis},
		"wrapped":              {fmt.Errorf("outer: %w", inner), NotBasis},
		"classified again":     {Fail(Internal, "outer: %w", inner), Internal},
		"joined":               {errors.Join(io.EOF, inner), NotBasis},
		"answer":               {Answer(No), No},
		"no such file":         {OpenFailed(fmt.Errorf("x: %w", error(syscall.ENOENT))), NoInput},
		"file in another file": {OpenFailed(fmt.Errorf("x: %w", error(syscall.ENOTDIR))), NoInput},
		"no permission":        {OpenFailed(errors.New("permission denied")), IOError},
	} {
		if got := StatusOf(test.err); got != test.status {
			t.Errorf("%s: %d, want %d", name, got, test.status)
		}
	}
	if err := Fail(IOError, "cannot read: %w", io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) ||
		err.Error() != "cannot read: unexpected EOF" {
		t.Error(err)
	}
}
