package runs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"xen-backup/internal/base"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// host is a source host for one test.
type host struct {
	*testing.T
	dir    state.Dir
	source string
}

func newHost(t *testing.T) *host {
	h := &host{t, state.Dir(t.TempDir()), filepath.Join(t.TempDir(), "a.img")}
	testkit.Write(t, h.source, "image")
	return h
}

// report is one of a disk, whose stages said these words.
func (h *host) report(stages string, words ...string) *Report {
	h.Helper()
	r := &Report{DomU: "domu1", Disk: "xvda", Peer: "dom0b", Source: h.source, Target: "/dev/vg/a", Step: CopyStep}
	var err error
	if r.Stages, err = ParseStages(stages); err != nil {
		h.Fatal(err)
	}
	if err := r.ReadWords(strings.NewReader(strings.Join(words, "\n"))); err != nil {
		h.Fatal(err)
	}
	if r.causeOf() == exit.OK {
		r.Sent = &Sent{Image: stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: 5}, BytesRead: 5, Changed: 4, Bytes: 3,
			Seconds: 90}
	}
	return r
}

// wholeDomU makes it one of the whole DomU.
func (r *Report) wholeDomU(step Step, peer string) *Report {
	r.Disk, r.Source, r.Target, r.Step, r.Peer, r.Sent = "", "", "", step, peer, nil
	return r
}

// record remembers a report, and demands a status and lines for the log.
func (h *host) record(r *Report, status int, want ...string) {
	h.Helper()
	lines, got := r.Record(h.dir)
	var text []string
	for _, line := range lines {
		text = append(text, line.Level+" "+line.Text)
	}
	if got != status || strings.Join(text, "\n") != strings.Join(want, "\n") {
		h.Errorf("status %d, want %d, lines\n%s\nwant\n%s", got, status, strings.Join(text, "\n"), strings.Join(want, "\n"))
	}
}

// remembered returns what is remembered of a disk; nil if nothing is.
func (h *host) remembered(disk, peer string) *Copy {
	h.Helper()
	c, err := load(h.dir, disk, peer)
	if err != nil {
		h.Fatal(err)
	}
	return c
}

// TestCause: which of several statuses tells what went wrong.
func TestCause(t *testing.T) {
	for stages, want := range map[string]int{
		"": 0, "0": 0, "0 0 0": 0,
		"0 0 80": 80, "65 74 80": 80, "0 65 0": 65, "0 74 65": 74, "255 65 65": 69, "0 82 65": 82, "83 82 80": 82,
		"80 83 83": 83, "75 0 80": 80, "66 65 75": 75, "66 65 76": 66, "76 65 69": 76, "69 65 73": 69, "73 74 65": 73,
		"70 74 65": 70, "0 0 143": 143, "0 141 80": 80, "0 141 65": 74, "0 0 124": 69, "126 65 65": 69,
		"127 65 65": 76, "0 0 127": 76, "64 65 65": 76, "0 0 64": 76, // of the far side: it is too old
		"0 127 65": 69, "0 64 65": 78, // of this one it is not
		"1": 1, "0 1": 1,
	} {
		stages, err := ParseStages(stages)
		r := Report{Peer: "dom0b", Step: CopyStep, Stages: stages}
		if got := r.causeOf(); got != want || err != nil {
			t.Errorf("%v: %d, %v, want %d", stages, got, err, want)
		}
	}
	for _, bad := range []string{"x", "0 -1", "256", "0,0"} {
		if stages, err := ParseStages(bad); err == nil {
			t.Errorf("%q is %v", bad, stages)
		}
	}
}

