package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// pointsOn returns the points on a Dom0: time, set and path of each.
func (s *site) pointsOn(name string) (all []point) {
	s.Helper()
	for line := range strings.Lines(s.must(name, "xb-snap list --points")) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		all = append(all, point{words[0], words[1], words[2], words[3], words[4]})
	}
	return all
}

// TestLongGatePoints has a source that is in somebody else's hands do to the points on the other side what it can.
func TestLongGatePoints(t *testing.T) {
	s := gated(t, "dom0a domu1/* /srv/*")
	s.write("dom0b/etc/xen-backup/host.conf", "KEEP=\"24h:hourly 7d:daily\"\nPOOL_LIMIT=50\n", 0o644)
	send := func(source, options string) result {
		return s.on("dom0a", fmt.Sprintf("set -o pipefail; ssh dom0b xb-sig --missing-ok /srv/a.img | xb-delta --level 0 %s | "+
			"ssh dom0b xb-patch --auto --peer dom0a --disk domu1/xvda %s /srv/a.img", source, options))
	}
	stores := func(n int) {
		t.Helper()
		s.must("dom0a", fmt.Sprintf("printf \"name = 'domu1'\\nmemory = %d\\n# end of the configuration\\n\" | "+
			"ssh dom0b xb-locate --store domu1 --format xl", n))
	}
	const document = "/var/lib/xen-backup/xml/at/domu1@2026-11-26T01:00:00Z.cfg"
	for n := 1; n <= 2; n++ {
		s.image("dom0a", fmt.Sprintf("/srv/good%d", n), 16<<20)
		if r := send(fmt.Sprintf("/srv/good%d", n), fmt.Sprintf("--taken 2026-11-26T0%d:00:00Z --keep 9", n)); r.status != 0 {
			t.Fatal(r.err)
		}
		stores(n)
	}
	good := s.pointsOn("dom0b")
	if len(good) != 1 || good[0].time != "2026-11-26T01:00:00Z" {
		t.Fatalf("the points are %v", good)
	}
	sum := s.must("dom0b", "sha256sum <"+good[0].path)
	if want := s.must("dom0a", "sha256sum </srv/good1"); sum != want {
		t.Fatal("the point is not what was sent first")
	}
	still := func(what string) {
		t.Helper()
		// When an hour begins there may be one more.
		now := s.pointsOn("dom0b")
		if len(now) < 1 || len(now) > 2 || now[0] != good[0] || s.must("dom0b", "sha256sum <"+good[0].path) != sum {
			t.Fatalf("%s: the points are %v", what, now)
		}
		s.must("dom0b", "grep -qx 'memory = 1' "+document)
		full, err := strconv.Atoi(strings.TrimSpace(s.must("dom0b", "df --output=pcent /srv | tail -1 | tr -d ' %'")))
		if err != nil || full > 50 {
			t.Fatalf("%s: /srv is %d %% full: %v", what, full, err)
		}
	}
	for _, options := range []string{"", "--keep no", "--keep 1", "--keep 1000", "--keep 1m:1m", "--keep 4w:1h", "--taken 2026-11-26T00:30:00Z",
		"--taken 2026-11-26T01:00:00Z", "--taken 2099-01-01T00:00:00Z --keep 1000"} {
		s.image("dom0a", "/srv/bad", 16<<20)
		stores(666)
		if r := send("/srv/bad", options); r.status != 0 {
			t.Fatalf("%q: %s", options, r.err)
		}
		still("copied with " + options)
	}
	s.must("dom0b", "xb-snap guard --bases --once")
	still("guarded")

	// What would have the points give way is refused, and the standby stays what it was.
	s.write("dom0b/etc/xen-backup/host.conf", "KEEP=\"24h:hourly 7d:daily\"\nPOOL_LIMIT=30\n", 0o644)
	before := s.must("dom0b", "sha256sum </srv/a.img")
	s.image("dom0a", "/srv/bad", 300<<20)
	r := send("/srv/bad", "--keep 1")
	r.fails(t, 73, "no room for the image", "points in time take some there")
	still("refused")
	if s.must("dom0b", "sha256sum </srv/a.img") != before {
		t.Error("the standby was written to")
	}

	// Nor is a point read, written to or removed by its name, nor is its document.
	for _, command := range []string{"xb-patch --auto --peer dom0a --disk domu1/xvda " + good[0].path,
		"xb-patch --recover --peer dom0a --disk domu1/xvda " + good[0].path, "xb-snap remove " + good[0].path, "xb-snap prune",
		"xb-locate --store at/domu1@2026-11-26T01:00:00Z", "xb-locate --store domu1@2026-11-26T01:00:00Z",
		"xb-locate --check-document --document-file /srv/a.img domu1",
		"xb-snap rollback --at 2026-11-26T01:00:00Z /srv/a.img", "xb-patch --auto --keep 1,2 --peer dom0a --disk domu1/xvda /srv/a.img"} {
		if r := s.on("dom0a", "xb-sig /dev/null | xb-delta /srv/good2 | ssh dom0b "+command); r.status == 0 {
			t.Errorf("%s is done", command)
		}
		still(command)
	}

	// Without a rule of this host nothing is kept.
	s.must("dom0b", "rm /etc/xen-backup/host.conf; xb-snap remove "+good[0].path)
	s.image("dom0a", "/srv/bad", 16<<20)
	if r := send("/srv/bad", "--keep 9"); r.status != 0 {
		t.Fatal(r.err)
	}
	for _, p := range s.pointsOn("dom0b") {
		if p.time == good[0].time {
			t.Errorf("a point was made: %v", p)
		}
	}
}

