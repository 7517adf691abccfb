package conf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/program"
)

// sourced is what bash has after it has sourced a conf file.
type sourced struct {
	values map[string][]string // of settings
	names  []string            // of variables that are new, and not exported
}

const maxAnswers = 4 << 20 // bytes

// source has bash source a file, which may do what it likes: end the script, print, use any name. It gets a
// bash of its own, and that the file of answers, whose last word tells that it is whole. said is all
// that was printed. An answer of nil is one that did not come.
func source(ctx context.Context, limit time.Duration, dir, file string) (answer *sourced, said string, err error) {
	// Not standard output, and no other descriptor that a program could hold which the conf file leaves behind.
	fd, err := unix.MemfdCreate("xb-conf", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, "", fmt.Errorf("no file in memory: %w", err)
	}
	answers := os.NewFile(uintptr(fd), "xb-conf")
	defer answers.Close()
	// -p: nothing that is in the environment changes what bash does, no BASH_ENV and no function.
	printed, err := program.Ask(ctx, limit, "bash", "-p", "-c", script(dir, file, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)),
		"xen-backup.sh")
	if status := (*exec.ExitError)(nil); err != nil && !errors.As(err, &status) {
		return nil, string(printed), err
	}
	written, err := io.ReadAll(io.LimitReader(answers, maxAnswers))
	return parse(string(written)), string(printed), err
}

// script returns what bash does. Once the file is sourced it uses no variable and no descriptor; and it is one
// command, which bash has read as a whole before it begins with it: no alias is in it.
func script(dir, file, answers string) string {
	var defaults, values strings.Builder
	for _, s := range settings {
		if s.fallback != "" {
			fmt.Fprintf(&defaults, "%[1]s=${%[1]s:-%s}\n", s.name, quote(s.fallback))
		}
		if s.list {
			fmt.Fprintf(&values, ` "${#%[1]s[@]}" "${%[1]s[@]}"`, s.name)
		} else {
			fmt.Fprintf(&values, ` 1 "${%s-}"`, s.name)
		}
	}
	return fmt.Sprintf(`{
exec 2>&1
unset DOMU # nobody's but the file's
%sCONF_DIR=%s
readonly %s
compgen -v >>%[6]s
printf '\0' >>%[6]s
. %[4]s
builtin set +eu
builtin compgen -v >>%[6]s
builtin printf '\0' >>%[6]s
builtin compgen -e >>%[6]s
builtin printf '\0%%s' %[5]s end >>%[6]s
exit 0
}`, defaults.String(), quote(dir), strings.Join(runWide, " "), quote(file), values.String(), quote(answers))
}

// parse returns nil if it is not whole.
func parse(answers string) *sourced {
	parts := strings.Split(answers, "\x00")
	if len(parts) < 4 {
		return nil
	}
	before, after, exported := strings.Fields(parts[0]), strings.Fields(parts[1]), strings.Fields(parts[2])
	s := &sourced{values: make(map[string][]string)}
	for _, name := range after {
		if !slices.Contains(before, name) && !slices.Contains(exported, name) {
			s.names = append(s.names, name)
		}
	}
	rest := parts[3:]
	for _, setting := range settings {
		n, err := strconv.Atoi(rest[0])
		if err != nil || n < 0 || n > len(rest)-2 {
			return nil
		}
		s.values[setting.name], rest = rest[1:1+n], rest[1+n:]
	}
	if !slices.Equal(rest, []string{"end"}) {
		return nil
	}
	return s
}
