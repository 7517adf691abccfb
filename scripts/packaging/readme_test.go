package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// manPages returns all, by the names of what they describe.
func manPages(t *testing.T) map[string]string {
	t.Helper()
	pages := make(map[string]string)
	for _, pattern := range []string{"man/*.[58]", "../../cmd/*/*.[15]"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name := filepath.Base(file)
			pages[name[:len(name)-2]+"("+name[len(name)-1:]+")"] = strings.ReplaceAll(read(t, file), `\-`, "-")
		}
	}
	for _, script := range []string{"xen-backup", "xen-failover"} { // as they are called in the tree
		pages[script+".sh(8)"] = pages[script+"(8)"]
	}
	if len(pages) < 10 {
		t.Fatalf("only %d man pages", len(pages))
	}
	return pages
}

// optionsOf returns the long options that a man page of a command describes.
func optionsOf(pages map[string]string, command string) []string {
	page, ok := pages[command+"(1)"]
	if !ok {
		if page, ok = pages[command+"(8)"]; !ok {
			return nil
		}
	}
	return matches(page, `(?:Fl|,) (-[a-z][a-z-]+)`)
}

// commandLine is a command of ours with its words, up to what is no part of it.
var commandLine = regexp.MustCompile(`(?m)(?:^|[ /|` + "`" + `])((?:xb|xen)-[a-z]+(?:\.sh)?)((?:[( ][^|>;` + "`" + `\n]+)?)`)

// checkCommands holds the commands in a text, and their options, against the man pages.
func checkCommands(t *testing.T, pages map[string]string, text string) (n int) {
	t.Helper()
	for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[2], "(") { // the name of a page
			continue
		}
		if _, isPage := pages[m[1]+"(1)"]; !isPage && pages[m[1]+"(8)"] == "" {
			t.Errorf("%s has no man page", m[1])
			continue
		}
		n++
		for _, option := range regexp.MustCompile(` -(-[a-z][a-z-]+)`).FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(optionsOf(pages, m[1]), option[1]) {
				t.Errorf("%s%s: -%s is not in its man page", m[1], m[2], option[1])
			}
		}
	}
	return n
}

// fences returns the blocks of a text that are lines for a shell.
func fences(text string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// tableRows returns the first two columns of the rows of a table whose first column matches.
func tableRows(text, first string) map[string]string {
	rows := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^\| (`+first+`)(?: \*)? \| ([^|]*?) *\|`).FindAllStringSubmatch(text, -1) {
		rows[m[1]] = m[2]
	}
	return rows
}

// TestReadmeJa: the Japanese README says nothing that is not so any more: what is typed is what the README has typed, and
// commands, options, settings, their defaults, man pages, files and statuses are there.
func TestReadmeJa(t *testing.T) {
	ja, en, pages := read(t, "doc/README.ja.md"), read(t, "../../README.md"), manPages(t)
	if blocks := fences(ja); len(blocks) < 2 || !slices.Equal(blocks, fences(en)[:len(blocks)]) {
		t.Errorf("it has other lines typed than the README:\n%q\n%q", blocks, fences(en))
	}
	if n := checkCommands(t, pages, ja); n < 20 {
		t.Errorf("only %d commands found in it", n)
	}
	for _, page := range matches(ja, `\b([a-z][a-z.-]+\([158]\))`) {
		if pages[page] == "" {
			t.Errorf("there is no %s", page)
		}
	}
	// What an operator has to know of, it leaves out nothing.
	for _, words := range []string{"| `VERIFY_EVERY` |", "| `KEEP` |", "xen-failover promote domu1 --at ", "xen-failover test domu1 --at ",
		"xen-failover move domu1 ", "--with-memory"} {
		if !strings.Contains(ja, words) {
			t.Errorf("it says nothing of %q", words)
		}
	}
	defaults, known := tableRows(en, "`[A-Z0-9_]+`"), settingsOf(page(t, "xen-backup.conf.5"))
	settings := tableRows(ja, "`[A-Z0-9_]+`")
	if len(settings) < 5 {
		t.Errorf("only the settings %q", settings)
	}
	for setting, value := range settings {
		if there, ok := defaults[setting]; !ok || there != value {
			t.Errorf("%s has the default %q, and in the README %q", setting, value, there)
		}
	}
	for _, name := range matches(ja, "`([A-Z][A-Z0-9]*_?[A-Z0-9_]+)[`=]") {
		if !slices.Contains(known, name) {
			t.Errorf("xen-backup.conf(5) has no %s", name)
		}
	}
	statuses := tableRows(en, `\d+`)
	for status := range tableRows(ja, `\d+`) {
		if _, ok := statuses[status]; !ok {
			t.Errorf("there is no status %s", status)
		}
	}
	for _, file := range matches(ja, "`/usr/share/doc/xen-backup/([a-z./-]+)`") {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	for i, line := range strings.Split(ja, "\n") {
		if columns := len([]rune(line)) + len(regexp.MustCompile(`[^\x00-\x{2fff}]`).FindAllString(line, -1)); columns > 160 {
			t.Errorf("line %d has %d columns", i+1, columns)
		}
	}
}

// TestReadmeCommands: what the README has typed, options and all, is there.
func TestReadmeCommands(t *testing.T) {
	if n := checkCommands(t, manPages(t), read(t, "../../README.md")); n < 40 {
		t.Errorf("only %d commands found in it", n)
	}
}
