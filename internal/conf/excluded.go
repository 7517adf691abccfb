package conf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xen-backup/internal/exit"
)

// Several conf files may be for one DomU, each for some of its disks or Dom0s. Who copies by one of them must not take
// for unwanted what is copied by another one.

// excludedName is of a file with a row for each conf file and Dom0: DOMU DOM0 EXCLUDE, with tabs between them.
const excludedName = "excluded"

// WriteExcluded writes what the conf files leave out to a file in a directory.
func WriteExcluded(dir string, confs []*Conf) error {
	var rows strings.Builder
	for _, c := range confs {
		for _, dom0 := range c.Dom0s() {
			rows.WriteString(c.DomU() + "\t" + dom0 + "\t" + strings.Join(c.Exclude(), " ") + "\n")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, excludedName), []byte(rows.String()), 0o600); err != nil {
		return exit.Fail(exit.CantCreate, "cannot keep what is not copied: %w", err)
	}
	return nil
}

// IsCopied reports whether one of the conf files has a disk copied to a Dom0, if the DomU has it. Where nobody has
// written that down none does.
func IsCopied(dir, domu, dom0, disk string) bool {
	rows, _ := os.ReadFile(filepath.Join(dir, excludedName))
	for row := range strings.Lines(string(rows)) {
		columns := strings.Split(strings.TrimSuffix(row, "\n"), "\t")
		if len(columns) == 3 && columns[0] == domu && columns[1] == dom0 && !slices.Contains(strings.Fields(columns[2]), disk) {
			return true
		}
	}
	return false
}
