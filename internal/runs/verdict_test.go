package runs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

const maxAge = 26 * time.Hour

// judge judges lines of --expected, with blanks for tabs.
func (h *host) judge(lines ...string) *Verdict {
	h.Helper()
	text := strings.NewReplacer(" | ", "\t").Replace(strings.Join(lines, "\n"))
	expected, err := ReadExpected(strings.NewReader(text))
	if err != nil {
		h.Fatal(err)
	}
	l, err := Look(h.dir, nil, now)
	if err != nil {
		h.Fatal(err)
	}
	return Judge(expected, l, maxAge)
}

// want demands a status, and words in the findings.
func (h *host) want(line string, status Severity, words ...string) {
	h.Helper()
	v := h.judge(line)
	if v.Status() != status {
		h.Errorf("%s: status %d, want %d\n%s", line, v.Status(), status, v.Text())
	}
	for _, w := range words {
		if !strings.Contains(v.Text(), w) {
			h.Errorf("%s: no %q in\n%s", line, w, v.Text())
		}
	}
}

// pipe puts one in a file's place.
func pipe(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// document stores that of a DomU with these disks, of a set.
func (h *host) document(domu, set string, targets ...string) {
	h.Helper()
	text := "<domain type='xen'><name>" + domu + "</name><devices>"
	for _, target := range targets {
		text += "<disk type='file' device='disk'><source file='/srv/x'/><target dev='" + target + "'/></disk>"
	}
	text += "<disk type='file' device='cdrom'><source file='/srv/cd'/><target dev='sda'/></disk></devices></domain>\n"
	if set != "" {
		text = "<!-- xen-backup: set " + set + ", taken 2026-11-27T11:00:00Z -->\n" + text
	}
	dir := filepath.Join(string(h.dir), "xml")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	testkit.Write(h.T, filepath.Join(dir, domu+".xml"), text)
}

const here = "domu1 | dom0a | dom0b dom0c | yes | xvda xvdb"

// complete makes all copies that here expects.
func (h *host) complete() {
	for _, disk := range []string{"domu1/xvda", "domu1/xvdb"} {
		for _, peer := range []string{"dom0b", "dom0c"} {
			h.remember(disk, peer, time.Hour, 0)
		}
	}
}

// TestVerdictOfASource: 0 is a promise.
func TestVerdictOfASource(t *testing.T) {
	for _, test := range []struct {
		name   string
		do     func(h *host)
		line   string
		status Severity
		words  string
	}{
		{"all young", func(h *host) {}, here, Good, "OK: 1 DomU, 4 images, all younger than 26 h; oldest domu1 xvda on dom0b, 60 min\n"},
		{"one old", func(h *host) { h.remember("domu1/xvdb", "dom0c", 27*time.Hour, 0) }, here, Old, "WARNING: domu1: xvdb on dom0c is 27 h old\n"},
		{"just as old", func(h *host) { h.remember("domu1/xvdb", "dom0c", maxAge, 0) }, here, Old, ""},
		{"twice as old", func(h *host) { h.remember("domu1/xvdb", "dom0c", 53*time.Hour, 0) }, here, Failing, "CRITICAL: domu1: xvdb on dom0c is 53 h old, more than twice 26 h\n"},
		{"taken long ago", func(h *host) {
			h.change(h.remember("domu1/xvdb", "dom0c", time.Hour, 0), func(c *Copy) { c.Success.Taken = now.Add(-27 * time.Hour) })
		}, here, Old, "xvdb on dom0c is 27 h old"},
		{"fails", func(h *host) { h.remember("domu1/xvdb", "dom0c", time.Hour, 2) }, here, Failing, "CRITICAL: domu1: xvdb on dom0c is 60 min old, and 2 runs failed since: it is mounted\n"},
		{"failed always", func(h *host) { h.remember("domu1/xvdb", "dom0c", 0, 3) }, here, Failing, "xvdb on dom0c was never copied, and 3 runs failed since: it is mounted"},
		{"never copied", func(h *host) { _ = pairs(h.dir).Remove("domu1/xvdb", "dom0c") }, here, Failing, "xvdb on dom0c was never copied"},
		{"a new disk", func(h *host) {}, strings.Replace(here, "xvdb", "xvdb xvdc", 1), Failing, "xvdc on dom0b was never copied"},
		{"a new peer", func(h *host) {}, strings.Replace(here, "dom0c", "dom0c dom0d", 1), Failing, "xvda on dom0d was never copied"},
		{"a disk that is left out", func(h *host) { h.remember("domu1/xvdz", "dom0b", 900*time.Hour, 4) }, here, Good, ""},
		{"a peer that is none any more", func(h *host) { h.remember("domu1/xvda", "dom0z", 900*time.Hour, 4) }, here, Good, ""},
		{"of the future", func(h *host) { h.remember("domu1/xvdb", "dom0c", -time.Hour, 0) }, here, Unknown, "UNKNOWN: domu1: xvdb on dom0c was copied in the future"},
		{"taken in the future", func(h *host) {
			h.change(h.remember("domu1/xvdb", "dom0c", 27*time.Hour, 0), func(c *Copy) { c.Success.Taken = now.Add(time.Hour) })
		}, here, Old, "xvdb on dom0c is 27 h old"},
		{"clocks apart", func(h *host) { h.remember("domu1/xvdb", "dom0c", -time.Minute, 0) }, here, Good, ""},
		{"damaged", func(h *host) { testkit.Write(h.T, fileOf(h.dir, "domu1/xvdb", "dom0c"), "{") }, here, Unknown, "xvdb on dom0c: what is remembered of it cannot be read"},
		{"empty file", func(h *host) { testkit.Write(h.T, fileOf(h.dir, "domu1/xvdb", "dom0c"), "") }, here, Unknown, ""},
		{"the whole DomU", func(h *host) { h.remember("domu1", "", 0, 2) }, here, Failing, "domu1: 2 runs failed in a row: it is mounted"},
		{"the whole DomU to a peer", func(h *host) { h.remember("domu1", "dom0c", 0, 1) }, here, Failing, "1 run failed in a row"},
		{"the whole DomU to another peer", func(h *host) { h.remember("domu1", "dom0z", 0, 1) }, here, Good, ""},
		{"sets", func(h *host) {
			h.change(h.remember("domu1/xvdb", "dom0c", time.Hour, 0), func(c *Copy) { c.Success.Set = setA })
		}, here, Unknown, "whether its disks on dom0c are of one moment cannot be told"},
		{"disks not known", func(h *host) {}, "domu1 | dom0a | dom0b dom0c | yes", Unknown, "which disks it has cannot be told"},
		{"no other Dom0", func(h *host) {}, "domu1 | dom0a |  | yes | xvda", Failing, "names no other Dom0"},
		{"not of this host", func(h *host) {}, "domu1 | - | dom0b | yes | xvda", Failing, "names no other Dom0"},
		{"this host not known", func(h *host) {}, "domu1 |  | dom0b | yes | xvda", Unknown, "which of DOM0S is this host"},
		{"may run here", func(h *host) {}, "domu1 | dom0a | dom0b | unknown | ", Unknown, "whether it runs here cannot be told"},
		{"a typo", func(h *host) {}, "domu9 | dom0a | dom0b | no | ", Failing, "does not run here and was never copied here"},
		{"of other hosts", func(h *host) {}, "domu9 | - | dom0b | no | ", Unknown, "no image was found to judge"},
		{"of other hosts, too", func(h *host) {}, here + "\ndomu9 | - | dom0b | no | ", Good, "nothing of it is expected here"},
		{"failed without words", func(h *host) {
			h.change(h.remember("domu1/xvdb", "dom0c", 0, 3), func(c *Copy) { c.Attempt.Words = "" })
		}, here, Failing, "xvdb on dom0c was never copied, and 3 runs failed since\n"},
		{"a pipe", func(h *host) { pipe(h.T, fileOf(h.dir, "domu1/xvdb", "dom0c")) }, here, Unknown, "cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			h.complete()
			test.do(h)
			h.want(test.line, test.status, test.words)
		})
	}
}