func TestRecordCopy(t *testing.T) {
	h := newHost(t)
	taken := time.Date(2026, 11, 26, 23, 47, 28, 0, time.UTC)
	r := h.report("0 0 0", "progress", "", "xb-patch: first contact\r", "waiting")
	r.Taken, r.Set = taken, strings.Repeat("a", 26)
	h.record(r, 0, "warning #### DomU domu1, disk xvda, dom0b:/dev/vg/a: xb-patch: first contact",
		"info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read")
	c := h.remembered("domu1/xvda", "dom0b")
	if s := c.Success; s == nil || !s.Of().Equal(taken) || s.Changed != 4 || s.Sent != 3 || s.Read != 5 || s.Seconds != 90 ||
		s.Set != r.Set || s.Size != 5 || time.Since(s.Time) > time.Minute || c.Failures != 0 || c.Source != h.source ||
		c.Target != "/dev/vg/a" || s.Final || s.Witness != "" || !c.Verified.IsZero() {
		t.Errorf("remembered is %+v, %+v", c, s)
	}
	sent := testkit.Names(t, filepath.Join(string(h.dir), "sent"))
	if !strings.Contains(sent, "a.img") {
		t.Errorf("what was sent is remembered of %q", sent)
	}

	// Without the time of a snapshot a copy is of when its source began to be read.
	h.record(h.report("0 0 0"), 0, "info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read")
	if s := h.remembered("domu1/xvda", "dom0b").Success; s.Time.Sub(s.Of()) != 90*time.Second {
		t.Errorf("it is of %v, and was done at %v", s.Of(), s.Time)
	}

	r = h.report("0 0 0")
	r.Final, r.Verified = true, true
	h.record(r, 0, "info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read", "info #### dom0b:/dev/vg/a: verified")
	if c := h.remembered("domu1/xvda", "dom0b"); !c.Success.Final || c.Success.Witness == "" || c.Verified.IsZero() {
		t.Errorf("remembered is %+v, %+v", c, c.Success)
	}
}

func TestRecordFailures(t *testing.T) {
	h := newHost(t)
	h.record(h.report("0 0 0"), 0, "info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read")
	before := h.remembered("domu1/xvda", "dom0b").Success
	for n := 1; n <= 3; n++ {
		h.record(h.report("0 65 75", "xb-patch: /dev/vg/a: it is mounted", "  on /mnt"), 75,
			"err ### ERROR 75: DomU domu1, disk xvda: "+h.source+" was not copied to dom0b:/dev/vg/a: "+
				"somebody else uses the standby or the source",
			"err #### DomU domu1, disk xvda, dom0b:/dev/vg/a: xb-patch: /dev/vg/a: it is mounted",
			"err #### DomU domu1, disk xvda, dom0b:/dev/vg/a:   on /mnt")
		c := h.remembered("domu1/xvda", "dom0b")
		if c.Failures != n || c.Attempt.Status != 75 || *c.Success != *before ||
			!strings.HasSuffix(c.Attempt.Words, "was not copied to dom0b:/dev/vg/a: xb-patch: /dev/vg/a: it is mounted") {
			t.Errorf("remembered is %+v", c)
		}
	}
	h.record(h.report("0 0 0"), 0, "info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read")
	if c := h.remembered("domu1/xvda", "dom0b"); c.Failures != 0 || c.Attempt.Failed() {
		t.Errorf("remembered is %+v", c)
	}
}

