package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Two rooms are for tests: testkit is imported by tests alone, e2e holds tests of everything.
const (
	userInterface = "cli" // imported by the commands alone
	tools         = "testkit"
	wholeTests    = "e2e"
)

const module = "xen-backup/"

// rooms reads from README.md the list of all rooms, the topmost first, and of the files
// that it names in each.
func rooms(t *testing.T) (names []string, files map[string][]string) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files = make(map[string][]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|.*\\| *([^|]*) \\|$").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
		for _, file := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			files[row[1]] = append(files[row[1]], file[1])
		}
	}
	if len(names) < 10 || len(files) < 10 {
		t.Fatalf("README.md lists too few rooms: %q", names)
	}
	return names, files
}

// sources parses all Go files of the tree, by their paths from its top; those of testdata
// are programs of their own.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() != ".." && strings.HasPrefix(entry.Name(), ".")):
			return fs.SkipDir
		case !entry.IsDir() && path.Ext(name) == ".go":
			file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			files[strings.TrimPrefix(filepath.ToSlash(name), "../")] = file
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// imports returns the packages of this module that a file imports, as "internal/rdiff".
func imports(file *ast.File) (packages []string) {
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if own, is := strings.CutPrefix(name, module); is {
			packages = append(packages, own)
		}
	}
	return packages
}

// The list in README.md is that of the folders here, and names files that are there.
func TestRoomsAreListed(t *testing.T) {
	names, files := rooms(t)
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(names, e.Name()) {
			t.Errorf("README.md does not list the room %s", e.Name())
		}
	}
	for i, name := range names {
		if slices.Index(names, name) != i {
			t.Errorf("README.md lists %s twice", name)
		}
		if info, err := os.Stat(name); err != nil || !info.IsDir() {
			t.Errorf("README.md lists %s, which is no folder", name)
		}
		for _, file := range files[name] {
			if _, err := os.Stat(filepath.Join(name, file)); err != nil {
				t.Errorf("README.md names a file that is not there: %v", err)
			}
		}
	}
}

// Imports point down the list.
func TestImportsPointDown(t *testing.T) {
	names, _ := rooms(t)
	for name, file := range sources(t) {
		for _, imported := range imports(file) {
			if why := forbidden(names, name, imported); why != "" {
				t.Errorf("%s imports %s: %s", name, imported, why)
			}
		}
	}
}

// forbidden says why a file may not import a package, "" if it may.
func forbidden(names []string, file, imported string) string {
	test := strings.HasSuffix(file, "_test.go")
	to, toRoom := strings.CutPrefix(imported, "internal/")
	from, inRoom := strings.CutPrefix(path.Dir(file), "internal/")
	command := strings.HasPrefix(file, "cmd/")
	switch {
	case !toRoom:
		return "it is no room"
	case to == tools:
		if !test {
			return "it is for tests"
		}
	case inRoom && from == wholeTests && test:
	case to == userInterface:
		if !command && from != userInterface {
			return "only commands speak to the user"
		}
	case inRoom && from != to && !below(names, from, to):
		return "it does not stand below in README.md"
	}
	return ""
}

// below reports whether both are in the list, the second further down.
func below(names []string, from, to string) bool {
	i := slices.Index(names, from)
	return i >= 0 && slices.Contains(names[i:], to)
}

// Rooms neither print nor exit.
func TestRoomsAreSilent(t *testing.T) {
	for name, file := range sources(t) {
		room, is := strings.CutPrefix(path.Dir(name), "internal/")
		if !is || room == userInterface || strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, is := n.(*ast.SelectorExpr); is {
				of, _ := s.X.(*ast.Ident)
				if of != nil && speaks.MatchString(of.Name+"."+s.Sel.Name) {
					t.Errorf("%s uses %s.%s: a room has no words for the user but its errors", name, of.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

var speaks = regexp.MustCompile(`^(os\.(Std(in|out|err)|Exit)|fmt\.Print(f|ln)?|log\.\w+)$`)

// The rule is proved on what it must refuse.
func TestForbidden(t *testing.T) {
	names := []string{"cli", "e2e", "testkit", "standby", "rdiff", "stream", "exit"}
	for _, c := range []struct {
		file, imported string
		refused        bool
	}{
		{"cmd/xb-sig/main.go", "internal/cli", false},
		{"cmd/xb-sig/main.go", "internal/rdiff", false},
		{"cmd/xb-sig/main.go", "internal/testkit", true},
		{"cmd/xb-sig/main.go", "cmd/xb-delta", true},
		{"internal/rdiff/sign.go", "internal/stream", false},
		{"internal/stream/delta.go", "internal/rdiff", true},
		{"internal/stream/delta_test.go", "internal/rdiff", true},
		{"internal/stream/delta_test.go", "internal/stream", false}, // from package stream_test
		{"internal/stream/delta_test.go", "internal/testkit", false},
		{"internal/stream/delta.go", "internal/testkit", true},
		{"internal/stream/delta.go", "internal/cli", true},
		{"internal/stream/delta.go", "scripts/bench/bare", true},
		{"internal/stream/delta_test.go", "internal/cli", true},
		{"internal/stream/delta.go", "internal/e2e", true},
		{"internal/new/new.go", "internal/exit", true},
		{"internal/rdiff/sign.go", "internal/new", true},
		{"internal/cli/main.go", "internal/exit", false},
		{"internal/e2e/main_test.go", "internal/cli", false},
		{"internal/testkit/golden.go", "internal/exit", false},
		{"scripts/bench/bare/main.go", "internal/stream", false},
		{"scripts/bench/bare/main.go", "internal/cli", true},
	} {
		if why := forbidden(names, c.file, c.imported); (why != "") != c.refused {
			t.Errorf("%s imports %s: %q", c.file, c.imported, why)
		}
	}
}

// TestPatterns: no expression is compiled at each start of each program. text.Pattern compiles it when it is used.
func TestPatterns(t *testing.T) {
	atStart := regexp.MustCompile(`(?m)^(var |\t)\w+ *= regexp\.MustCompile`)
	files := 0
	for _, dir := range []string{".", "../cmd"} {
		paths, err := filepath.Glob(dir + "/*/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			files++
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if found := atStart.Find(text); found != nil {
				t.Errorf("%s: %s", path, found)
			}
		}
	}
	if files < 100 {
		t.Errorf("only %d files", files)
	}
}
