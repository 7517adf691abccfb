package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// standby is what a Dom0 says of one.
type standby struct {
	Phase       string   `json:"phase"`
	Set         string   `json:"set"`
	Taken       string   `json:"taken"`
	Members     []string `json:"members"`
	WholeSet    *bool    `json:"whole_set"`
	DocumentSet string   `json:"document_set"`
	Sent        []struct{ Peer, Digest string }
	Digest      string `json:"digest"`
}

// state returns what a Dom0 remembers of a file.
func (s *site) state(name, file string) (found standby) {
	s.Helper()
	if err := json.Unmarshal([]byte(s.must(name, "xb-patch --state "+file)), &found); err != nil {
		s.Fatal(err)
	}
	return found
}

// usable is what the README demands before a failover: all clean, of one set, and of that of
// the document. It returns the set, or nothing.
func (s *site) usable(name string, files ...string) (set string) {
	s.Helper()
	for i, file := range files {
		now := s.state(name, file)
		if now.Phase != "clean" || now.WholeSet == nil || !*now.WholeSet || now.DocumentSet != now.Set ||
			i > 0 && now.Set != set {
			return ""
		}
		set = now.Set
	}
	return set
}

// renewed demands that a run has made dom0b's standby, these files, a copy of dom0a's.
func (s *site) renewed(before string, files ...string) (set string) {
	s.Helper()
	for _, file := range files {
		s.same(file, file)
	}
	set = s.usable("dom0b", files...)
	if set == "" || set == before {
		s.Errorf("dom0b has the set %q, and before the run %q", set, before)
	}
	s.nothingHeld("dom0b")
	return set
}

// kept demands that dom0b's standby still is of an older set, and that the run has said so.
func (s *site) kept(before string, r result, words string, files ...string) {
	s.Helper()
	want := "### DomU domu1: " + words + "its standby on dom0b is of " + s.state("dom0b", files[0]).Taken + "\n"
	if set := s.usable("dom0b", files...); set != before || r.status != 3 || strings.Count(r.err, want) != 1 {
		s.Errorf("dom0b has the set %q, want %q; status %d, want once %sin\n%s", set, before, r.status, want, r.err)
	}
}

// nothingHeld demands that a Dom0 holds nothing for a commit.
func (s *site) nothingHeld(name string) {
	s.Helper()
	if left := s.must(name, "find /var/lib/xen-backup -name '*.held' -o -path '*/sets/*' -o -path '*/spool/*'"); left !=
		"" {
		s.Errorf("%s still has\n%s", name, left)
	}
}

// sums are those of files on a Dom0.
func (s *site) sums(name string, files ...string) string {
	s.Helper()
	return s.must(name, "sha256sum "+strings.Join(files, " "))
}

// changeAll changes files on dom0a, as a guest does between two runs.
func (s *site) changeAll(files ...string) {
	s.Helper()
	for _, file := range files {
		s.change("dom0a", file)
	}
}

// around puts a script before xb-patch on dom0b. It runs with the words of the call, and
// "$real" is xb-patch.
func (s *site) around(script string) {
	s.Helper()
	s.write("dom0b/sbin/xb-patch", "#!/bin/bash\nreal=/usr/local/bin/xb-patch\n"+script+"\nexec $real \"$@\"\n", 0o755)
}

const xvda, xvdb, xvdc = "/srv/a.img", "/srv/b.img", "/srv/c.img"

// TestWrapperSet has the two disks of a DomU copied again and again: each time they are of one
// set, the document too, and the source remembers both.
func TestWrapperSet(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	set := ""
	for _, words := range testkit.Some(t, 2, "", "--verify", "--final domu1", "", "--force-diverged domu1") {
		if strings.HasPrefix(words, "--final") {
			s.domain("dom0a", "domu1", 5, xvda, xvdb)
		} else {
			s.domain("dom0a", "domu1", 1, xvda, xvdb)
		}
		s.backup("dom0a", strings.Fields(words)...).silent(t)
		set = s.renewed(set, xvda, xvdb)
		for _, file := range []string{xvda, xvdb} {
			here, there := s.state("dom0a", file), s.state("dom0b", file)
			if len(here.Sent) != 1 || here.Sent[0].Peer != "dom0b" || here.Sent[0].Digest != there.Digest {
				t.Errorf("%s: dom0a remembers %+v of %+v", file, here.Sent, there)
			}
			if !slices.Equal(there.Members, []string{"domu1/xvda", "domu1/xvdb"}) {
				t.Errorf("%s: its set has the members %q", file, there.Members)
			}
		}
		s.changeAll(xvda, xvdb)
	}
	s.must("dom0a", "truncate -s +1M "+xvdb)
	s.backup("dom0a").silent(t)
	set = s.renewed(set, xvda, xvdb)
	s.backup("dom0a").silent(t) // nothing has changed
	s.renewed(set, xvda, xvdb)
	log := s.log("dom0a")
	taken := s.state("dom0b", xvda).Taken
	for _, line := range []string{"### commit domu1 on dom0b: xvda xvdb, of " + taken + "\n",
		"#### dom0b:/srv/a.img: 0 bytes changed, "} {
		if !strings.Contains(log, "local3.info "+line) {
			t.Errorf("no %q in the log:\n%s", line, log)
		}
	}
}