// TestMeanings: the words name the disk, the Dom0 and the cure.
func TestMeanings(t *testing.T) {
	h := newHost(t)
	testkit.Write(t, h.source, "image")
	copied := "err ### ERROR %d: DomU domu1, disk xvda: " + h.source + " was not copied to dom0b:/dev/vg/a: "
	begins := func(r *Report, status int, want string) {
		t.Helper()
		lines, got := r.Record(h.dir)
		if text := lines[0].Level + " " + lines[0].Text; got != status || !strings.HasPrefix(text, want) {
			t.Errorf("status %d, want %d:\n%s\nwant\n%s", got, status, text, want)
		}
	}
	begins(h.report("127 65 65"), 76, fmt.Sprintf(copied, 76)+
		"what it needs of xen-backup is not installed there, or too old: update xen-backup on dom0b")
	begins(h.report("76 65 65"), 76, fmt.Sprintf(copied, 76)+"the other side sends something else: is its login shell silent")
	// Of a standby that is another's, or gone, forcing is no cure: what is one is in the words of xb-patch.
	for _, words := range []string{"x is the standby of domu2/xvda", "x is missing, although a sync left an image in it: y", "x has diverged"} {
		r := h.report("0 0 80", words)
		begins(r, 80, fmt.Sprintf(copied, 80)+"the standby is not what both hosts last had: nothing was overwritten")
		if lines, _ := r.Record(h.dir); strings.Contains(lines[0].Text, "--force-diverged") || !strings.HasSuffix(lines[1].Text, words) {
			t.Errorf("%v", lines)
		}
	}
	begins(h.report("0 0 137"), 137, fmt.Sprintf(copied, 137)+
		"a program on dom0b was ended by signal 9 (killed): for want of memory? See dmesg there")
	begins(h.report("0 143 65"), 143, fmt.Sprintf(copied, 143)+"a program here was ended by signal 15 (terminated)")
	r := h.report("0 0 80")
	r.Last = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	begins(r, 80, fmt.Sprintf(copied, 80)+"the standby is not what both hosts last had, at 2001-02-03T04:05:06Z: ")
	if lines, _ := r.Record(h.dir); !strings.Contains(lines[0].Text, " would lose ") ||
		!strings.Contains(lines[0].Text, " Last written to: here at ") {
		t.Error(lines[0].Text)
	}
	r = h.report("143 74 143", "xb-delta: ended")
	r.Stalled = 900
	begins(r, 69, fmt.Sprintf(copied, 69)+"no progress for 900 s")
	if words := h.remembered("domu1/xvda", "dom0b").Attempt.Words; !strings.HasSuffix(words, "no progress for 900 s") {
		t.Error(words)
	}
	begins(h.report("83").wholeDomU(Commit, "dom0b"), 83,
		"err ### ERROR 83: DomU domu1: its disks on dom0b did not become the new ones together: an interrupted apply must be")
	begins(h.report("255").wholeDomU(Connect, "dom0c"), 69, "err ### ERROR 69: DomU domu1: remote Dom0 dom0c cannot be reached")
	begins(h.report("81").wholeDomU(Ask, "dom0c"), 81, "err ### ERROR 81: DomU domu1: it runs on dom0c too: nothing is touched")
	begins(h.report("64").wholeDomU(Ask, "dom0c"), 76, "err ### ERROR 76: DomU domu1: remote Dom0 dom0c cannot tell whether "+
		"the DomU runs there: what it needs of xen-backup is not installed there, or too old: update xen-backup on dom0c")
	begins(h.report("73").wholeDomU(Snapshot, ""), 73, "err ### ERROR 73: DomU domu1: no snapshots")
	r = h.report("69", "it does not let itself be paused").wholeDomU(Other, "")
	h.record(r, 69, "err ### ERROR 69: DomU domu1: it does not let itself be paused")
}

// TestWholeDomU: what failed for the whole DomU is over when one of its disks was copied: on the way to that peer, or to all.
func TestWholeDomU(t *testing.T) {
	h := newHost(t)
	for range 2 {
		h.report("73").wholeDomU(Snapshot, "").Record(h.dir)
		h.report("255").wholeDomU(Connect, "dom0b").Record(h.dir)
		h.report("255").wholeDomU(Connect, "dom0c").Record(h.dir)
	}
	if c := h.remembered("domu1", ""); c.Failures != 2 || c.Attempt.Step != Snapshot || c.Name() != "" || c.DomU() != "domu1" {
		t.Errorf("remembered is %+v", c)
	}
	h.report("0 0 0").Record(h.dir)
	if h.remembered("domu1", "") != nil || h.remembered("domu1", "dom0b") != nil {
		t.Error("a copy has not ended what had failed before")
	}
	if c := h.remembered("domu1", "dom0c"); c == nil || c.Failures != 2 {
		t.Errorf("of another peer is remembered %+v", c)
	}
}

func TestVerify(t *testing.T) {
	h := newHost(t)
	verify := func(stages string) *Report {
		r := h.report(stages)
		r.Step = Verify
		return r
	}
	h.report("0 0 0").Record(h.dir)
	h.record(verify("0 1"), 1, "err ### ERROR 1: DomU domu1, disk xvda: dom0b:/dev/vg/a was compared with its source: they differ")
	c := h.remembered("domu1/xvda", "dom0b")
	if c.Success == nil || c.Failures != 1 || !c.Verified.IsZero() {
		t.Errorf("remembered is %+v", c)
	}
	h.record(verify("0 0"), 0, "info #### dom0b:/dev/vg/a: verified")
	if c = h.remembered("domu1/xvda", "dom0b"); c.Failures != 0 || c.Verified.IsZero() {
		t.Errorf("remembered is %+v", c)
	}
	h.report("0 0 80").Record(h.dir)
	h.record(verify("0 0"), 0, "info #### dom0b:/dev/vg/a: verified")
	if c = h.remembered("domu1/xvda", "dom0b"); c.Failures != 1 || c.Attempt.Status != 80 {
		t.Errorf("that the old copy is one has ended the failure of a new one: %+v", c)
	}
}

