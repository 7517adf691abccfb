package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// command is what the usage text of one says.
type command struct {
	name        string
	usage       string
	aliases     []string
	subcommands []string
	options     []option
	operands    kind
}

type option struct {
	names       []string // "-b", "--block-size"
	argument    string   // "SIZE", "" if it has none
	optional    bool     // given only as --name=value
	repeated    bool
	description string
}

// kind is what a word of the command line can be.
type kind int

const (
	anything kind = iota
	files
	directories
	domus
	hosts
)

// values has the words that an option takes, where its usage line says "NAME".
var values = map[string][]string{
	"--hash":       {"xxh64", "sha256"},
	"--toolstack":  {"auto", "virsh", "xl"},
	"--progress":   {"always", "auto", "never"},
	"--first-copy": {"spool", "in-place"},
	"--format":     {"xml", "xl"},
}

// placeholders says what an argument is that the usage calls so.
var placeholders = map[string]kind{
	"FILE": files, "SUMMARY": files, "OLD": files, "T": files, "RECORD": files,
	"DIR": directories, "DOMAIN": domus, "DOMU": domus, "DOMU/DISK": domus, "HOST": hosts, "DOM0": hosts,
}

// scripts are the commands that are no Go programs, by their files below scripts, and what else each is called. A
// script that is not there has none.
var scripts = []struct{ file, name, alias string }{
	{"xen-backup.sh", "xen-backup", "xen-backup.sh"},
	{"xen-failover.sh", "xen-failover", ""},
}

// readCommands reads the usage texts below the top of the tree.
func readCommands(top string) (commands []*command, err error) {
	sources, err := filepath.Glob(filepath.Join(top, "cmd/xb-*/main.go"))
	if err != nil || len(sources) == 0 {
		return nil, cmp.Or(err, errors.New("no commands below "+top))
	}
	for _, source := range sources {
		text, err := usageOf(source)
		if err != nil {
			return nil, err
		}
		commands = append(commands, parse(filepath.Base(filepath.Dir(source)), text))
	}
	for _, s := range scripts {
		text, err := os.ReadFile(filepath.Join(top, "scripts", s.file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		_, usage, found := strings.Cut(string(text), "<<'END'\n")
		usage, _, closed := strings.Cut(usage, "\nEND\n")
		if err != nil || !found || !closed {
			return nil, cmp.Or(err, errors.New(s.file+" has no usage text"))
		}
		c := parse(s.file, usage)
		c.name = s.name
		if s.alias != "" {
			c.aliases = []string{s.alias}
		}
		commands = append(commands, c)
	}
	return commands, nil
}

// usageOf returns the constant of that name in a Go file.
func usageOf(file string) (text string, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	err = fmt.Errorf("%s has no constant usage", file)
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && spec.Names[0].Name == "usage" && len(spec.Values) == 1 {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				text, err = strconv.Unquote(literal.Value)
			}
		}
		return true
	})
	return text, err
}

var (
	// "  -b, --block-size SIZE  compare ..."; a word in brackets may be missing, and is completed by nothing
	optionLine = regexp.MustCompile(`^ {2,6}(-\w)?(?:, )?(--[\w-]+)?(\[=([\w|]+)\]|=(\w+)| ([^\s[]\S*)| \[\w+\])?(?:  +(.*))?$`)
	moreLine   = regexp.MustCompile(`^ {8,}(\S.*)$`)
	inSynopsis = regexp.MustCompile(`\[?(--[a-z][\w-]*)`)
	synopsis   = regexp.MustCompile(`(?i)^(?:usage:| {6}) *(\S+) +([a-z]+)\b`)
)

// parse reads a usage text: lines of an option, which go on below, and the synopsis, which has the subcommands, and may
// have options that nothing needs to be said of.
func parse(name, text string) *command {
	c := &command{name: name, usage: text, operands: files}
	var last *option
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := optionLine.FindStringSubmatch(line); m != nil && m[1]+m[2] != "" {
			c.options = append(c.options, option{
				names:       slices.DeleteFunc([]string{m[1], m[2]}, func(s string) bool { return s == "" }),
				argument:    cmp.Or(m[4], m[5], m[6]),
				optional:    m[4] != "",
				description: m[7],
			})
			last = &c.options[len(c.options)-1]
			continue
		}
		m := moreLine.FindStringSubmatch(line)
		switch {
		case m != nil && last != nil:
			last.description = strings.TrimSpace(last.description + " " + m[1])
		default:
			last = nil
		}
		if m := synopsis.FindStringSubmatch(line); m != nil && m[1] == name && !slices.Contains(c.subcommands, m[2]) {
			c.subcommands = append(c.subcommands, m[2])
		}
		if strings.Contains(line, name) && regexp.MustCompile(`\b(DOMAIN|DOMU)\b`).MatchString(line) && name != "xb-patch" {
			c.operands = domus
		}
	}
	if len(c.subcommands) > 0 {
		c.operands = files
	}
	head, _, _ := strings.Cut(text, "\n\n")
	for _, m := range inSynopsis.FindAllStringSubmatch(head, -1) {
		if !slices.Contains(c.spellings(), m[1]) {
			c.options = append(c.options, option{names: []string{m[1]}})
		}
	}
	for i := range c.options {
		o := &c.options[i]
		o.repeated = strings.Contains(o.description, "may be repeated") || o.argument == "A=B"
		o.description = firstClause(o.description)
	}
	return c
}

// firstClause returns what stands before the details.
func firstClause(s string) string {
	for _, end := range []string{"; ", " (", ": "} {
		if before, _, _ := strings.Cut(s, end); before != "" && before[0] != '(' {
			s = before
		}
	}
	return strings.Join(strings.Fields(s), " ")
}

// words returns what the argument of an option can only be.
func (o *option) words() []string {
	for _, name := range o.names {
		if values[name] != nil {
			return values[name]
		}
	}
	if strings.Contains(o.argument, "|") && strings.ToLower(o.argument) == o.argument {
		return strings.Split(o.argument, "|")
	}
	return nil
}

// kind returns what the argument of an option is.
func (o *option) kind() kind {
	first, _, _ := strings.Cut(o.argument, "|")
	return placeholders[first]
}

// spellings returns all names of all options.
func (c *command) spellings() (all []string) {
	for _, o := range c.options {
		all = append(all, o.names...)
	}
	return all
}