// TestLongWrapperSetRefused has one of two disks diverged, in use, and without room for its spool:
// both standbys are those of the run before, the mail says which failed, and of when they are.
func TestLongWrapperSetRefused(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.must("dom0b", "mkdir /run/spool; mount -t tmpfs -o size=3000k tmpfs /run/spool")
	s.must("dom0b", "mkdir /etc/xen-backup; echo SPOOL_DIR=/run/spool >/etc/xen-backup/host.conf")
	s.backup("dom0a").silent(t)
	set := s.renewed("", xvda, xvdb)
	for _, fault := range []struct{ name, begin, end, words, mail string }{
		{"busy", "exec 3<>/srv/b.img; sleep 1000 >/dev/null 2>&1 & echo $! >/run/holder", "kill $(cat /run/holder)", "",
			"### ERROR 75: DomU domu1, disk xvdb: "},
		{"full", "head -c 2600k /dev/zero >/run/spool/full", "rm /run/spool/full", "",
			"### ERROR 73: DomU domu1, disk xvdb: "},
		{"diverged", "cp /srv/b.img /run/b.img; head -c 4096 /dev/urandom | dd of=/srv/b.img conv=notrunc status=none",
			"", "--force-diverged domu1", "### ERROR 80: DomU domu1, disk xvdb: "},
	} {
		s.change("dom0a", xvda)
		s.image("dom0a", xvdb, mib)
		s.must("dom0b", fault.begin)
		before := s.sums("dom0b", xvda, xvdb)
		r := s.backup("dom0a")
		r.fails(t, 3, fault.mail)
		s.kept(set, r, "failed: xvdb; ", xvda, xvdb)
		if s.sums("dom0b", xvda, xvdb) != before {
			t.Errorf("%s: a standby was written to", fault.name)
		}
		s.must("dom0b", fault.end)
		if r := s.backup("dom0a", strings.Fields(fault.words)...); r.status != 0 {
			t.Errorf("%s: the next run: status %d\n%s", fault.name, r.status, r.err)
		}
		set = s.renewed(set, xvda, xvdb)
		if t.Failed() {
			t.Fatal(fault.name)
		}
	}
}

// TestLongWrapperSetBusyAtCommit has the first disk taken into use when both are held.
func TestLongWrapperSetBusyAtCommit(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	set := s.renewed("", xvda, xvdb)
	s.changeAll(xvda, xvdb)
	before := s.sums("dom0b", xvda, xvdb)
	s.around(`[[ " $* " != *" --commit "* ]] || { exec 3<>/srv/a.img; sleep 1000 >/dev/null 2>&1 & exec 3>&-; }`)
	r := s.backup("dom0a")
	r.fails(t, 3, "### ERROR 75: DomU domu1: its disks on dom0b did not become the new ones together: ", "/srv/a.img")
	s.kept(set, r, "", xvda, xvdb)
	if s.sums("dom0b", xvda, xvdb) != before {
		t.Error("a standby was written to")
	}
	s.must("dom0b", "pkill -x sleep; rm /usr/local/sbin/xb-patch")
	s.backup("dom0a").silent(t)
	s.renewed(set, xvda, xvdb)
}

// TestLongWrapperSetPeers has a peer that refuses one disk, and one that is down: neither is the
// third one's business.
func TestLongWrapperSetPeers(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	// dom0e is dom0b with other disks and another memory.
	s.must("dom0b", `sed "s/ListenAddress.*/Port 2222/" /etc/ssh/pair >/etc/ssh/dom0e
		mkdir -p /run/dom0e/srv /run/dom0e/lib
		unshare --mount bash -ec "cd /run/dom0e; mount --bind lib /var/lib; mount --bind srv /srv
			exec /usr/sbin/sshd -f /etc/ssh/dom0e"`)
	s.write("dom0a/root/.ssh/config", "Host dom0e\nPort 2222\n", 0o600)
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0c dom0b dom0e"`)
	dom0e := func(script string) string { s.Helper(); return s.must("dom0a", "ssh dom0e '"+script+"'") }
	const down = "### ERROR 69: DomU domu1: remote Dom0 dom0c cannot be reached\n"
	s.backup("dom0a", "CONNECT_TIMEOUT=5").fails(t, 3, down)
	set := s.renewed("", xvda, xvdb)
	other := dom0e("xb-patch --state " + xvdb)
	if strings.Contains(other, set) || !strings.Contains(other, `"whole_set":true`) {
		t.Errorf("dom0b has the set %s, and dom0e is %s", set, other)
	}
	s.changeAll(xvda, xvdb)
	dom0e("date >>/srv/b.img")
	before := dom0e("sha256sum /srv/*.img")
	r := s.backup("dom0a", "CONNECT_TIMEOUT=5")
	r.fails(t, 3, down, "### ERROR 80: DomU domu1, disk xvdb: ",
		"### DomU domu1: failed: xvdb; its standby on dom0e is of ")
	if strings.Count(r.err, "### ERROR") != 2 {
		t.Errorf("in the mail:\n%s", r.err)
	}
	s.renewed(set, xvda, xvdb)
	if dom0e("sha256sum /srv/*.img") != before {
		t.Error("dom0e's standby was written to")
	}
}

