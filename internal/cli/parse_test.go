package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
)

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
		if _, err := parse(empty...); exit.StatusOf(err) != exit.Usage {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// TestTime has times be of one form: what is shown of one is all of it.
func TestTime(t *testing.T) {
	for in, want := range map[string]bool{"2026-11-26T23:47:28Z": true, "2026-11-26T23:47:28.9Z": false, "2026-11-26T23:47:28,9Z": false,
		"2026-11-26T24:00:00Z": false, "2026-11-26T23:47:28+01:00": false, "0001-01-01T00:00:00Z": false, "": false} {
		var got time.Time
		if err := Time(&got)(in); (err == nil) != want {
			t.Errorf("%q: %v, %v", in, got, err)
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
		if err == nil || err.Error() != want || exit.StatusOf(err) != exit.Usage || p.operands != nil {
			t.Errorf("%q: %v, %v; want %q", args, p.operands, err, want)
		}
	}
}

func TestProgressFlag(t *testing.T) {
	for arg, want := range map[string]string{"": "auto", "--progress": "always", "--progress=always": "always",
		"--progress=never": "never", "--progress=auto": "auto"} {
		var mode string
		f := new(Flags)
		f.ProgressFlag(&mode)
		if _, err := f.Parse(strings.Fields(arg)); err != nil || mode != want {
			t.Errorf("%q: %q, %v", arg, mode, err)
		}
	}
	f := new(Flags)
	f.ProgressFlag(new(string))
	if _, err := f.Parse([]string{"--progress=often"}); exit.StatusOf(err) != exit.Usage {
		t.Error(err)
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
		{"", nil, exit.OK, "", ""},
		{"--help", nil, exit.OK, usage, ""},
		{"x -h --unknown", nil, exit.OK, usage, ""},
		{"-V", nil, exit.OK, "xb-test " + Version + "\n", ""},
		{"", exit.Answer(exit.No), exit.No, "", ""},
		{"", exit.Fail(exit.BadStream, "cut"), exit.BadStream, "", "xb-test: cut\n"},
		{"", errors.New("first\nsecond \x1b[m"), exit.IOError, "", "xb-test: first\n  second \\x1b[m\n"},
		{"--nothing", nil, exit.Usage, "", "xb-test: unknown option --nothing\ntry 'xb-test --help'\n"},
		{"-v", exit.Fail(exit.Config, "x"), exit.Config, "", "xb-test: told\nxb-test: warned\nxb-test: x\n"},
		{"-q", exit.Fail(exit.Config, "x"), exit.Config, "", "xb-test: x\n"},
		{"-qv", nil, exit.OK, "", ""},
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

func TestPathsOfACommandLine(t *testing.T) {
	var path, other string
	flags := func() *Flags {
		f := (&Env{}).Flags()
		f.Path(&path, "path,p")
		f.String(&other, "other")
		return f
	}
	operands, err := flags().ParsePaths([]string{"file:///a%20b", "--other", "file:///x", "--path=file:/c%20d", "e"})
	if err != nil || len(operands) != 2 || operands[0] != "/a b" || operands[1] != "e" || path != "/c d" ||
		other != "file:///x" {
		t.Errorf("%q, %q, %q, %v", operands, path, other, err)
	}
	for _, args := range [][]string{{"a", "file:x"}, {"--path", "file://h/x"}, {"--path", ""}, {""}, {"-p", "file:///%"}} {
		if operands, err := flags().ParsePaths(args); err == nil || exit.StatusOf(err) != exit.Usage {
			t.Errorf("%q: %q, %v; want status %d", args, operands, err, exit.Usage)
		}
	}
}

// TestPrintInfo: --info reads the file that is named, or standard input.
func TestPrintInfo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(file, []byte("in the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	copyAll := func(in io.Reader, out io.Writer) error { _, err := io.Copy(out, in); return err }
	info := func(args ...string) (string, error) {
		var out bytes.Buffer
		env := &Env{Name: "xb-test", Stdin: strings.NewReader("on stdin"), Stdout: &out}
		f, ignored := env.Flags(), false
		f.Bool(&ignored, "info")
		f.Bool(&ignored, "json")
		f.Bool(&ignored, "other")
		operands, err := f.Parse(args)
		if err != nil {
			t.Fatal(err)
		}
		err = env.PrintInfo(f, operands, copyAll)
		return out.String(), err
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--info"}, "on stdin"}, {[]string{"--info", "-"}, "on stdin"},
		{[]string{"--info", "--json", file}, "in the file"},
	} {
		if got, err := info(test.args...); err != nil || got != test.want {
			t.Errorf("%q: %q, %v, want %q", test.args, got, err, test.want)
		}
	}
	for _, test := range []struct {
		args   []string
		status int
	}{
		{[]string{"--info", "a", "b"}, exit.Usage}, {[]string{"--info", "--other"}, exit.Usage},
		{[]string{"--info", file + "2"}, exit.NoInput},
	} {
		if _, err := info(test.args...); exit.StatusOf(err) != test.status {
			t.Errorf("%q: %v, want status %d", test.args, err, test.status)
		}
	}
}