// TestVerdictOfNothing: where nothing is expected, nothing is well.
func TestVerdictOfNothing(t *testing.T) {
	h := newHost(t)
	if v := h.judge(); v.Status() != Unknown {
		t.Error(v.Text())
	}
	for _, line := range []string{"domu1", "domu1\ta\tb\tmaybe\t", "\ta\tb\tyes\t", "a/b\ta\tb\tyes\t", "d\ta\tb\tyes\tx\ty"} {
		if all, err := ReadExpected(strings.NewReader(line)); err == nil {
			t.Errorf("%q is %v", line, all)
		}
	}
}

// TestWorstFirst: what fails comes before what cannot be told, and that before what is old.
func TestWorstFirst(t *testing.T) {
	h := newHost(t)
	h.remember("a/xvda", "dom0b", 27*time.Hour, 0)
	h.remember("b/xvda", "dom0b", time.Hour, 1)
	h.change(h.remember("b/xvda", "dom0b", time.Hour, 1), func(c *Copy) { c.Attempt.Words = "x|y" })
	v := h.judge("a | dom0a | dom0b | yes | xvda", "c | dom0a | dom0b | yes | ", "b | dom0a | dom0b | yes | xvda")
	lines := strings.Split(v.Text(), "\n")
	if v.Status() != Failing || lines[0] != "CRITICAL: b: xvda on dom0b is 60 min old, and 1 run failed since: x/y (and 2 more)" ||
		!strings.HasPrefix(lines[2], "UNKNOWN   c: ") || lines[3] != "WARNING   a: xvda on dom0b is 27 h old" {
		t.Error(v.Text())
	}
	text, err := v.JSON()
	var j struct {
		Status   int
		Findings []struct{ DomU string }
		Source   []struct{ DomU, Disk string }
	}
	if err != nil || json.Unmarshal([]byte(text), &j) != nil || j.Status != 2 || len(j.Findings) != 3 || len(j.Source) != 2 ||
		j.Source[0].DomU != "a" || j.Source[0].Disk != "xvda" {
		t.Errorf("%v: %s", err, text)
	}
}

