package dom0s

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// hosts puts a getent on PATH that knows three names.
func hosts(t *testing.T) {
	t.Helper()
	testkit.Programs(t, map[string]string{"getent": `case $2 in
dom0a) echo '127.0.1.1 STREAM dom0a' ;;
alias) printf '198.51.100.7 STREAM alias\n::1 STREAM\n' ;;
dom0b | dom0c) echo '198.51.100.9 STREAM dom0b'; echo '2001:db8::2 STREAM' ;;
*) exit 2 ;;
esac`})
}

type notes []string

func (n *notes) Warn(format string, args ...any) { *n = append(*n, fmt.Sprintf(format, args...)) }

func TestHere(t *testing.T) {
	hosts(t)
	for name, want := range map[string]Answer{"dom0a": Yes, "alias": Yes, "dom0b": No, "dom0d": Unknown} {
		if got := Here(context.Background(), []string{name}, "")[name]; got != want {
			t.Errorf("%s leads here: %s, want %s", name, got, want)
		}
	}
	if got := Here(context.Background(), []string{"dom0a", "dom0b"}, "dom0b"); got["dom0a"] != No || got["dom0b"] != Yes {
		t.Errorf("with a name of its own: %v", got)
	}
}

// TestWho demands that a host finds itself and others in DOM0S, and says why not.
func TestWho(t *testing.T) {
	hosts(t)
	for _, c := range []struct {
		dom0s, local, want string
		status             int
	}{
		{"dom0a dom0b", "", "dom0a: dom0b", 0},
		{"dom0b dom0a dom0b dom0d dom0a", "", "dom0a: dom0b dom0d", 0},
		{"dom0b dom0a", "dom0b", "dom0b: dom0a", 0},
		{"dom0a", "", "DOM0S names no Dom0 but this one: dom0a", exit.Config},
		{"dom0b dom0c", "", "does not name this host (if it does, set LOCAL_DOM0): dom0b dom0c", exit.Config},
		{"dom0b dom0d", "", "cannot tell which of DOM0S is this host: dom0d cannot be resolved", exit.Unavailable},
		{"dom0a dom0b alias", "", "both dom0a and alias lead to this host", exit.Config},
		{"", "", "does not name this host", exit.Config},
	} {
		plan, err := Order{Dom0s: strings.Fields(c.dom0s), Local: c.local}.Make(context.Background(), new(notes))
		got := fmt.Sprint(err)
		if err == nil {
			got = plan.Local + ": " + strings.Join(plan.Remotes, " ")
		}
		if !strings.Contains(got, c.want) || exit.StatusOf(err) != c.status {
			t.Errorf("%q: %s, status %d, want %s and %d", c.dom0s, got, exit.StatusOf(err), c.want, c.status)
		}
	}
}

// TestTargets demands the names of standbys by the rules of MAP, which lead back, too.
func TestTargets(t *testing.T) {
	hosts(t)
	for _, c := range []struct {
		rules, sources, want string
		warnings             []string
	}{
		{"", "/dev/vg/a /srv/b", "/dev/vg/a /srv/b", nil},
		{"dom0b:/dev/vg/a=/dev/vg2/x", "/dev/vg/a /srv/b", "/dev/vg2/x /srv/b", nil},
		{"dom0b:file:///srv/W%2010=file:///srv/x", "file:///srv/W%2010", "file:///srv/x", nil},
		{"dom0a:/dev/vg/a=/dev/vg2/x", "/dev/vg2/x", "/dev/vg/a", nil}, // the way back
		{"dom0a:/dev/vg/a=/dev/vg2/x dom0b:/dev/vg2/x=/dev/vg3/y", "/dev/vg2/x", "/dev/vg3/y", nil},
		{"dom0a:/c=/a dom0b:/c=/d", "/a", "/d", nil}, // both have another name than a third one
		{"dom0b:/A=/b dom0c:/a=/b", "/a", "/a", []string{
			"MAP names /A, which is no disk that is copied (/a): dom0b:/A=/b",
			"MAP names dom0c, which is not in DOM0S: dom0c:/a=/b"}},
		{"dom0b:/a=/b", "/a /b", "/b would overwrite dom0b:/b of /a", nil},
		{"dom0b:/a", "/a", "bad rule in MAP: dom0b:/a", nil},
		{"dom0b:/a=/b$x", "/a", "bad rule in MAP: dom0b:/a=/b$x", nil},
		{"dom0b:a=/b", "/a", "bad rule in MAP", nil},
	} {
		var warnings notes
		order := Order{Dom0s: []string{"dom0a", "dom0b"}, Rules: strings.Fields(c.rules), Sources: strings.Fields(c.sources)}
		plan, err := order.Make(context.Background(), &warnings)
		got := fmt.Sprint(err)
		if err == nil {
			got = strings.Join(plan.Targets["dom0b"], " ")
		} else if exit.StatusOf(err) != exit.Config {
			t.Errorf("%s: status %d, want %d", c.rules, exit.StatusOf(err), exit.Config)
		}
		if err == nil && got != c.want || !strings.Contains(got, c.want) || !reflect.DeepEqual([]string(warnings), c.warnings) {
			t.Errorf("%q: %s, want %s; warnings %q, want %q", c.rules, got, c.want, warnings, c.warnings)
		}
	}
}
