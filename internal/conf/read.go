// Package conf: what the administrator asks for. A conf file is read as bash reads it, and nothing of it is guessed.
//
// Since 2009 conf files are shell variables that xen-backup.sh has sourced, with all that a shell allows. So each is
// still sourced, by a bash of its own (bash.go), and its settings are what that bash says that they are. A file of which
// bash complains is refused as a whole: "MAP = x" is a command that is not found, and no MAP. Settings, and what they
// may be, stand in settings.go and nowhere else.
package conf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Words takes what is to be said, a line each.
type Words interface {
	Error(format string, args ...any)
	Warn(format string, args ...any)
	// Lost takes the error of a conf file that has no effect.
	Lost(err error)
}

// Dir is a directory of conf files.
type Dir struct {
	Path  string
	Limit time.Duration // that each file may take; 0: a minute
}

const defaultLimit = time.Minute

// maxLines is how much of what a conf file prints is told.
const maxLines = 100

// file is one that is being read.
type file struct {
	path, text string
	answer     *sourced
	said       []string
}

// Read reads all files *.conf, or those of the DomUs in only, in the order of their names. Those that have a mistake
// are said, and missing in confs; then, and if there is none for a DomU that is asked for, the status is Config.
func (d Dir) Read(ctx context.Context, only []string, words Words) (confs []*Conf, err error) {
	paths, err := d.files()
	if err != nil {
		return nil, err
	}
	lost := false
	lose := func(err error) {
		lost = true
		words.Lost(err)
	}
	var known []string  // DomUs that have a file
	var unread []string // one of them may be of one that is asked for
	for i, path := range paths {
		f, err := d.read(ctx, path)
		if err != nil {
			f.report(words.Error, "")
			lose(f.mistake(err))
			continue
		}
		c := newConf(i+1, f.answer.values)
		asked := len(only) == 0 || slices.Contains(only, c.DomU())
		known = append(known, c.DomU())
		switch {
		case f.isComplainedOf() && asked:
			f.report(words.Error, "")
			lose(f.mistake(errNoConf))
		case f.isComplainedOf():
			unread = append(unread, path)
		case asked:
			f.report(words.Warn, path+": ")
			f.warnOfNames(words)
			if err := c.check(); err != nil {
				lose(f.mistake(err))
				continue
			}
			confs = append(confs, c)
		}
	}
	for _, domu := range only {
		if !slices.Contains(known, domu) {
			lose(missing(domu, unread))
		}
	}
	if lost {
		return confs, exit.Answer(exit.Config)
	}
	return confs, nil
}

// files returns the names of all of them. None at all is nobody's intention.
func (d Dir) files() (paths []string, err error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, exit.Fail(exit.Config, "no directory of conf files: %w", err)
	}
	for _, entry := range entries {
		if name := entry.Name(); filepath.Ext(name) == ".conf" && !strings.HasPrefix(name, ".") {
			// Bash looks for a name without a slash in PATH.
			paths = append(paths, strings.TrimRight(d.Path, "/")+"/"+name)
		}
	}
	if len(paths) == 0 {
		return nil, exit.Fail(exit.Config, "no conf file in %s", d.Path)
	}
	return paths, nil
}

var errNoConf = errors.New("not a file of shell variables, or it sets what is for the whole run, or it ends the script")

// read has the file sourced. What fails here has no settings at all.
func (d Dir) read(ctx context.Context, path string) (*file, error) {
	f := &file{path: path}
	// A pipe would stop us, and bash sources no directory, but goes on.
	if info, err := os.Stat(path); err != nil {
		return f, fmt.Errorf("cannot be read: %w", exit.Cause(err))
	} else if !info.Mode().IsRegular() {
		return f, errors.New("is no file")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return f, fmt.Errorf("cannot be read: %w", exit.Cause(err))
	}
	f.text = string(text)
	limit := d.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	answer, said, err := source(ctx, limit, d.Path, path)
	for line := range strings.Lines(said) {
		f.said = append(f.said, ascii(strings.TrimRight(line, "\r\n")))
	}
	if err != nil {
		return f, fmt.Errorf("cannot be read: %w", err)
	}
	if answer == nil {
		return f, errNoConf
	}
	f.answer = answer
	return f, nil
}

// isComplainedOf reports whether bash has found a mistake in it.
func (f *file) isComplainedOf() bool {
	return slices.ContainsFunc(f.said, func(line string) bool { return strings.Contains(line, ascii(f.path)+": line ") })
}

// report tells what was printed.
func (f *file) report(say func(string, ...any), prefix string) {
	for i, line := range f.said {
		if i == maxLines {
			say("%s(and %d more lines)", prefix, len(f.said)-i)
			return
		}
		say("%s%s", prefix, line)
	}
}

// mistake names the file, and says what is not seen in an editor.
func (f *file) mistake(err error) error {
	hint := ""
	if strings.Contains(f.text, "\r\n") {
		hint = " (its lines end with CR LF, as on Windows; here they must not)"
	}
	return exit.Fail(exit.Config, "%s: %w%s", f.path, err, hint)
}

func missing(domu string, unread []string) error {
	if len(unread) == 0 {
		return exit.Fail(exit.Config, "no conf file for DomU %s", domu)
	}
	return exit.Fail(exit.Config, "no conf file for DomU %s, unless it is one with a mistake, which bash -n FILE shows: %s",
		domu, strings.Join(unread, " "))
}

var (
	capitals = text.Pattern(`^[A-Z][A-Z0-9_]*$`)
	// bashNames are of variables that bash sets or heeds.
	bashNames = []string{"CDPATH", "COLUMNS", "COPROC", "COPROC_PID", "DIRSTACK", "FUNCNAME", "GLOBIGNORE", "LINES", "MAPFILE",
		"OLDPWD", "OPTARG", "PIPESTATUS", "REPLY", "TIMEFORMAT", "TMOUT"}
)

// warnOfNames finds names that the file has set to no effect; what is exported is for a program.
func (f *file) warnOfNames(words Words) {
	for _, name := range f.answer.names {
		if capitals().MatchString(name) && !strings.HasPrefix(name, "BASH") && !slices.Contains(bashNames, name) &&
			!isSetting(name) && !f.uses(name) {
			words.Warn("%s: %s is no setting, and nothing uses it", f.path, name)
		}
	}
}

// uses reports whether the name stands somewhere where it is not set.
func (f *file) uses(name string) bool {
	return regexp.MustCompile(`(^|[^A-Za-z0-9_])` + name + `([^A-Za-z0-9_=+]|$)`).MatchString(f.text)
}

// ascii returns a line that cannot steer a terminal, and that passes through every syslog.
func ascii(line string) string {
	clean := []byte(line)
	for i, c := range clean {
		switch {
		case c == '\t' || c == '\n':
			clean[i] = ' '
		case c < ' ' || c > '~':
			clean[i] = '?'
		}
	}
	return string(clean)
}
