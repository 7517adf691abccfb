package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// stores stores the document of domu1 as a run does after its copy: with N MiB of memory, and these files as its disks.
func (h *host) stores(n int, options string, disks ...string) {
	h.Helper()
	for i, disk := range disks {
		disks[i] = fmt.Sprintf("%q", h.path(disk)+",raw,xvd"+string(rune('a'+i))+",rw")
	}
	h.write("document", fmt.Appendf(nil, "name = \"domu1\"\nmemory = %d\ndisk = [ %s ]\n# end of the configuration\n", n, strings.Join(disks, ", ")))
	h.must("xb-locate --store domu1 " + options + " <document")
}

// wantDocument demands that domu1 would be started by the document of N MiB, which was kept with the point of that time,
// or is the last one.
func (h *host) wantDocument(options string, n int, of string) {
	h.Helper()
	rows := h.must("rm -f out.*; xb-locate --check-document --document-file out " + options + " domu1")
	first, _, _ := strings.Cut(rows, "\n")
	last := strings.Join(strings.Split(first, "\t")[2:], " ")
	if text := string(h.read("out.cfg")); last != of || !strings.Contains(text, fmt.Sprintf("memory = %d\n", n)) {
		h.Errorf("%q: it is started by the document of %q, want %d of %q:\n%s", options, last, n, of, text)
	}
}

// documents demands that there are just these documents of points.
func (h *host) documents(times ...string) {
	h.Helper()
	want := ""
	for _, time := range times {
		want += "domu1@" + time + ".cfg\n"
	}
	if got := h.sh("ls -A " + h.state + "/xml/at").out; got != want {
		h.Errorf("the documents of points are\n%swant\n%s", got, want)
	}
}

// TestLongDocumentsOfPoints has a point keep the document that was stored when it was made, as long as there is the point, or a
// standby that was made it again.
func TestLongDocumentsOfPoints(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		target := dir + "/target"
		copies := func(n int, options string) {
			t.Helper()
			h.copies(n, target, options).silent(t)
			h.stores(n, "", target)
		}
		copies(1, "--keep 9")
		h.change("source", 9, 98)
		h.auto("source", target, "--keep 9 --taken "+hour(1)).silent(t) // mended, in the same run
		h.documents()
		h.must("xb-snap remove " + h.points(target)[0].path)
		for n := 2; n <= 3; n++ {
			copies(n, "--keep 9")
		}
		h.documents(hour(1), hour(2))
		h.wantDocument("", 3, "")
		h.wantDocument("--at 2026-11-26T02:30:00Z", 2, hour(2))
		h.wantDocument("--at "+hour(1), 1, hour(1))
		h.wantDocument("--at 2026-11-26T00:30:00Z", 3, "")
		h.wantDocument("--at "+hour(9), 3, "")
		h.wantDocument("--at-point "+hour(9), 2, hour(2))

		// A standby that was made a point is started by that one's document, and what it was keeps its own.
		h.must("sleep 1") // points come in an order of whole seconds
		h.must("xb-snap rollback --at " + hour(1) + " " + target)
		h.documents(hour(1), hour(2), hour(3))
		h.wantDocument("", 1, hour(1))
		h.wantDocument("--at "+hour(9), 3, hour(3))
		h.must("xb-snap remove " + h.points(target)[0].path)
		h.wantDocument("", 1, hour(1))
		h.stores(99, "", target) // whoever may store documents changes nothing of it
		h.wantDocument("", 1, hour(1))
		copies(4, "--keep 9")
		h.documents(hour(1), hour(2), hour(3))
		h.wantPoints(target, hour(2), hour(3), hour(1)) // as they came
		h.wantDocument("", 4, "")

		// An older xb-patch has kept none.
		h.must("rm " + h.state + "/xml/at/*02:00*")
		h.wantDocument("--at "+hour(2), 4, "")

		// A document goes with its point, however that goes; but none is taken for left that may be waiting for its point, or
		// whose standby is out of sight.
		points := h.points(target)
		h.must("xb-snap remove " + points[2].path)
		h.documents(hour(3))
		h.must("rm " + points[1].path + " $(grep -lF " + points[1].path + " " + h.state + "/snapshots/*)")
		h.must("xb-snap prune")
		h.documents(hour(3))
		h.must("touch -d '2 hours ago' " + h.state + "/xml/at/*; mv " + target + " away; xb-snap prune")
		h.documents(hour(3))
		h.must("mv away " + target + "; mkfifo " + h.state + "/snapshots/abcdefgh-0.json")
		h.sh("xb-snap prune").fails(t, 0, "remove it")
		h.documents(hour(3))
		h.must("rm " + h.state + "/snapshots/abcdefgh-0.json; xb-snap prune")
		h.documents()

		for n := 5; n <= 8; n++ {
			copies(n, "--keep 2")
		}
		h.documents(hour(6), hour(7))
		h.must("xb-snap guard --bases --once --pool-limit 1")
		h.wantPoints(target)
		h.documents()

		// Without a place for it there is a point all the same.
		h.must("rmdir " + h.state + "/xml/at; touch " + h.state + "/xml/at")
		h.copies(9, target, "--keep 2").fails(t, 0, "the document of domu1 is not kept with its point in time")
		h.wantPoints(target, hour(8))
	})
}

