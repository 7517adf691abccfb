// Where a host keeps what it remembers is its own business: whoever sends to it need not know.

package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// DefaultDir is where the state is kept unless --state-dir, XB_STATE_DIR or HostConf say otherwise.
const DefaultDir = "/var/lib/xen-backup"

// HostConf is the file that says where this host keeps its state and its spools.
const HostConf = "/etc/xen-backup/host.conf"

var hostConf = HostConf // of another name in tests

// Places are where a host keeps what it remembers.
type Places struct {
	Dir   Dir
	Spool string // the directory of spools; "": below Dir
	Limit int    // percent of a pool or file system, above which bases and points in time give way; 0: DefaultLimit
	Keep  *Keep  // which points in time of its standbys stay, at most; nil: the file does not say
}

// DefaultLimit is Limit unless POOL_LIMIT in HostConf says otherwise.
const DefaultLimit = 80

// ParseLimit reads a Limit.
func ParseLimit(s string) (percent int, err error) {
	percent, err = strconv.Atoi(s)
	if err != nil || percent < 1 || percent > 99 {
		return 0, fmt.Errorf("%q is no number of percent from 1 to 99", s)
	}
	return percent, nil
}

// Find returns the places to use. The state directory is flag if that is not empty, else XB_STATE_DIR, else what
// HostConf says, else DefaultDir. The file is of the host's own state directory: with another one it is not read.
func Find(flag string) (Places, error) {
	if dir := cmp.Or(flag, os.Getenv("XB_STATE_DIR")); dir != "" {
		return Places{Dir: Dir(dir)}, nil
	}
	text, err := readHostConf()
	if err != nil {
		return Places{}, exit.Fail(exit.Config, "cannot read where this host keeps its state: %w", err)
	}
	p := Places{Dir: DefaultDir}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if err := p.set(strings.TrimSpace(line)); err != nil {
			return Places{}, exit.Fail(exit.Config, "%s: line %d: %w", hostConf, number, err)
		}
	}
	return p, p.check()
}

// check demands that the state directory is there. One that was made anew, below a file system that is not mounted, would
// make strangers of all standbys. The default one is below /var/lib, which is mounted where anything works.
func (p Places) check() error {
	info, err := os.Stat(string(p.Dir))
	if p.Dir == DefaultDir || err == nil && info.IsDir() {
		return nil
	}
	return exit.Fail(exit.Config, "%s: STATE_DIR: %s is no directory: is its file system not mounted? A new one: mkdir -m 700 %s",
		hostConf, p.Dir, p.Dir)
}

// readHostConf returns what HostConf holds, "" if there is none. A link to nowhere is one that cannot be read: with
// the default in its place the state would be kept in two places. Nothing is waited for, as a pipe would have it.
func readHostConf() (string, error) {
	if _, err := os.Lstat(hostConf); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	text, err := durable.ReadSmall(hostConf)
	return string(text), err
}

// set takes a line NAME=VALUE, as a shell would. A name that is not known may be one mistyped, and the state be kept
// in two places for that.
func (p *Places) set(line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		return errors.New("want NAME=VALUE")
	}
	value, err := unquote(value)
	if err != nil {
		return err
	}
	switch name {
	case "POOL_LIMIT":
		p.Limit, err = ParseLimit(value)
		return err
	case "KEEP":
		p.Keep, err = ParseKeep(value)
		return err
	}
	if !filepath.IsAbs(value) {
		return errors.New(name + " wants an absolute path")
	}
	switch name {
	case "STATE_DIR":
		p.Dir = Dir(value)
	case "SPOOL_DIR":
		p.Spool = value
	default:
		return errors.New(name + " is no setting of this file, which has STATE_DIR, SPOOL_DIR, POOL_LIMIT and KEEP")
	}
	return nil
}

// unquote returns what a shell would take a value for, or an error where that is more than a word.
func unquote(s string) (string, error) {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') {
		if end := 1 + strings.IndexByte(s[1:], s[0]); end > 0 && isComment(s[end+1:]) {
			return plain(s[1:end], `"'\$`+"`")
		}
		return "", errors.New("its quotes are wrong")
	}
	word, rest, _ := strings.Cut(strings.ReplaceAll(s, "\t", " "), " ")
	if !isComment(rest) {
		return "", errors.New("a value with blanks needs quotes")
	}
	return plain(word, "\"'\\$`;&|<>()*?#")
}

func isComment(s string) bool {
	s = strings.TrimSpace(s)
	return s == "" || s[0] == '#'
}

func plain(s, special string) (string, error) {
	if strings.ContainsAny(s, special) {
		return "", errors.New("a value is a path, without anything that means something to a shell")
	}
	return s, nil
}