const away = "domu1 | dom0b | dom0a | no | "

// TestVerdictOfAStandby: the dead man's switch.
func TestVerdictOfAStandby(t *testing.T) {
	set := func(h *host, age time.Duration) []*state.Record {
		h.document("domu1", setA, "xvda", "xvdb")
		return h.holdSet(setA, age, "domu1/xvda", "domu1/xvdb")
	}
	for _, test := range []struct {
		name   string
		do     func(h *host)
		status Severity
		words  string
	}{
		{"whole and young", func(h *host) { set(h, time.Hour) }, Good, "OK: 1 DomU, 2 images"},
		{"old", func(h *host) { set(h, 27*time.Hour) }, Old, "xvda here is 27 h old"},
		{"older than twice", func(h *host) { set(h, 60*time.Hour) }, Failing, "xvda here is 60 h old, more than twice"},
		{"one disk", func(h *host) { h.document("domu1", "", "xvda"); h.hold("domu1/xvda", time.Hour, "") }, Good, "1 image"},
		{"a disk that was never copied", func(h *host) { set(h, time.Hour); h.document("domu1", setA, "xvda", "xvdb", "xvdc") }, Failing, "xvdc was never copied here"},
		{"a disk that is left out", func(h *host) { set(h, time.Hour); h.hold("domu1/xvdz", 900*time.Hour, "") }, Good, ""},
		{"a disk of the set that the document lacks", func(h *host) {
			records := set(h, time.Hour)
			h.document("domu1", setA, "xvda")
			records[1].Phase = state.Incomplete
			h.holdAs(h.file("domu1/xvdb"), records[1])
		}, Failing, "xvdb is a part of an image"},
		{"no document", func(h *host) { h.holdSet(setA, time.Hour, "domu1/xvda", "domu1/xvdb") }, Unknown, "whether these are all its disks cannot be told"},
		{"no document, one by one", func(h *host) { h.hold("domu1/xvda", time.Hour, ""); h.hold("domu1/xvdb", time.Hour, "") }, Failing, "not of one moment"},
		{"another document", func(h *host) { set(h, time.Hour); h.document("domu1", setB, "xvda", "xvdb") }, Old, "the document by which it would be started"},
		{"mixed", func(h *host) { set(h, time.Hour); h.hold("domu1/xvdb", time.Hour, setB) }, Failing, "not of one moment"},
		{"applying", func(h *host) {
			records := set(h, time.Hour)
			r := records[0]
			r.Phase, r.Spool, r.Last = state.Applying, h.dir.Device(h.file("domu1/xvda"), "").SpoolFile(""), &state.Last{Time: now.Add(-48 * time.Hour)}
			h.holdAs(h.file("domu1/xvda"), r)
		}, Failing, "xvda is between two images, and the last whole image was of 2026-11-25T12:00:00Z; xb-patch --recover "},
		{"incomplete", func(h *host) {
			h.document("domu1", "", "xvda")
			h.holdAs(h.file("domu1/xvda"), &state.Record{Phase: state.Incomplete, Disk: "domu1/xvda", Time: now})
		}, Failing, "xvda is a part of an image, and no whole image was ever here"},
		{"missing", func(h *host) { set(h, time.Hour); os.Remove(h.file("domu1/xvda")) }, Failing, "is missing, or something else has its name"},
		{"of the future", func(h *host) { set(h, -2*time.Hour) }, Unknown, "in the future"},
		{"taken by a clock that goes before", func(h *host) {
			for _, r := range set(h, 27*time.Hour) {
				r.Set.Taken = now.Add(time.Hour)
				h.holdAs(r.Identity, r)
			}
		}, Old, "xvda here is 26 h old"},
		{"unreadable", func(h *host) {
			set(h, time.Hour)
			names, _ := filepath.Glob(string(h.dir) + "/*xvdb.json")
			testkit.Write(h.T, names[0], "{")
		}, Unknown, "UNKNOWN: domu1: "},
		{"another's is unreadable", func(h *host) {
			set(h, time.Hour)
			testkit.Write(h.T, string(h.dir)+"/x.json", "{")
		}, Unknown, "whether it is of it cannot be told"},
		{"sent to this host's peer before", func(h *host) { set(h, time.Hour); h.remember("domu1/xvda", "dom0a", 500*time.Hour, 3) }, Good, ""},
		{"sent to this host's peer since", func(h *host) { set(h, 500*time.Hour); h.remember("domu1/xvda", "dom0a", time.Hour, 0) }, Good, "copied while it ran"},
		{"sent, and failing", func(h *host) { h.remember("domu1/xvda", "dom0a", time.Hour, 2) }, Failing, "2 runs failed since"},
		{"sent to others", func(h *host) { h.remember("domu1/xvda", "dom0z", time.Hour, 0) }, Failing, "copied to none of DOM0S"},
		{"sent long ago", func(h *host) { h.remember("domu1/xvda", "dom0a", 27*time.Hour, 0) }, Old, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			test.do(h)
			h.want(away, test.status, test.words)
		})
	}
}

