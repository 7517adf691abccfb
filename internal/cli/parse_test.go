package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "4096": 4096, "007": 7, "1b": 1, "4K": 4096, "4k": 4096, "4kb": 4096, "4KiB": 4096, "4KIB": 4096,
		"1M": 1 << 20, "1g": 1 << 30, "2T": 2 << 40, "1.5G": 3 << 29, "0.5k": 512, ".5K": 512, "1.0001K": 1024,
		"9223372036854775807": math.MaxInt64, "8388607T": 8388607 << 40,
	} {
		if n, err := ParseSize(s); n != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "K", ".", ".K", "-1", "+1", " 1", "1 ", "1 K", "1.5", "1.5b", "1..5K", "1KK", "1KI", "1i", "1bk", "1P", "1E3", "0x10",
		"1e3K", "1_000", "NaN", "InfK", "9223372036854775808", "8388608T", "9999999999999999999999T", "8388608.5T", "1,5K", "K1"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q is taken for %d", s, n)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: the message does not say it: %v", s, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 4096: "4096 B", 10239: "10239 B", 10240: "10.0 KiB", 3 << 29: "1.5 GiB", 1 << 20: "1.0 MiB",
		1 << 40: "1.0 TiB", 5 << 50: "5120.0 TiB", math.MaxInt64: "8388608.0 TiB",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// parsed is what the options of the tests set.
type parsed struct {
	quiet, verbose  bool
	file, block, on string
	size            int64
	operands        []string
}

func parse(args ...string) (p parsed, err error) {
	env := new(Env)
	f := env.Flags()
	f.String(&p.file, "file")
	f.String(&p.block, "b,block-size")
	f.Size(&p.size, "s,size")
	f.Func("hash", OneOf(new(string), "xxh64", "sha256"))
	f.OptionalFunc("p,progress", func(s string) error { p.on = "<" + s + ">"; return nil })
	p.operands, err = f.Parse(args)
	p.quiet, p.verbose = env.Quiet, env.Verbose
	return p, err
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]parsed{
		"":                       {},
		"a b":                    {operands: []string{"a", "b"}},
		"-":                      {operands: []string{"-"}},
		"- -q -":                 {quiet: true, operands: []string{"-", "-"}},
		"a -q b --verbose c":     {quiet: true, verbose: true, operands: []string{"a", "b", "c"}},
		"a -- -q --file --":      {operands: []string{"a", "-q", "--file", "--"}},
		"--":                     {},
		"-qv":                    {quiet: true, verbose: true},
		"-qb4K":                  {quiet: true, block: "4K"},
		"-qb 4K":                 {quiet: true, block: "4K"},
		"-bq":                    {block: "q"},
		"-b -q":                  {block: "-q"},
		"-b -- x":                {block: "--", operands: []string{"x"}},
		"-b=4K":                  {block: "=4K"}, // as getopt does
		"--block-size 4K":        {block: "4K"},
		"--block-size=4K":        {block: "4K"},
		"--file=a=b":             {file: "a=b"},
		"--file --file":          {file: "--file"},
		"--file a --file b":      {file: "b"},
		"--size=1K":              {size: 1024},
		"-s1K a -s 2K":           {size: 2048, operands: []string{"a"}},
		"--progress x":           {on: "<>", operands: []string{"x"}},
		"--progress=":            {on: "<>"},
		"--progress=always x":    {on: "<always>", operands: []string{"x"}},
		"-pq x":                  {on: "<>", quiet: true, operands: []string{"x"}},
		"--hash sha256 --quiet":  {quiet: true},
		"x --hash=xxh64 -v -- y": {verbose: true, operands: []string{"x", "y"}},
	} {
		got, err := parse(strings.Fields(args)...)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%q: %+v (%v), want %+v", args, got, err, want)
		}
	}
	for _, empty := range [][]string{{"--file="}, {"--file", ""}, {"x", ""}, {"--", ""}} {
		if _, err := parse(empty...); StatusOf(err) != Usage {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"-x":             "unknown option -x",
		"-qx":            "unknown option -x",
		"--unknown":      "unknown option --unknown",
		"--unknown=1":    "unknown option --unknown",
		"--q":            "unknown option --q",
		"--fil x":        "unknown option --fil",
		"---":            "unknown option ---",
		"--=x":           "unknown option --",
		"-file x":        "unknown option -f",
		"--quiet=yes":    "option --quiet takes no argument",
		"--file":         "option --file needs an argument",
		"-b":             "option -b needs an argument",
		"-qb":            "option -b needs an argument",
		"--size 4X":      `--size: bad size "4X": want a number, alone or with K, M, G or T`,
		"-sx":            `-s: bad size "x": want a number, alone or with K, M, G or T`,
		"--hash md5 a b": `--hash: "md5" is none of xxh64, sha256`,
	} {
		p, err := parse(strings.Fields(args)...)
		if err == nil || err.Error() != want || StatusOf(err) != Usage || p.operands != nil {
			t.Errorf("%q: %v, %v; want %q", args, p.operands, err, want)
		}
	}
}

