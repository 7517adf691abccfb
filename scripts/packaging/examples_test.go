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

// TestUnits: each timer has its service, and nothing in the environment file is set.
func TestUnits(t *testing.T) {
	timers, err := filepath.Glob("systemd/*.timer")
	if err != nil || len(timers) != 3 {
		t.Fatalf("not three timers: %v %v", timers, err)
	}
	for _, timer := range timers {
		read(t, strings.TrimSuffix(timer, "timer")+"service")
	}
	for line := range strings.Lines(read(t, "conf/environment")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			t.Errorf("the environment file sets %s", line)
		}
	}
}
