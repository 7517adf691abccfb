package e2e

import (
	"fmt"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// fleet makes running DomUs of dom0a, of two disks of 256 KiB each, and their conf files on all
// of the Dom0s.
func (s *site) fleet(domus int, dom0s ...string) {
	s.Helper()
	s.must("dom0a", fmt.Sprintf("for i in {01..%02d}; do for disk in a b; do head -c 256K /dev/urandom >/srv/domu$i$disk.img; done; done", domus))
	for i := range domus {
		name := fmt.Sprintf("domu%02d", i+1)
		s.domain("dom0a", name, 1, "/srv/"+name+"a.img", "/srv/"+name+"b.img")
		for _, dom0 := range dom0s {
			s.conf(dom0, name, "DOMU="+name, fmt.Sprintf("DOM0S=%q", strings.Join(dom0s, " ")))
		}
	}
}

// images returns the digests of all that a Dom0 has.
func (s *site) images(name string) string {
	s.Helper()
	return s.must(name, "sha256sum /srv/*.img")
}

// status runs xen-backup.sh --status on a Dom0 and returns what it says at first. That line is
// for whoever sees no other.
func (s *site) status(name string, want int, words ...string) string {
	s.Helper()
	r := s.on(name, cron(append(words, "--status")...))
	if r.status != want {
		s.Errorf("%s: --status ends with %d, want %d\n%s%s", name, r.status, want, r.out, r.err)
	}
	first, _, _ := strings.Cut(r.out, "\n")
	return first
}

// says demands words of a line.
func says(t *testing.T, line string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(line, word) {
			t.Errorf("no %q in %q", word, line)
		}
	}
}

// TestLongFleetDeadDom0 has DomUs, 20 in a campaign, with two Dom0s that keep standbys, of which one dies
// in the middle: the other one is complete, --status tells it, and the next run heals it.
func TestLongFleetDeadDom0(t *testing.T) {
	s := newSite(t)
	s.bootThird()
	domus := min(testkit.Rounds(t, 6), 20)
	s.fleet(domus, "dom0a", "dom0b", "dom0c")
	run := s.begin("dom0a", cron("STALL=14", "CONNECT_TIMEOUT=5", "DOMUS_AT_ONCE=4"))
	s.must("dom0c", fmt.Sprintf("until (($(ls /var/lib/xen-backup/xml | wc -l) >= %d)); do sleep 0.05; done 2>/dev/null", domus/3))
	s.cut("dom0c")
	r := run.end()
	r.fails(t, 3, "### ERROR 69: DomU domu", "remote Dom0 dom0c cannot be reached")
	for line := range strings.Lines(r.err) {
		if strings.HasPrefix(line, "##") && strings.Contains(line, "dom0b") {
			t.Errorf("what befell dom0c reached dom0b: %s", line)
		}
	}
	s.nothingLeft("dom0a")
	source := s.images("dom0a")
	if s.images("dom0b") != source {
		t.Error("dom0b is not complete")
	}
	says(t, s.status("dom0a", 2), "dom0c")
	s.status("dom0b", 0)

	s.bootThird()
	s.status("dom0c", 2)
	if r := s.backup("dom0a"); r.status != 0 {
		t.Errorf("the next run: status %d\n%s", r.status, r.err)
	}
	for _, dom0 := range []string{"dom0b", "dom0c"} {
		if s.images(dom0) != source {
			t.Errorf("%s is not healed", dom0)
		}
		s.status(dom0, 0)
	}
	s.status("dom0a", 0)
}

// TestLongFleetStuck stops the xb-patch of one DomU of a fleet: the run gives it up, the other DomUs
// are copied, and --status tells which is not.
func TestLongFleetStuck(t *testing.T) {
	s := newSite(t)
	s.fleet(4, "dom0a", "dom0b")
	s.backup("dom0a")
	old := s.images("dom0b")
	s.must("dom0a", "for f in /srv/*.img; do head -c 8K /dev/urandom | dd of=$f bs=8K seek=3 conv=notrunc status=none; done")
	s.write("dom0b/sbin/xb-patch", `#!/bin/bash
case " $* " in
*" --prepare "*) ;;
*" --heartbeat "*" domu02/xvda "*) kill -STOP $$ ;;
esac
exec /usr/local/bin/xb-patch "$@"
`, 0o755)
	r := s.on("dom0a", cron("STALL=14"))
	r.fails(t, 3, "### ERROR 69: DomU domu02, disk xvda: ", "no progress for 14 s\n")
	if n := strings.Count(r.err, "ERROR"); n != 1 {
		t.Errorf("%d errors:\n%s", n, r.err)
	}
	says(t, s.status("dom0a", 2), "domu02", "dom0b")
	s.status("dom0a", 0, "domu01")
	s.must("dom0b", "rm /usr/local/sbin/xb-patch")
	s.must("dom0b", "pkill -KILL -f '/usr/local/sbin/[x]b-patch'") // and not the shell that says so
	s.nothingLeft("dom0a")
	now := s.images("dom0a")
	if got, want := s.images("dom0b"), of(now, false, "domu02")+of(old, true, "domu02"); of(got, false, "domu02")+of(got, true, "domu02") != want {
		t.Errorf("dom0b has\n%sand not\n%s", got, want)
	}
	s.backup("dom0a").fails(t, 0)
	if s.images("dom0b") != now {
		t.Error("the next run does not heal it")
	}
	s.status("dom0a", 0)
}

// of returns the lines that are a DomU's, or those that are not.
func of(images string, its bool, domu string) string {
	var lines strings.Builder
	for line := range strings.Lines(images) {
		if strings.Contains(line, domu) == its {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// TestLongStatusOfStandbys is the dead man's switch: the standby's host, from which the source is
// cut off, says how old its copies are; and of a DomU that was never copied that it was not.
func TestLongStatusOfStandbys(t *testing.T) {
	s := newSite(t)
	s.fleet(2, "dom0a", "dom0b")
	s.backup("dom0a")
	s.cut("dom0a")
	says(t, s.status("dom0b", 0), "2 DomUs")
	for _, age := range testkit.Some(t, 1, []struct{ hours, status int }{{60, 2}, {20, 0}, {30, 1}}...) {
		// what is remembered is older, rather than the clock later: other tests use that
		s.must("dom0b", fmt.Sprintf(`then=$(date -ud "-%d hours" +%%FT%%TZ)
			grep -rlE "20[0-9-]{8}T[0-9:.]+Z" /var/lib/xen-backup --include="*.json" |
				xargs sed -i -E "s/20[0-9-]{8}T[0-9:.]+Z/$then/g"`, age.hours))
		line := s.status("dom0b", age.status)
		if age.status != 0 {
			says(t, line, "domu0", fmt.Sprintf("%d h", age.hours))
		}
		s.status("dom0b", 0, "MAX_AGE=90h")
		s.status("dom0b", 2, "MAX_AGE=9h")
	}
	s.conf("dom0b", "domu03", "DOMU=dom3", `DOM0S="dom0a dom0b"`)
	says(t, s.status("dom0b", 2, "MAX_AGE=90h"), "dom3")
}
