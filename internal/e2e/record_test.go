package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// copied runs the usual pipeline and has the run remembered, as the wrapper does.
func (h *host) copied(source, target, peer, disk, options string) result {
	h.Helper()
	r := h.pipe("xb-sig --missing-ok "+target+" 2>said.1", "xb-delta --summary sum "+source+" 2>said.2",
		"xb-patch --create --peer here --disk "+disk+" "+target+" 2>said.3")
	stages := strings.Trim(fmt.Sprint(r.statuses), "[]")
	return h.sh(fmt.Sprintf("cat said.? | xb-patch --record --peer %s --disk %s --target %s --stages '%s' --sent sum %s %s",
		peer, disk, h.path(target), stages, options, source))
}

// TestRecord: what becomes of real pipelines is remembered, told with its first cause, and known to both hosts.
func TestRecord(t *testing.T) {
	h := newHost(t)
	h.must("head -c 1M /dev/urandom >a; date +%s >begun")
	r := h.copied("a", "b", "dom0b", "domu1/xvda", "--taken 2026-11-26T23:47:28Z")
	r.silent(t)
	if want := "info #### dom0b:" + h.path("b") + ": 1048576 bytes changed, "; !strings.HasPrefix(r.out, want) {
		t.Errorf("it says\n%swant\n%s", r.out, want)
	}
	var record struct{ Sent []struct{ Peer string } }
	decode(t, h.must("xb-patch --state a"), &record)
	if len(record.Sent) != 1 || record.Sent[0].Peer != "dom0b" {
		t.Errorf("the state is %+v", record)
	}

	h.must("printf x >>b")
	r = h.copied("a", "b", "dom0b", "domu1/xvda", "")
	r.fails(t, 80)
	for _, want := range []string{
		"err ### ERROR 80: DomU domu1, disk xvda: " + h.path("a") + " was not copied to dom0b:" + h.path("b") + ": ",
		"err #### DomU domu1, disk xvda, dom0b:" + h.path("b") + ": xb-patch: ", "xb-patch --discard-changes b",
	} {
		if strings.Count(r.out, want) != 1 {
			t.Errorf("it does not say once %q:\n%s", want, r.out)
		}
	}
	r = h.sh("xb-patch --record --peer dom0c --disk domu2/xvda --target /none --stages '127 65 65' a </dev/null")
	r.fails(t, 76)
	if !strings.Contains(r.out, "update xen-backup on dom0c") {
		t.Error(r.out)
	}
	h.sh("echo 'it is not there' | xb-patch --record --peer - --disk domu3 --stages 69").fails(t, 69)

	out := h.must("xb-patch --list --since $(cat begun)")
	age := time.Since(time.Date(2026, 11, 26, 23, 47, 28, 0, time.UTC))
	if want := "3 DomUs, 2 disks, 2 Dom0s: 0 copied, 3 failed; oldest domu2 xvda on dom0c, never copied\n"; out != want && age > 0 {
		t.Errorf("%q, want %q", out, want)
	}
	if out := h.must("xb-patch --list --order domu1 domu2 domu3"); out != "domu2\ndomu3\ndomu1\n" {
		t.Errorf("the order is %q", out)
	}
	if out := h.must("xb-patch --list --since 2036-01-01T00:00:00Z"); out != "" {
		t.Errorf("nothing was done: %q", out)
	}
}