// TestLongWrapperSetOlder has an xb-patch on the other Dom0 that does not know what it is asked: it is an
// error that says what to do, before anything is done.
func TestLongWrapperSetOlder(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.around(`case " $* " in *" --prepare "*) echo "xb-patch: unknown option --prepare" >&2; exit 64 ;; esac`)
	for _, words := range []string{"--dry-run", ""} {
		s.backup("dom0a", words).fails(t, 3, "### ERROR 76: DomU domu1, disk xvda: ", "update xen-backup on dom0b")
	}
	s.must("dom0b", "! ls /srv/a.img /srv/b.img; rm /usr/local/sbin/xb-patch")
	s.backup("dom0a").silent(t)
	s.renewed("", xvda, xvdb)
}

// TestLongWrapperSetUnheard cuts the link when the commit is done, so that the source does not hear
// of it: it goes on from the new images.
func TestLongWrapperSetUnheard(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	set := s.renewed("", xvda, xvdb)
	sent := s.state("dom0a", xvda).Sent
	s.changeAll(xvda, xvdb)
	s.around(`if [[ " $* " = *" --commit "* ]]; then
		$real "$@"; echo $? >/run/committed; ip link set veth0 down; sleep 1000
	fi`)
	r := s.on("dom0a", cron("STALL=14", "CONNECT_TIMEOUT=5"))
	r.fails(t, 3,
		"### ERROR 69: DomU domu1: its disks on dom0b did not become the new ones together: no progress for 14 s\n",
		"### DomU domu1: its standby on dom0b cannot be asked of when it is\n")
	if committed := s.must("dom0b", "cat /run/committed"); committed != "0\n" {
		t.Errorf("the commit's status: %s", committed)
	}
	s.same(xvda, xvda)
	s.same(xvdb, xvdb)
	if now := s.state("dom0a", xvda).Sent; !slices.Equal(now, sent) {
		t.Errorf("dom0a remembers what it does not know: %v", now)
	}
	if s.usable("dom0b", xvda, xvdb) != "" {
		t.Error("the document is not of the new set, and the check does not see it")
	}
	s.must("dom0b", "rm /usr/local/sbin/xb-patch; pkill -x sleep; ip link set veth0 up")
	eventually(s, "the link", func() bool { return s.on("dom0a", "ssh -o ConnectTimeout=1 dom0b true").status == 0 })
	s.changeAll(xvda)
	s.backup("dom0a").silent(t)
	s.renewed(set, xvda, xvdb)
	if now := s.state("dom0a", xvda).Sent; slices.Equal(now, sent) {
		t.Errorf("dom0a remembers %v", now)
	}
}

// TestLongWrapperSetKilled kills all of a run when both disks are held: the old images stand, and
// the next run does it. In the end the files are gone, and are held without being made.
func TestLongWrapperSetKilled(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	set := s.renewed("", xvda, xvdb)
	for _, words := range []string{"", "--force-diverged domu1"} {
		s.changeAll(xvda, xvdb)
		before := s.sums("dom0b", xvda, xvdb)
		if words != "" {
			s.must("dom0b", "rm /srv/*.img")
			set, before = "", ""
		}
		s.around(`if [[ " $* " = *" --commit "* ]]; then : >/run/committing; sleep 1000; exit 1; fi`)
		run := s.begin("dom0a", cron(strings.Fields(words)...))
		eventually(s, "the commit", func() bool { return s.on("dom0b", "rm /run/committing").status == 0 })
		s.must("dom0a", "pkill -KILL -x xen-backup.sh; pkill -KILL -x ssh || :")
		run.end()
		if now := s.on("dom0b", "sha256sum "+xvda+" "+xvdb+" 2>/dev/null").out; now != before {
			t.Errorf("dom0b's standby is not that of the run before: %s", now)
		}
		if before != "" && s.usable("dom0b", xvda, xvdb) != set {
			t.Error("dom0b's standby is not of the set of the run before")
		}
		s.must("dom0b", "rm /usr/local/sbin/xb-patch; pkill -x sleep")
		if r := s.backup("dom0a", strings.Fields(words)...); r.status != 0 {
			t.Errorf("status %d\n%s", r.status, r.err)
		}
		set = s.renewed(set, xvda, xvdb)
	}
}

