package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Flags parses options as getopt_long does: --name, --name=value, --name value,
// clusters of short options (-qv, -b4K), options after operands, and -- to end
// them. A lone - is an operand.
type Flags struct {
	options map[string]*option
	given   []string // as they were written: "--size", "-b"
}

type option struct {
	argument argument
	set      func(string) error
}

type argument int

const (
	noArgument argument = iota
	needsArgument
	mayHaveArgument // only as --name=value
)

// errHelp and errVersion end a run that only prints: see Main.
var (
	errHelp    = errors.New("help asked for")
	errVersion = errors.New("version asked for")
)

var errEmpty = errors.New("it is empty")

// add registers set under each of the comma-separated names; a name of one
// letter is a short option.
func (f *Flags) add(names string, a argument, set func(string) error) {
	if f.options == nil {
		f.options = make(map[string]*option)
	}
	for _, name := range strings.Split(names, ",") {
		f.options[name] = &option{a, set}
	}
}

// Bool registers an option without argument that sets *p.
func (f *Flags) Bool(p *bool, names string) {
	f.add(names, noArgument, func(string) error { *p = true; return nil })
}

// String registers an option whose argument is stored in *p. An empty one, which
// mostly comes of an unset variable, is an error.
func (f *Flags) String(p *string, names string) {
	f.Func(names, func(s string) error {
		if *p = s; s == "" {
			return errEmpty
		}
		return nil
	})
}

// Size registers an option whose argument is a size in bytes (see ParseSize).
func (f *Flags) Size(p *int64, names string) {
	f.Func(names, func(s string) (err error) { *p, err = text.ParseSize(s); return err })
}

// Path registers an option whose argument is a path.
func (f *Flags) Path(p *string, names string) {
	f.Func(names, func(s string) (err error) {
		if s == "" {
			return errEmpty
		}
		*p, err = text.Path(s)
		return err
	})
}

// Func registers an option that needs an argument and is handled by set.
func (f *Flags) Func(names string, set func(string) error) {
	f.add(names, needsArgument, set)
}

// OptionalFunc registers an option that may have an argument, given as
// --name=value; without one set gets "".
func (f *Flags) OptionalFunc(names string, set func(string) error) {
	f.add(names, mayHaveArgument, set)
}

// Parse handles args and returns the operands. Its errors have status Usage.
func (f *Flags) Parse(args []string) (operands []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			operands, args = append(operands, args...), nil
		case strings.HasPrefix(arg, "--"):
			args, err = f.long(arg[2:], args)
		case strings.HasPrefix(arg, "-") && arg != "-":
			args, err = f.cluster(arg[1:], args)
		default:
			operands = append(operands, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	if slices.Contains(operands, "") {
		return nil, exit.Fail(exit.Usage, "an operand is empty")
	}
	return operands, nil
}

// ParsePaths is Parse where all operands are paths.
func (f *Flags) ParsePaths(args []string) (paths []string, err error) {
	paths, err = f.Parse(args)
	for i := range paths {
		if err == nil {
			paths[i], err = text.Path(paths[i])
		}
	}
	return paths, err
}

// Only returns an error (status Usage) if options were given that do not go with
// mode, which is one: others than those allowed and the common ones.
func (f *Flags) Only(mode string, allowed ...string) error {
	allowed = append(allowed, mode, "-v", "--verbose", "-q", "--quiet", "--words")
	for _, name := range f.given {
		if !slices.Contains(allowed, name) {
			return exit.Fail(exit.Usage, "%s does not go with %s", name, mode)
		}
	}
	return nil
}

// long handles one --name[=value] and returns the arguments not consumed.
func (f *Flags) long(word string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(word, "=")
	o := f.options[name]
	switch {
	case len(name) < 2 || o == nil:
		return nil, exit.Fail(exit.Usage, "unknown option --%s", name)
	case o.argument == noArgument && hasValue:
		return nil, exit.Fail(exit.Usage, "option --%s takes no argument", name)
	case o.argument == needsArgument && !hasValue:
		if len(rest) == 0 {
			return nil, exit.Fail(exit.Usage, "option --%s needs an argument", name)
		}
		value, rest = rest[0], rest[1:]
	}
	return rest, f.apply(o, "--"+name, value)
}

// cluster handles the short options in letters, the last of which may take its
// argument from what follows it or from the next word.
func (f *Flags) cluster(letters string, rest []string) ([]string, error) {
	for i := range letters {
		name := letters[i : i+1]
		o := f.options[name]
		switch {
		case o == nil:
			return nil, exit.Fail(exit.Usage, "unknown option -%s", name)
		case o.argument != needsArgument:
			if err := f.apply(o, "-"+name, ""); err != nil {
				return nil, err
			}
			continue
		}
		value := letters[i+1:]
		if value == "" {
			if len(rest) == 0 {
				return nil, exit.Fail(exit.Usage, "option -%s needs an argument", name)
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, f.apply(o, "-"+name, value)
	}
	return rest, nil
}

func (f *Flags) apply(o *option, name, value string) error {
	f.given = append(f.given, name)
	err := o.set(value)
	if err == nil || errors.Is(err, errHelp) || errors.Is(err, errVersion) {
		return err
	}
	return exit.Fail(exit.Usage, "%s: %w", name, err)
}

// Number returns a setter of an option that takes a number from 1 on.
func Number(p *int) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no number from 1 on", s)
		}
		*p = int(n)
		return nil
	}
}

// OneOf returns a setter for Func that accepts only the given words.
func OneOf(p *string, words ...string) func(string) error {
	return func(s string) error {
		for _, w := range words {
			if s == w {
				*p = s
				return nil
			}
		}
		return fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
	}
}