// TestLongWrapperPoints has a conf file ask for points of a DomU of one disk and one of two.
func TestLongWrapperPoints(t *testing.T) {
	s := newSite(t)
	disks := map[string][]string{"one": {"/srv/a"}, "two": {"/srv/b", "/srv/c"}}
	for domu, files := range disks {
		s.domain("dom0a", domu, 1, files...)
		s.conf("dom0a", domu, "DOMU="+domu, `DOM0S="dom0a dom0b"`, `KEEP="2"`)
	}
	var kept []map[string]string
	memory := func(n int) int { return 65536 + 1024*n }
	for n := range 4 {
		s.must("dom0a", fmt.Sprintf("cd /run; sed -i -E 's/<memory>[0-9]+/<memory>%d/' domains/*\n"+
			"{ echo '<node>'; cat domains/*; echo '</node>'; } >node.xml.new; mv node.xml.new node.xml", memory(n)))
		images := map[string]string{}
		for _, files := range disks {
			for _, file := range files {
				s.image("dom0a", file, 1<<20)
				images[file] = s.must("dom0a", "sha256sum <"+file)
			}
		}
		kept = append(kept, images)
		if r := s.backup("dom0a"); r.status != 0 {
			t.Fatalf("status %d\n%s", r.status, s.log("dom0a"))
		}
	}
	points := s.pointsOn("dom0b")
	if len(points) != 6 {
		t.Fatalf("the points are %v", points)
	}
	for i, p := range points {
		if s.must("dom0b", "sha256sum <"+p.path) != kept[1+i%2][p.standby] {
			t.Errorf("the point %v is not what was copied then", p)
		}
		if (p.set == "-") != (p.standby == "/srv/a") {
			t.Errorf("the set of %v", p)
		}
		// The document came after the disks of its set, and belongs to no others.
		domu := map[bool]string{true: "one", false: "two"}[p.set == "-"]
		document := s.must("dom0b", "cat /var/lib/xen-backup/xml/at/"+domu+"@"+p.time+".xml")
		if !strings.Contains(document, fmt.Sprintf(">%d</memory>", memory(1+i%2))) || p.set != "-" && !strings.Contains(document, "set "+p.set+",") {
			t.Errorf("the document of %v is\n%s", p, document)
		}
	}
	if points[2].set != points[4].set || points[3].set != points[5].set || points[2].set == points[3].set {
		t.Errorf("the sets of %v", points)
	}
	s.nothingLeft("dom0a")

	// Where it is too full after a run, points give way at once.
	s.must("dom0b", "mkdir -p /etc/xen-backup; echo POOL_LIMIT=1 >/etc/xen-backup/host.conf")
	s.image("dom0a", "/srv/a", 1<<20)
	if r := s.backup("dom0a"); r.status != 0 {
		t.Fatalf("status %d\n%s", r.status, s.log("dom0a"))
	}
	if points := s.pointsOn("dom0b"); len(points) != 0 {
		t.Errorf("above POOL_LIMIT there are the points %v", points)
	}
}
