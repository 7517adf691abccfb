// Completions writes what bash, zsh and fish complete the commands of xen-backup by, from the usage texts of the
// commands, so that no shell offers what a command does not take.
//
//	completions TOP DIR
//
// TOP is the top of the tree. Below DIR the files are called as the shells want them: bash/xb-sig, zsh/_xb-sig,
// fish/xb-sig.fish.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: completions TOP DIR")
		os.Exit(64)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "completions:", err)
		os.Exit(1)
	}
}

// write makes the files of all commands and all shells.
func write(top, dir string) error {
	commands, err := readCommands(top)
	if err != nil {
		return err
	}
	for _, c := range commands {
		for name, text := range map[string]string{
			"bash/" + c.name:           c.bash(),
			"zsh/_" + c.name:           c.zsh(),
			"fish/" + c.name + ".fish": c.fish(),
		} {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
