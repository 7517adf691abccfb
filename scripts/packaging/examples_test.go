// Package packaging has tests of what the packages bring; ./test tries the packages themselves.
package packaging

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promtool runs it here, or skips the test.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	file, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool")
	}
	if out, err := exec.Command(file, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAlerts(t *testing.T) {
	promtool(t, "check", "rules", "examples/prometheus-rules.yml")
	promtool(t, "test", "rules", "prometheus-rules.test.yml")
}

// TestAllAlertsAreTried: the rules' tests have each of them go off.
func TestAllAlertsAreTried(t *testing.T) {
	tests := read(t, "prometheus-rules.test.yml")
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(read(t, "examples/prometheus-rules.yml"), -1) {
		if !strings.Contains(tests, "alertname: "+m[1]+"\n") {
			t.Errorf("%s is expected to go off nowhere", m[1])
		}
	}
}

// queries returns those of all panels of the dashboard.
func queries(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "examples/grafana-dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("the panel %q has no query", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	if dashboard.Title == "" || len(all) < 5 {
		t.Fatalf("no dashboard: %q with %d queries", dashboard.Title, len(all))
	}
	return all
}

// TestDashboard has promtool parse each query, as a rule.
func TestDashboard(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups: [{name: dashboard, rules: [\n")
	for i, q := range queries(t) {
		fmt.Fprintf(&rules, "{record: 'q%d', expr: %q},\n", i, q)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()+"]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// TestMetricsAreThere: what rules and dashboard ask for is written, and all that is written is shown or watched.
func TestMetricsAreThere(t *testing.T) {
	var written []string
	for _, m := range regexp.MustCompile(`one\("(\w+)", "`).FindAllStringSubmatch(read(t, "../../internal/runs/metrics.go"), -1) {
		written = append(written, "xen_backup_"+m[1])
	}
	if len(written) < 9 {
		t.Fatalf("xb-patch writes only %q", written)
	}
	texts := append(queries(t), read(t, "examples/prometheus-rules.yml"))
	used := regexp.MustCompile(`\bxen_backup_\w+`).FindAllString(strings.Join(texts, "\n"), -1)
	for _, name := range used {
		if !slices.Contains(written, name) {
			t.Errorf("nothing writes %s", name)
		}
	}
	for _, name := range written {
		if !slices.Contains(used, name) && name != "xen_backup_last_attempt_timestamp_seconds" {
			t.Errorf("nothing looks at %s", name)
		}
	}
}

// TestUnits: each timer has its service, and the files in /etc set nothing, but name settings that there are.
func TestUnits(t *testing.T) {
	timers, err := filepath.Glob("systemd/*.timer")
	if err != nil || len(timers) != 3 {
		t.Fatalf("not three timers: %v %v", timers, err)
	}
	for _, timer := range timers {
		read(t, strings.TrimSuffix(timer, "timer")+"service")
	}
	known := page(t, "xen-backup.conf.5")
	for _, file := range []string{"conf/environment", "conf/host.conf"} {
		for line := range strings.Lines(read(t, file)) {
			line = strings.TrimSpace(line)
			if line != "" && line[0] != '#' {
				t.Errorf("%s sets %s", file, line)
			}
			name := regexp.MustCompile(`^#([A-Z_]+)=`).FindStringSubmatch(line)
			if name != nil && !slices.Contains(settingsOf(known), name[1]) {
				t.Errorf("%s has %s, which xen-backup.conf(5) has not", file, name[1])
			}
		}
	}
}

// page returns a man page as it is written, but for the escapes of its hyphens.
func page(t *testing.T, name string) string {
	t.Helper()
	return strings.ReplaceAll(read(t, "man/"+name), `\-`, "-")
}

// settingsOf returns those that a man page has an item for.
func settingsOf(page string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^\.It Ev (.*)`).FindAllStringSubmatch(page, -1) {
		names = append(names, regexp.MustCompile(`[A-Z0-9_]+`).FindAllString(m[1], -1)...)
	}
	return names
}

// matches returns what the parentheses of a pattern match, sorted.
func matches(text, pattern string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestOptionsAreDescribed: xen-backup(8) has the options that the script takes, and no other.
func TestOptionsAreDescribed(t *testing.T) {
	_, options, _ := strings.Cut(read(t, "../xen-backup.sh"), "\noptions() {")
	options, _, _ = strings.Cut(options, "\n}\n")
	taken := matches(options, `(?m)(--[a-z][a-z-]*)(?: \| \S+)?\) `)
	help, err := exec.Command("bash", "../xen-backup.sh", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(taken) < 8 {
		t.Fatalf("the script takes only %q", taken)
	}
	for _, option := range matches(string(help), `(?:^|[\s\[|])(--[a-z][a-z-]*)`) {
		if !slices.Contains(taken, option) {
			t.Errorf("--help has %s, which the script does not take", option)
		}
	}
	var described []string
	for _, option := range matches(page(t, "xen-backup.8"), `(?m)^\.It Fl (?:\w , )?(-[a-z-]+)`) {
		described = append(described, "-"+option)
	}
	if !slices.Equal(taken, described) {
		t.Errorf("the script takes\n%q\nand xen-backup(8) has\n%q", taken, described)
	}
}

// TestSettingsAreDescribed: xen-backup.conf(5) has the settings that there are, and no other.
func TestSettingsAreDescribed(t *testing.T) {
	conf := read(t, "../../internal/conf/settings.go")
	_, wide, _ := strings.Cut(conf, "var runWide = ")
	wide, _, _ = strings.Cut(wide, "}")
	there := slices.Concat(matches(conf, `\{name: "([A-Z0-9_]+)"`), matches(wide, `"([A-Z0-9_]+)"`),
		matches(read(t, "../../internal/state/host.go"), `(?:case|name ==) "([A-Z_]+)"`),
		matches(read(t, "../xen-backup.sh"), `\b([A-Z][A-Z0-9_]+)=\$\{[A-Z0-9_]+:-`))
	slices.Sort(there)
	there = slices.Compact(there)
	described := settingsOf(page(t, "xen-backup.conf.5"))
	slices.Sort(described)
	described = slices.Compact(described) // KEEP is one of two files
	if len(there) < 35 || !slices.Equal(there, described) {
		t.Errorf("the settings are\n%q\nand xen-backup.conf(5) has\n%q", there, described)
	}
}

// TestRunbook: xen-backup(8) says what to do about each status that an error of a run can have.
func TestRunbook(t *testing.T) {
	_, runbook, _ := strings.Cut(page(t, "xen-backup.8"), "\n.Sh RUNBOOK\n")
	runbook, _, _ = strings.Cut(runbook, "\n.Sh ")
	headings := strings.Join(matches(runbook, `(?m)^\.Ss (.*)`), "\n")
	// Not there: the answer no, wrong usage, an error of the program itself, and what a run never asks for.
	for _, status := range matches(read(t, "../../internal/exit/exit.go"), `(?m)^\s+\w+ += (\d+)\b`) {
		if !slices.Contains([]string{"0", "1", "3", "64", "70", "79"}, status) && !strings.Contains(headings, status) {
			t.Errorf("no symptom in the runbook has status %s", status)
		}
	}
	for _, status := range []string{"0", "3", "64", "73", "75", "78", "143"} {
		if !strings.Contains(page(t, "xen-backup.8"), "\n.It "+status+"\n") {
			t.Errorf("xen-backup(8) has no exit status %s", status)
		}
	}
}