// TestLongDocumentsOfSets has the disks of a DomU be of the document of then: those that it had.
func TestLongDocumentsOfSets(t *testing.T) {
	h := newHost(t)
	h.fileSystem("xfs", "xfs")
	all := []string{"xvda", "xvdb", "xvdc"}
	set := func(n int) string { return strings.Repeat(string(rune('a'+n)), 26) }
	for n := 1; n <= 4; n++ { // a disk is added, and taken away again
		disks := all[:2+n/2%2]
		var targets []string
		for _, disk := range disks {
			h.image(disk, mib, uint64(n))
			targets = append(targets, "xfs/"+disk)
			h.pipe("xb-sig --missing-ok xfs/"+disk, "xb-delta "+disk, fmt.Sprintf("xb-patch --auto --peer dom0a --disk domu1/%s "+
				"--hold %s --taken %s --keep 9 xfs/%[1]s", disk, set(n), hour(n))).fails(t, 0)
		}
		h.sh("xb-patch --commit "+set(n)+" --peer dom0a "+strings.Join(targets, " ")).fails(t, 0)
		h.stores(n, "--set "+set(n)+" --taken "+hour(n), targets...)
	}
	h.documents(hour(2)) // the others were not of one moment with what came
	h.wantDocument("--at "+hour(2), 2, hour(2))
	if rows := h.must("xb-locate --check-document --document-file out --at " + hour(2) + " domu1"); strings.Count(rows, "\n") != 3 {
		t.Errorf("its disks were\n%s", rows)
	}
	operands := func(disks []string) (words string) {
		for _, disk := range disks {
			words += " domu1/" + disk + "=$PWD/xfs/" + disk
		}
		return words
	}
	promote := func(options string, disks []string) result {
		return h.sh("rm -f out.*; xb-locate --check-document --document-file out " + options + " domu1 >/dev/null; " +
			"xb-patch --promote --dry-run --document out.cfg " + options + operands(disks))
	}
	if r := promote("--at "+hour(2), all); r.status != 0 || strings.Contains(r.err, "not of the same time") {
		t.Errorf("what it would be: %+v", r)
	}
	documentSet := func() string {
		return strings.TrimSpace(h.must("xb-patch --state xfs/xvda | jq -r '[.set, .document_set] | unique | join(\" \")'"))
	}
	if got := documentSet(); got != set(4) {
		t.Errorf("the sets are %s", got)
	}
	h.must("xb-snap rollback --at " + hour(2) + " xfs/xvda xfs/xvdb xfs/xvdc")
	if got := documentSet(); got != set(2) {
		t.Errorf("after the way back the sets are %s", got)
	}
	if r := promote("", all); r.status != 0 || strings.Contains(r.err, "not of the same time") {
		t.Errorf("what it is: %+v", r)
	}

	// A point that has lost a disk is none that a start could be from.
	lost := h.points("xfs/xvdc")[0].path
	if err := os.Truncate(lost, 0); err != nil {
		t.Fatal(err)
	}
	h.wantDocument("--at-point "+hour(3), 4, "")
}
