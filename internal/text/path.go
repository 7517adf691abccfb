package text

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/exit"
)

// Path returns the path that an argument means: the argument itself, or that in a file:
// URI (RFC 8089), which carries any name through a remote shell and a log. A file that is
// really called so is reached as ./file:NAME. The errors of a URI have status Usage.
func Path(arg string) (string, error) {
	const scheme = "file:"
	if len(arg) < len(scheme) || !strings.EqualFold(arg[:len(scheme)], scheme) {
		return arg, nil
	}
	path, err := pathInURI(arg[len(scheme):])
	if err != nil {
		return "", exit.Fail(exit.Usage, "bad URI %s: %w", arg, err)
	}
	return path, nil
}

func pathInURI(rest string) (string, error) {
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		host, _, _ := strings.Cut(after, "/")
		if host != "" && !strings.EqualFold(host, "localhost") {
			return "", fmt.Errorf("it is of the host %s, not of this one", host)
		}
		rest = after[len(host):]
	}
	if !strings.HasPrefix(rest, "/") {
		return "", errors.New("want file:///PATH; a file of that name is ./file:NAME")
	}
	if strings.ContainsAny(rest, "?#") {
		return "", errors.New("? and # in a name are %3F and %23 in a URI")
	}
	path, err := url.PathUnescape(rest)
	if err != nil {
		return "", err
	}
	if strings.Contains(path, "\x00") {
		return "", errors.New("no name has a zero byte")
	}
	return path, nil
}

// Operand returns what a path has to be written as on a command line that is told as a
// cure: as a URI where a shell would take it for something else, also that of ssh, or a rule
// A=B for its end.
func Operand(path string) string {
	safe := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/._-", c) >= 0
	}
	shell := func(c byte) bool { return safe(c) || strings.IndexByte("+:@", c) >= 0 }
	if all([]byte(path), shell) && !strings.HasPrefix(path, "-") {
		return path
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	var uri strings.Builder
	uri.WriteString("file://")
	for _, c := range []byte(absolute) {
		if safe(c) {
			uri.WriteByte(c)
		} else {
			fmt.Fprintf(&uri, "%%%02X", c)
		}
	}
	return uri.String()
}

func all(b []byte, is func(byte) bool) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return !is(c) })
}