// TestList: both sides of real copies are listed, and judged.
func TestList(t *testing.T) {
	h := newHost(t)
	h.must("head -c 1M /dev/urandom >a")
	if out := h.must("xb-patch --list"); out != "" {
		t.Errorf("nothing was done: %q", out)
	}
	h.copied("a", "b", "dom0b", "domu1/xvda", "").silent(t)
	out := h.must("xb-patch --list --metrics m")
	for _, want := range []string{"DOMU   DISK  TO ", "\ndomu1  xvda  dom0b ", "DOMU   DISK  FROM ", "\ndomu1  xvda  here ", " clean "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out := h.must("cat m"); !strings.Contains(out, `xen_backup_bytes_changed{domu="domu1",disk="xvda",peer="dom0b",role="source"} 1048576`) {
		t.Error(out)
	}
	judge := func(line string, status int, words string) {
		t.Helper()
		r := h.sh("printf '" + line + "\\n' | xb-patch --list --expected - --max-age 26h")
		if r.fails(t, status); !strings.HasPrefix(r.out, words) || r.err != "" {
			t.Errorf("%s: it says\n%s%swant\n%s", line, r.out, r.err, words)
		}
	}
	judge(`domu1\tdom0a\tdom0b\tyes\txvda`, 0, "OK: 1 DomU, 1 image, all younger than 26 h; oldest domu1 xvda on dom0b, ")
	judge(`domu1\tdom0a\tdom0b dom0c\tyes\txvda`, 2, "CRITICAL: domu1: xvda on dom0c was never copied\n")
	judge(`domu2\tdom0a\tdom0b\tno\t`, 2, "CRITICAL: domu2: it does not run here and was never copied here")
	judge(`domu1`, 3, "UNKNOWN: line 1 of what is expected ")
	h.sh("xb-patch --list --expected none --max-age 26h").fails(t, 3)
	h.sh("xb-patch --list --expected none --max-age 26h --metrics no/such/file").fails(t, 3)
	untold := h.sh("xb-patch --list --expected none --max-age 26h --json")
	var answer struct {
		Status int
		Line   string
	}
	if err := json.Unmarshal([]byte(untold.out), &answer); err != nil || answer.Status != 3 ||
		!strings.HasPrefix(answer.Line, "UNKNOWN: ") || untold.status != 3 {
		t.Errorf("status %d, %v: %s", untold.status, err, untold.out)
	}
	h.must("printf x >>b; rm -r ../state/runs; mkdir -p ../state/xml")
	h.must(`echo '<domain><name>domu1</name><devices><disk><source file="/b"/><target dev="xvda"/></disk></devices></domain>' >../state/xml/domu1.xml`)
	judge(`domu1\tdom0b\tdom0a\tno\t`, 2, "CRITICAL: domu1: "+h.path("b")+" was changed since it was copied")
	h.must("chmod 000 ../state; : >../state/runs")
	judge(`domu1\tdom0b\tdom0a\tno\t`, 3, "UNKNOWN: cannot read what is remembered of runs")
}

// TestRecordReadsAllWords: whoever tells them is not ended by it, whatever they are.
func TestRecordReadsAllWords(t *testing.T) {
	h := newHost(t)
	r := h.pipe("head -c 20M /dev/urandom", "xb-patch --record --peer - --disk domu1 --stages 69")
	if r.statuses[0] != 0 || r.statuses[1] != 69 || len(r.out) > 1<<20 {
		t.Errorf("statuses %d, %d bytes", r.statuses, len(r.out))
	}
}

// TestUsageOfRecord: a report that does not say what was done is none.
func TestUsageOfRecord(t *testing.T) {
	h := newHost(t)
	h.must("echo >a")
	for _, options := range []string{
		"--peer b --disk d/a a", "--peer b --disk d/a --stages 0 --target t a", "--peer b --disk d/a --stages 80 a",
		"--peer b --disk d/a --stages 80 --target t", "--peer - --disk d/a --stages 80 --target t a", "--peer b --disk d --stages 80 a",
		"--disk d --stages 80", "--peer b --stages 80", "--peer b a", "--peer b --disk d --stages x", "--peer b --disk d --step copy --stages 80",
		"--peer b --disk d/a --step commit --stages 80 --target t a", "--peer b --disk d --stages 80 --create",
		"--peer b --disk d --stages 80 --stalled 0", "--peer b --disk /a --stages 80 --target t a", "--peer b --disk d/ --stages 80 --target t a",
		"--peer b --disk d --stages 80 --taken now",
	} {
		h.sh("xb-patch --record "+options+" </dev/null").fails(t, 64)
	}
	for _, options := range []string{"--expected -", "--max-age 26h", "--expected - --max-age 0h", "--expected - --max-age 26h a",
		"--json --order a", "--metrics m --order a", "--order --since 1", "--when", "--when domu1", "--when --order a/b", "--since 1 domu1", "--since yesterday", "--order --peer b a"} {
		h.sh("xb-patch --list "+options).fails(t, 64)
	}
	h.sh("xb-patch --disk domu1 a </dev/null").fails(t, 64, "DOMU/DISK")
}
