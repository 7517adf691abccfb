package runs

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"xen-backup/internal/exit"
)

// Expected is a DomU that has to be copied: a line of --expected.
type Expected struct {
	DomU  string
	Local string   // this host's name among its Dom0s; "": not known; "-": it is none of them
	Peers []string // its other Dom0s
	Here  string   // whether it runs here: yes, no, busy or unknown
	Disks []string // where it runs here; none: not known
}

// ReadExpected reads lines of five fields with tabs between them.
func ReadExpected(in io.Reader) (all []Expected, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		f := strings.Split(lines.Text(), "\t")
		if len(f) == 4 {
			f = append(f, "")
		}
		if len(f) != 5 || f[0] == "" || strings.Contains(f[0], "/") || !slices.Contains([]string{"yes", "no", "busy", "unknown"}, f[3]) {
			return nil, exit.Fail(exit.BadStream, "line %d of what is expected is not DOMU, this host, DOM0S, yes|no|busy|unknown "+
				"and DISKS with tabs between them: %q", n, bounded(lines.Text(), 200))
		}
		all = append(all, Expected{f[0], f[1], strings.Fields(f[2]), f[3], strings.Fields(f[4])})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("what is expected: %w", err)
	}
	return all, nil
}
