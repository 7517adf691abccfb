package runs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

func TestList(t *testing.T) {
	h := newHost(t)
	if l, err := Look(h.dir, nil, now); err != nil || l.Text() != "" {
		t.Errorf("%v: %q", err, l.Text())
	}
	h.remember("domu1/xvda", "dom0b", 26*time.Hour, 2)
	h.change(h.remember("domu2/xvda", "dom0b", 3*time.Minute, 0), func(c *Copy) {
		c.Success.Read, c.Success.Changed, c.Success.Sent, c.Success.Seconds, c.Verified = 8192, 3<<29, 4096, 60, now.Add(-2*time.Hour)
	})
	h.remember("domu2", "", 0, 1)
	h.holdSet(setA, 12*24*time.Hour, "domu3/xvda", "domu3/xvdb")
	h.document("domu3", setA, "xvda", "xvdb")
	l, err := Look(h.dir, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	got := l.Text()
	for _, want := range []string{
		"DOMU   DISK  TO     AGE    TOOK  READ    CHANGED  SENT    VERIFIED  FAILED  LAST WORDS\n",
		"domu1  xvda  dom0b  26 h ", " 2       it is mounted\n", "domu2  -     -      -  ", "domu2  xvda  dom0b  4 min  60 s  8192 B  1.5 GiB  4096 B  2 h       0       -\n",
		"domu3  xvda  dom0a  12 d  clean  whole, 2026-11-15T12:00:00Z  of this set  /",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	text, err := l.JSON()
	var j struct {
		Source []struct {
			DomU, Disk, Peer string
			Age              int `json:"age_seconds"`
			Changed          int `json:"bytes_changed"`
			Failures         int `json:"failures_in_a_row"`
		}
		Standby []struct {
			DomU, Phase string
			Whole       bool `json:"whole_set"`
		}
	}
	if err != nil || json.Unmarshal([]byte(text), &j) != nil || len(j.Source) != 3 || len(j.Standby) != 2 || j.Source[0].Age != 93600 ||
		j.Source[0].Failures != 2 || j.Source[2].Changed != 3<<29 || !j.Standby[1].Whole {
		t.Errorf("%v: %s", err, text)
	}
	if l, err := Look(h.dir, []string{"domu3"}, now); err != nil || strings.Contains(l.Text(), "domu1") || len(l.Holdings) != 2 {
		t.Errorf("%v: %s", err, l.Text())
	}
}

// TestMetrics: whatever is in names, promtool reads it.
func TestMetrics(t *testing.T) {
	h := newHost(t)
	h.remember("domu1/xvda", "dom0b", 26*time.Hour, 2)
	h.remember(`a"b\c/xvda`, "dom0b", time.Hour, 0)
	h.change(h.remember("domu2/xvda", "dom0b", time.Minute, 0), func(c *Copy) { c.Verified = now })
	h.remember("domu4/xvda", "dom0b", 0, 1)
	h.remember("domu2", "", 0, 1)
	h.holdSet(setA, time.Hour, "domu3/xvda", "domu3/xvdb")
	h.holdAs(h.file("elsewhere"), h.hold("domu3/xvdc", 100*time.Hour, ""))
	h.holdAs(h.file("nobody"), h.hold("", time.Hour, ""))
	testkit.Write(t, string(h.dir)+"/x.json", "{")
	testkit.Write(t, string(h.dir)+"/y.json", "{")
	l, err := Look(h.dir, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "xen_backup.prom")
	if err := l.WriteMetrics(file); err != nil {
		t.Fatal(err)
	}
	text := testkit.Read(t, file)
	for _, want := range []string{
		`xen_backup_last_success_timestamp_seconds{domu="domu1",disk="xvda",peer="dom0b",role="source"} 1795687200` + "\n",
		`xen_backup_last_success_timestamp_seconds{domu="domu4",disk="xvda",peer="dom0b",role="source"} 0` + "\n",
		`xen_backup_last_success_timestamp_seconds{domu="domu3",disk="xvda",peer="dom0a",role="standby"} 1795777200` + "\n",
		`xen_backup_failures_in_a_row{domu="domu1",disk="xvda",peer="dom0b",role="source"} 2` + "\n",
		`xen_backup_phase{domu="domu3",disk="xvda",peer="dom0a",role="standby",phase="clean"} 1` + "\n",
		`xen_backup_phase{domu="",disk="",peer="",role="standby",phase="unreadable"} 1` + "\n",
		`domu="a\"b\\c"`, "xen_backup_verified_timestamp_seconds{", "xen_backup_duration_seconds{", "xen_backup_bytes_read{",
	} {
		if strings.Count(text, want) == 0 {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool")
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v: %s\n%s", err, out, text)
	}
}