func TestProgressFlag(t *testing.T) {
	for arg, want := range map[string]string{"": "auto", "--progress": "always", "--progress=always": "always", "--progress=never": "never", "--progress=auto": "auto"} {
		var mode string
		f := new(Flags)
		f.ProgressFlag(&mode)
		if _, err := f.Parse(strings.Fields(arg)); err != nil || mode != want {
			t.Errorf("%q: %q, %v", arg, mode, err)
		}
	}
	f := new(Flags)
	f.ProgressFlag(new(string))
	if _, err := f.Parse([]string{"--progress=often"}); StatusOf(err) != Usage {
		t.Error(err)
	}
}

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
		"no such file":         {OpenFailed(fmt.Errorf("x: %w", error(errNoEntry))), NoInput},
		"file in another file": {OpenFailed(fmt.Errorf("x: %w", error(errNotDir))), NoInput},
		"no permission":        {OpenFailed(errors.New("permission denied")), IOError},
	} {
		if got := StatusOf(test.err); got != test.status {
			t.Errorf("%s: %d, want %d", name, got, test.status)
		}
	}
	if err := Fail(IOError, "cannot read: %w", io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != "cannot read: unexpected EOF" {
		t.Error(err)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain\ttext": "plain\ttext", "Grüße, 世界": "Grüße, 世界",
		"\x1b[2J": `\x1b[2J`, "a\x00b": `a\x00b`, "\x7f": `\x7f`, "\r\n": `\x0d\x0a`,
		"\u009b31m": `\x9b31m`, "\x89PNG": `\x89PNG`, "\xff\xfe": `\xff\xfe`, "\xe2\x82": `\xe2\x82`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// TestRun: what is printed where, and the status.
func TestRun(t *testing.T) {
	const usage = "usage: xb-test\n"
	for _, test := range []struct {
		args           string
		err            error
		status         int
		stdout, stderr string
	}{
		{"", nil, OK, "", ""},
		{"--help", nil, OK, usage, ""},
		{"x -h --unknown", nil, OK, usage, ""},
		{"-V", nil, OK, "xb-test " + Version + "\n", ""},
		{"", Answer(No), No, "", ""},
		{"", Fail(BadStream, "cut"), BadStream, "", "xb-test: cut\n"},
		{"", errors.New("first\nsecond \x1b[m"), IOError, "", "xb-test: first\n  second \\x1b[m\n"},
		{"--nothing", nil, Usage, "", "xb-test: unknown option --nothing\ntry 'xb-test --help'\n"},
		{"-v", Fail(Config, "x"), Config, "", "xb-test: told\nxb-test: warned\nxb-test: x\n"},
		{"-q", Fail(Config, "x"), Config, "", "xb-test: x\n"},
		{"-qv", nil, OK, "", ""},
	} {
		var stdout, stderr bytes.Buffer
		env := &Env{Name: "xb-test", Stdout: &stdout, Stderr: &stderr}
		status := env.Run(usage, strings.Fields(test.args), func(env *Env, args []string) error {
			if _, err := env.Flags().Parse(args); err != nil {
				return err
			}
			env.Info("told")
			if env.Verbose {
				env.Warn("warned")
			}
			return test.err
		})
		if status != test.status || stdout.String() != test.stdout || stderr.String() != test.stderr {
			t.Errorf("%q, %v: status %d, stdout %q, stderr %q", test.args, test.err, status, stdout.String(), stderr.String())
		}
	}
}
