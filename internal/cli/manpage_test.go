package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The man pages must say what the commands do: these tests hold each page against
// its command's usage text and against the exit statuses in internal/exit.

// constants returns the constants of a Go file that have a literal value.
func constants(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	ast.Inspect(f, func(n ast.Node) bool {
		g, ok := n.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			return true
		}
		for _, s := range g.Specs {
			c := s.(*ast.ValueSpec)
			if len(c.Values) != 1 {
				continue
			}
			if v, ok := c.Values[0].(*ast.BasicLit); ok {
				values[c.Names[0].Name] = v.Value
			}
		}
		return false
	})
	return values
}

// pages returns the commands and the text of their man pages.
func pages(t *testing.T) map[string]string {
	t.Helper()
	sources, err := filepath.Glob("../../cmd/*/main.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no commands found: %v", err)
	}
	texts := make(map[string]string)
	for _, source := range sources {
		dir := filepath.Dir(source)
		text, err := os.ReadFile(filepath.Join(dir, filepath.Base(dir)+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		texts[dir] = strings.ReplaceAll(string(text), `\-`, "-")
	}
	return texts
}

// found returns, sorted, the options in all lines of text that match line.
func found(text string, line, option *regexp.Regexp) (options []string) {
	for _, l := range line.FindAllString(text, -1) {
		for _, m := range option.FindAllStringSubmatch(l, -1) {
			options = append(options, "-"+m[1])
		}
	}
	slices.Sort(options)
	return slices.Compact(options)
}

func TestManPagesHaveTheOptions(t *testing.T) {
	usageLine, usageOption := regexp.MustCompile(`(?m)^ +(-\w, )?-[-\w]+`), regexp.MustCompile(`(?:^| )-(-?[-\w]+)`)
	pageLine, pageOption := regexp.MustCompile(`(?m)^\.It Fl .*`), regexp.MustCompile(`(?:Fl|,) (?:Fl )?(-?\w[-\w]*)`)
	for dir, page := range pages(t) {
		usage, err := strconv.Unquote(constants(t, filepath.Join(dir, "main.go"))["usage"])
		if err != nil {
			t.Errorf("%s: no const usage: %v", dir, err)
			continue
		}
		want, got := found(usage, usageLine, usageOption), found(page, pageLine, pageOption)
		if !slices.Equal(got, want) {
			t.Errorf("%s: its man page has the options\n%v\nand its usage\n%v", dir, got, want)
		}
		if !slices.Contains(want, "--help") || !slices.Contains(want, "-h") {
			t.Errorf("%s: no -h, --help among %v", dir, want)
		}
	}
}

func TestManPagesHaveTheExitStatuses(t *testing.T) {
	var want []string
	for _, status := range constants(t, "../exit/exit.go") {
		want = append(want, status)
	}
	section := regexp.MustCompile(`(?ms)^\.Sh EXIT STATUS\n.*?^\.Sh`)
	item := regexp.MustCompile(`(?m)^\.It (\d+)$`)
	table := ""
	for dir, page := range pages(t) {
		here := section.FindString(page)
		if table == "" {
			table = here
		}
		if here != table {
			t.Errorf("%s: its section on exit statuses is not in the same words as that of another page", dir)
		}
		var got []string
		for _, m := range item.FindAllStringSubmatch(here, -1) {
			got = append(got, m[1])
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: exit statuses in its man page %v, in internal/exit %v", dir, got, want)
		}
	}
}
