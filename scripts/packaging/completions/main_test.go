package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

const top = "../../.."

// made writes all files, and returns the directory and the commands.
func made(t *testing.T) (string, []*command) {
	t.Helper()
	dir := t.TempDir()
	if err := write(top, dir); err != nil {
		t.Fatal(err)
	}
	commands, err := readCommands(top)
	if err != nil {
		t.Fatal(err)
	}
	return dir, commands
}

// program builds a command of the tree.
func program(t *testing.T, c *command) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), c.name)
	if out, err := exec.Command("go", "build", "-o", file, top+"/cmd/"+c.name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

func isScript(c *command) bool {
	return slices.ContainsFunc(scripts, func(s struct{ file, name, alias string }) bool { return s.name == c.name })
}

// TestOptionsAreThePrograms: each option that is offered is one that the program takes, with or without an argument as
// the completion has it, and so is each word for it. No line that is tried does anything: each is an error, or ends with
// --help behind an argument that is attached.
func TestOptionsAreThePrograms(t *testing.T) {
	_, commands := made(t)
	if len(commands) < 6 {
		t.Fatalf("only %d commands", len(commands))
	}
	for _, c := range commands {
		if len(c.options) < 4 {
			t.Errorf("%s: only the options %v", c.name, c.spellings())
		}
		if isScript(c) {
			continue
		}
		file := program(t, c)
		// try returns what the program says of an option; where others stand below it, what that says which knows it.
		try := func(option string) (said string) {
			for _, sub := range append([]string{""}, c.subcommands...) {
				out, _ := exec.Command(file, append(strings.Fields(sub), option, "--help")...).CombinedOutput()
				if said = string(out); !strings.Contains(said, "unknown option") {
					break
				}
			}
			return said
		}
		for _, o := range c.options {
			name := o.names[len(o.names)-1]
			said := try(name + "=/")
			if strings.Contains(said, "unknown option") {
				t.Errorf("%s: %s: %s", c.name, name, said)
			}
			if takes := !strings.Contains(said, "takes no argument"); takes != (o.argument != "") {
				t.Errorf("%s: %s has the argument %q in the completion, and the program said %s", c.name, name, o.argument, said)
			}
			for _, word := range testkit.Some(t, 1, o.words()...) {
				if said := try(name + "=" + word); !strings.HasPrefix(strings.ToLower(said), "usage:") {
					t.Errorf("%s %s=%s: %s", c.name, name, word, said)
				}
			}
		}
	}
}

// TestAllOptionsAreOffered: what begins a line of a usage text, or stands in its synopsis, is offered in each shell.
func TestAllOptionsAreOffered(t *testing.T) {
	dir, commands := made(t)
	for _, c := range commands {
		for i, line := range slices.Collect(strings.Lines(c.usage)) {
			for _, name := range optionsOf(line, i < strings.Count(strings.SplitN(c.usage, "\n\n", 2)[0], "\n")+1) {
				if !slices.Contains(c.spellings(), name) {
					t.Errorf("%s: %s is offered nowhere", c.name, name)
				}
			}
		}
		for _, option := range c.spellings() {
			for _, file := range []string{"bash/" + c.name, "zsh/_" + c.name} {
				if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(text), option) {
					t.Errorf("%s has no %s (%v)", file, option, err)
				}
			}
		}
	}
}

var optionName = regexp.MustCompile(`(?:^|[\s\[,|])(--?[A-Za-z][\w-]*)`)

// optionsOf returns the options in a line of a usage text: all that are in the synopsis, else those that it begins with.
func optionsOf(line string, synopsis bool) (names []string) {
	line, _, _ = strings.Cut(strings.TrimSpace(line), "  ")
	if !synopsis && !strings.HasPrefix(line, "-") {
		return nil
	}
	for _, m := range optionName.FindAllStringSubmatch(line, -1) {
		names = append(names, m[1])
	}
	return names
}

// TestShells asks the shells themselves.
func TestShells(t *testing.T) {
	dir, _ := made(t)
	bash := func(line ...string) string {
		return `. ` + dir + `/bash/` + line[0] + `; COMP_WORDS=(` + strings.Join(line, " ") + `); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			compopt() { :; }; _` + strings.ReplaceAll(line[0], "-", "_") + `; echo "${COMPREPLY[@]}"`
	}
	fish := func(line string) string {
		command, _, _ := strings.Cut(line, " ")
		return `source ` + dir + `/fish/` + command + `.fish; complete -C "` + line + `"`
	}
	for _, one := range []struct{ shell, script, want string }{
		{"bash", bash("xb-sig", "--ha"), "--hash"},
		{"bash", bash("xb-sig", "--hash", "s"), "sha256"},
		{"bash", bash("xb-sig", "--hash", "=", "x"), "xxh64"},
		{"bash", bash("xb-sig", "--progress", "=", "n"), "never"},
		{"bash", bash("xb-snap", "-v", "cr"), "create"},
		{"bash", bash("xb-patch", "--spool", "/et"), "/etc"},
		{"bash", bash("xb-snap", "remove", "/et"), "/etc"},
		{"bash", bash("xen-backup", "--fi"), "--final"},
		{"fish", fish("xb-sig --ha"), "--hash"},
		{"fish", fish("xb-sig --hash s"), "sha256"},
		{"fish", fish("xb-snap cr"), "create"},
		{"fish", fish("xen-backup --fi"), "--final"},
	} {
		shell, err := exec.LookPath(one.shell)
		if err != nil {
			t.Logf("not tried: %v", err)
			continue
		}
		cmd := exec.Command(shell, "-c", one.script)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), one.want) {
			t.Errorf("%s: %s\nprinted %q (%v), not %s", one.shell, one.script, out, err, one.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		scripts, err := filepath.Glob(filepath.Join(dir, shell, "*"))
		if err != nil || len(scripts) == 0 {
			t.Fatalf("no files for %s: %v", shell, err)
		}
		for _, file := range scripts {
			if out, err := exec.Command(shell, "-n", file).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s -n %s: %v\n%s", shell, file, err, out)
			}
		}
	}
}