// TestNothingToRemember: of other steps only the warnings are told.
func TestNothingToRemember(t *testing.T) {
	h := newHost(t)
	r := h.report("0", "xb-patch: a warning")
	r.Step = Prepare
	h.record(r, 0, "warning #### DomU domu1, disk xvda, dom0b:/dev/vg/a: xb-patch: a warning")
	if names := testkit.Names(t, string(h.dir)); names != "" {
		t.Errorf("it has made %s", names)
	}
}

// TestWords: whatever the far side says, the log gets whole lines of bounded length, and not too many.
func TestWords(t *testing.T) {
	h := newHost(t)
	words := []string{"\x1b[2J\x00", strings.Repeat("ä", 100000), "\xff"}
	for n := range 5000 {
		words = append(words, fmt.Sprint(n))
	}
	lines, status := h.report("0 0 80", words...).Record(h.dir)
	if status != 80 || len(lines) != 1+maxLines+1 || !strings.HasSuffix(lines[len(lines)-1].Text, ": (and 4903 more lines)") {
		t.Errorf("status %d, %d lines, the last is %s", status, len(lines), lines[len(lines)-1])
	}
	for _, line := range lines {
		if len(line.Text) > 2*maxLine || !utf8.ValidString(line.Text) || strings.ContainsAny(line.Text, "\n\x1b\x00") {
			t.Errorf("a line: %q", line.Text)
		}
	}
	if !strings.HasSuffix(lines[1].Text, `: \x1b[2J\x00`) || !strings.HasSuffix(lines[2].Text, "ä...") {
		t.Errorf("%q, %q", lines[1].Text, lines[2].Text)
	}
	r := h.report("0 0 80")
	r.Source = "/srv/a\nerr b"
	lines, _ = r.Record(h.dir)
	if strings.Contains(lines[0].Text, "\n") {
		t.Errorf("two lines: %q", lines[0].Text)
	}
}

// TestNotRemembered: what cannot be remembered is no success.
func TestNotRemembered(t *testing.T) {
	h := newHost(t)
	testkit.Write(t, filepath.Join(string(h.dir), "runs"), "")
	lines, status := h.report("0 0 0").Record(h.dir)
	if status != exit.CantCreate || len(lines) != 1 ||
		!strings.HasPrefix(lines[0].Text, "### ERROR 73: DomU domu1, disk xvda: cannot remember what dom0b has of "+h.source+": ") {
		t.Errorf("status %d, %v", status, lines)
	}
	lines, status = h.report("0 0 80").Record(h.dir)
	if status != 80 || len(lines) != 2 || !strings.HasPrefix(lines[1].Text, "### ERROR 73: ") {
		t.Errorf("status %d, %v", status, lines)
	}
	// The image that was sent is not known.
	h = newHost(t)
	r := h.report("0 0 0")
	r.Sent, r.Unsent = nil, exit.Fail(exit.BadStream, "no summary")
	h.record(r, 65, "err ### ERROR 65: DomU domu1, disk xvda: cannot remember what dom0b has of "+h.source+": no summary")
	if c := h.remembered("domu1/xvda", "dom0b"); c.Success != nil || c.Failures != 1 {
		t.Errorf("remembered is %+v", c)
	}
	for _, name := range []string{".", "..", ".x", strings.Repeat("x", 300)} {
		r := h.report("0 0 0")
		r.Peer = name
		if _, status := r.Record(h.dir); status != exit.Usage {
			t.Errorf("peer %q: status %d", name, status)
		}
		r = h.report("0 0 0")
		r.DomU = name
		if _, status := r.Record(h.dir); status != exit.Usage {
			t.Errorf("DomU %q: status %d", name, status)
		}
	}
}