// TestLongWrapperSetUnfinished kills the commit behind its point of no return: the next run finishes
// it, once for all disks, and then copies.
func TestLongWrapperSetUnfinished(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	set := s.renewed("", xvda, xvdb)
	s.around(`if [[ " $* " = *" --commit "* ]]; then
		$real "$@" & patch=$!
		until compgen -G "/var/lib/xen-backup/sets/*.json" >/dev/null; do kill -0 $patch || exit 0; done
		kill -KILL $patch; exit 137
	fi`)
	var r result
	for tries := 0; s.state("dom0b", xvda).Phase != "applying"; tries++ {
		if tries == 20 {
			t.Fatalf("the kill always comes too late\n%s", r.err)
		}
		s.changeAll(xvda, xvdb)
		r = s.backup("dom0a")
	}
	r.fails(t, 3, "its disks on dom0b did not become the new ones together",
		"its standby on dom0b is of no one set: xvda applying, xvdb applying\n")
	if phase := s.state("dom0b", xvdb).Phase; phase != "applying" {
		t.Errorf("%s is %s", xvdb, phase)
	}
	s.around(`[[ " $* " != *" --prepare "* ]] || ! $real --state "${!#}" | grep '"phase":"applying"' >>/run/recovered`)
	s.changeAll(xvdb)
	s.backup("dom0a").silent(t)
	s.renewed(set, xvda, xvdb)
	if n := s.must("dom0b", "wc -l </run/recovered"); n != "1\n" {
		t.Errorf("recovered %s times", n)
	}
}

// TestLongWrapperSetDisks adds disks to a DomU, and leaves them out again.
func TestLongWrapperSetDisks(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.backup("dom0a").silent(t)
	if now := s.state("dom0b", xvda); now.Set != "" || now.Members != nil || now.WholeSet != nil || now.DocumentSet != "" {
		t.Errorf("of one disk it is %+v", now)
	}
	s.changeAll(xvda)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t) // xvdb's first copy, beside a standby
	set := s.renewed("", xvda, xvdb)

	s.changeAll(xvda, xvdb)
	s.domu1(xvda, xvdb, xvdc)
	s.must("dom0b", "mkdir /srv/c.img")
	r := s.backup("dom0a")
	r.fails(t, 3, "disk xvdc: ", "### DomU domu1: failed: xvdc; its standby on dom0b is of no one set: xvda 2", ", xvdc ")
	if s.usable("dom0b", xvda, xvdb) != set {
		t.Error("the disks that were there are no longer of their set")
	}
	s.must("dom0b", "rmdir /srv/c.img")
	s.backup("dom0a").silent(t)
	set = s.renewed(set, xvda, xvdb, xvdc)

	s.changeAll(xvda, xvdb, xvdc)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb")
	s.backup("dom0a").silent(t)
	s.renewed(set, xvda, xvdc)
	if members := s.state("dom0b", xvda).Members; !slices.Equal(members, []string{"domu1/xvda", "domu1/xvdc"}) {
		t.Errorf("the members are %q", members)
	}
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, `EXCLUDE="xvdb xvdc"`)
	s.backup("dom0a").silent(t)
	s.same(xvda, xvda)
	if now := s.state("dom0b", xvda); now.Set != "" || now.Members != nil || now.WholeSet != nil || now.DocumentSet != "" {
		t.Errorf("of one disk it is %+v again", now)
	}
}

// TestLongWrapperSetDryRun demands that --dry-run holds and commits nothing, and says so.
func TestLongWrapperSetDryRun(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	listing := func() string {
		return s.must("dom0b", "find /srv /var/lib/xen-backup -type f -exec sha256sum {} + 2>/dev/null | sort; :")
	}
	for range 2 {
		before := listing()
		r := s.backup("dom0a", "--dry-run")
		r.fails(t, 0, "### would sync domu1 from dom0a to dom0b: /srv/a.img to /srv/a.img\n",
			"### would sync domu1 from dom0a to dom0b: /srv/b.img to /srv/b.img\n")
		if strings.Contains(r.err, "commit") || listing() != before {
			t.Errorf("it has done something: %s\n%s", listing(), r.err)
		}
		s.backup("dom0a").silent(t)
		s.changeAll(xvda, xvdb)
	}
	s.must("dom0b", "mv /srv/b.img /srv/gone; mkdir /srv/b.img")
	s.backup("dom0a", "--dry-run").fails(t, 3, "disk xvdb: ",
		"### would sync domu1 from dom0a to dom0b: /srv/a.img to /srv/a.img\n")
}
