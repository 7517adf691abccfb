package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
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
		return "", Fail(Usage, "bad URI %s: %w", arg, err)
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

// ParsePaths is Parse where all operands are paths.
func (f *Flags) ParsePaths(args []string) (paths []string, err error) {
	paths, err = f.Parse(args)
	for i := range paths {
		if err == nil {
			paths[i], err = Path(paths[i])
		}
	}
	return paths, err
}

// Path registers an option whose argument is a path.
func (f *Flags) Path(p *string, names string) {
	f.Func(names, func(s string) (err error) {
		if s == "" {
			return errEmpty
		}
		*p, err = Path(s)
		return err
	})
}