// TestDamagedMemory: it is no memory, and the next run makes it one again.
func TestDamagedMemory(t *testing.T) {
	h := newHost(t)
	h.report("0 0 0").Record(h.dir)
	file := fileOf(h.dir, "domu1/xvda", "dom0b")
	right := testkit.Read(t, file)
	for name, text := range map[string]string{
		"empty": "", "cut": right[:len(right)/2], "null": "null", "zeroes": strings.Repeat("\x00", 100),
		"version":  strings.Replace(right, `"version": 1`, `"version": 2`, 1),
		"another":  strings.Replace(right, `"disk": "domu1/xvda"`, `"disk": "domu2/xvda"`, 1),
		"its peer": strings.Replace(right, `"peer": "dom0b"`, `"peer": "dom0c"`, 1),
		"no time":  strings.Replace(right, `"time"`, `"tame"`, 1),
		"negative": strings.Replace(right, `"seconds": 90`, `"seconds": -90`, 1),
		"endless":  strings.Replace(right, `"seconds": 90`, `"seconds": 1e300`, 1),
		"figures":  strings.Replace(right, `"failures": 0`, `"failures": -1`, 1),
	} {
		if text == right {
			t.Fatalf("%s: nothing is damaged", name)
		}
		testkit.Write(t, file, text)
		copies, damaged, err := everything(h.dir, nil)
		if len(copies) != 0 || len(damaged) != 1 || damaged[0].Disk != "domu1/xvda" || damaged[0].Peer != "dom0b" || err != nil {
			t.Errorf("%s: %v, %v, %v", name, copies, damaged, err)
		}
		if _, status := h.report("0 0 75").Record(h.dir); status != 75 {
			t.Errorf("%s: status %d", name, status)
		}
		if c := h.remembered("domu1/xvda", "dom0b"); c.Success != nil || c.Failures != 1 {
			t.Errorf("%s: remembered is %+v", name, c)
		}
	}
}

// TestTwoRecorders: none of many that count at the same time is lost, and what killed ones left is swept up.
func TestTwoRecorders(t *testing.T) {
	h := newHost(t)
	h.report("0 0 80").Record(h.dir)
	left := filepath.Join(filepath.Dir(fileOf(h.dir, "domu1/xvda", "dom0b")), ".dom0b.json.123")
	testkit.Write(t, left, "{")
	if copies, damaged, err := everything(h.dir, nil); len(copies) != 1 || len(damaged) != 0 || err != nil {
		t.Errorf("%v, %v, %v", copies, damaged, err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			h.report("0 0 80").Record(h.dir)
			h.report("0 0 75").wholeDomU(Snapshot, "").Record(h.dir)
		})
	}
	all.Wait()
	if a, b := h.remembered("domu1/xvda", "dom0b"), h.remembered("domu1", ""); a.Failures != 21 || b.Failures != 20 {
		t.Errorf("%d and %d failures", a.Failures, b.Failures)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a killed recorder left is still there")
	}
}

// TestLockedMemory: a recorder that stands still stops nobody for ever.
func TestLockedMemory(t *testing.T) {
	h := newHost(t)
	release, err := pairs(h.dir).Lock(patience)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	defer func(d time.Duration) { patience = d }(patience)
	patience = 50 * time.Millisecond
	lines, status := h.report("0 0 0").Record(h.dir)
	if status != exit.Busy || len(lines) != 1 || !strings.Contains(lines[0].Text, "lock") {
		t.Errorf("status %d, %v", status, lines)
	}
}

// TestRecordSettles: a copy that was made tells which base its peer has; one that failed tells nothing.
func TestRecordSettles(t *testing.T) {
	h := newHost(t)
	r := h.report("0 0 0")
	kept := base.Record{Peer: "dom0b", Disk: "domu1/xvda", Source: h.source, Origin: "o", Snapshot: "/s", Identity: "i",
		Image: r.Sent.Image.Text(), Taken: time.Unix(1, 0)}
	store, err := base.Open(h.dir)
	if err == nil {
		err = store.Keep(kept, stream.Image{})
	}
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	status := func() base.Status {
		t.Helper()
		all, err := base.All(h.dir)
		if err != nil || len(all) != 1 || len(all[0].Records()) != 1 {
			t.Fatal(all, err)
		}
		return all[0].Records()[0].Status
	}
	h.report("0 0 80").Record(h.dir)
	if got := status(); got != base.Pending {
		t.Errorf("after a copy that failed: %s", got)
	}
	h.record(r, 0, "info #### dom0b:/dev/vg/a: 4 bytes changed, 3 sent, 5 read")
	if got := status(); got != base.Sent {
		t.Errorf("after a copy that was made: %s", got)
	}
}