// TestShutOff: whether what a DomU wrote is all copied tells the witness of its source.
func TestShutOff(t *testing.T) {
	h := newHost(t)
	r := h.report("0 0 0")
	r.Peer, r.Final = "dom0a", true
	r.Record(h.dir)
	look := func(status Severity, words string) {
		t.Helper()
		expected, err := ReadExpected(strings.NewReader(strings.ReplaceAll(away, " | ", "\t")))
		if err != nil {
			t.Fatal(err)
		}
		l, err := Look(h.dir, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if v := Judge(expected, l, maxAge); v.Status() != status || !strings.Contains(v.Text(), words) {
			t.Errorf("want %d, %q:\n%s", status, words, v.Text())
		}
	}
	look(Good, "copied after it was shut off: nothing was written to it since")
	h.change(h.remembered("domu1/xvda", "dom0a"), func(c *Copy) { c.Success.Witness = strings.Replace(c.Success.Witness, "-", "+", 1) })
	look(Good, "whether it was written to since cannot be told")
	r.Record(h.dir)
	testkit.Write(t, h.source, "other")
	look(Good, "is only here. xen-backup.sh --final domu1 copies it")
	h.change(h.remembered("domu1/xvda", "dom0a"), func(c *Copy) { c.Success.Time = time.Now().Add(-30 * time.Hour) })
	look(Old, "h old") // also a final copy: where it runs now, nobody copies it
}
