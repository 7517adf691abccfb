package domain

import (
	"errors"
	"path/filepath"
	"strings"

	"xen-backup/internal/text"
)

// Places are what the disks of another host are on this one: paths by paths.
type Places map[string]string

// Add takes a rule A=B: what is A there is B here. Both are absolute paths or file: URIs.
func (p *Places) Add(rule string) error {
	from, to, ok := strings.Cut(rule, "=")
	switch {
	case !ok:
		return errors.New("want A=B")
	case strings.Contains(to, "="):
		return errors.New("want one =; in a file: URI another is %3D: " + rule)
	}
	from, err := localPath(from)
	if err != nil {
		return err
	}
	to, err = localPath(to)
	if err != nil {
		return err
	}
	if *p == nil {
		*p = make(Places)
	}
	if other, ok := (*p)[from]; ok && other != to {
		return errors.New(from + " cannot be both " + other + " and " + to)
	}
	for a, b := range *p {
		if b == to && a != from {
			return errors.New(a + " and " + from + " cannot both be " + to)
		}
	}
	(*p)[from] = to
	return nil
}

// localPath takes an absolute path or a file: URI.
func localPath(s string) (string, error) {
	path, err := text.Path(s)
	if err == nil && !strings.HasPrefix(path, "/") {
		err = errors.New("it is no absolute path: " + path)
	}
	return filepath.Clean(path), err
}
