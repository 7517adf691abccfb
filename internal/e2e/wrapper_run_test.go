package e2e

import (
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// TestLongWrapperHooks has commands before and after, which know of what; one before the snapshot that
// fails lets nothing be copied, and what it froze is thawed.
func TestLongWrapperHooks(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	hook := func(name string) string { return name + `='echo ` + name + ` $DOMU $STATUS $PEER >>/run/hooks'` }
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, hook("PRE_SNAPSHOT"), hook("POST_SNAPSHOT"), hook("POST_DOMU"))
	s.write("dom0a/sbin/curl", "#!/bin/sh\necho \"curl ${*##*/}\" >>/run/hooks\nexit 7\n", 0o755)
	run := []string{"PING_URL=http://192.0.2.3/id", `POST_RUN='echo POST_RUN $STATUS >>/run/hooks'`}
	run[1] = `'POST_RUN=echo POST_RUN $STATUS >>/run/hooks'`
	s.backup("dom0a", run...).silent(t)
	want := "curl start\nPRE_SNAPSHOT domu1 0 dom0b\nPOST_SNAPSHOT domu1 0 dom0b\nPOST_DOMU domu1 0 dom0b\nPOST_RUN 0\ncurl id\n"
	if did := s.must("dom0a", "cat /run/hooks; rm /run/hooks"); did != want {
		t.Errorf("done:\n%s\nwant\n%s", did, want)
	}
	s.change("dom0a", "/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PRE_SNAPSHOT='echo no lock; sleep 1000'", "HOOK_TIMEOUT=1",
		hook("POST_SNAPSHOT"))
	before := s.sums("dom0b", "/srv/a.img")
	s.backup("dom0a", run...).fails(t, 3, "## DomU domu1: PRE_SNAPSHOT: no lock\n",
		"### ERROR 69: DomU domu1: PRE_SNAPSHOT ended with status 124\n")
	if s.sums("dom0b", "/srv/a.img") != before {
		t.Error("it was copied")
	}
	want = "curl start\nPOST_SNAPSHOT domu1 3 dom0b\nPOST_RUN 3\ncurl fail\n"
	if did := s.must("dom0a", "cat /run/hooks"); did != want {
		t.Errorf("done:\n%s\nwant\n%s", did, want)
	}
}

// TestLongWrapperTo copies to one of two Dom0s, and asks the other one all the same whether the DomU runs there.
func TestLongWrapperTo(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`)
	s.backup("dom0a", "CONNECT_TIMEOUT=5", "--to", "dom0b").silent(t)
	s.same("/srv/a.img", "/srv/a.img")
	s.backup("dom0a", "--to", "dom0d").fails(t, 3, "### ERROR 78: no DomU has a standby on dom0d\n")
	s.domain("dom0b", "domu1", 1, "/srv/a.img")
	s.backup("dom0a", "CONNECT_TIMEOUT=5", "--to", "dom0c").fails(t, 3, "### ERROR 81: DomU domu1: it runs on dom0b too")
}

// TestLongWrapperWait has a second run at the same time: it says who is at work, or waits.
func TestLongWrapperWait(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PRE_SNAPSHOT='until test -e /run/go; do sleep 0.1; done'")
	first := s.begin("dom0a", cron())
	eventually(s, "the first run", func() bool { return strings.Contains(s.log("dom0a"), "## BACKUP: DomU domu1") })
	for _, words := range [][]string{nil, {"--wait", "1"}, {"--wait", "2s", "domu1"}, {"--wait", "0m"}, {"--wait", "0h"}} {
		if r := s.on("dom0a", cron(words...)); r.status != 75 || r.err != "" {
			t.Errorf("status %d: %s", r.status, r.err)
		}
	}
	if log := s.log("dom0a"); strings.Count(log, "local3.info ## another process is running: ") != 5 || !strings.Contains(log, ", at DomU domu1\n") {
		t.Errorf("in the log:\n%s", log)
	}
	second := s.begin("dom0a", cron("--wait", "5m"))
	s.must("dom0a", "touch /run/go")
	first.end().silent(t)
	second.end().silent(t)
	if n := strings.Count(s.log("dom0a"), "bytes changed"); n != 2 {
		t.Errorf("%d copies", n)
	}
	s.nothingLeft("dom0a")
}

// TestLongWrapperStatus asks both hosts, before the first copy, after it, and when something has failed.
func TestLongWrapperStatus(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	for _, name := range []string{"dom0a", "dom0b"} {
		s.conf(name, "domu1", "DOMU=domu1", twoDom0s)
	}
	status := func(name string, want int, words string) {
		t.Helper()
		r := s.on(name, cron("--status"))
		if r.status != want || !strings.Contains(r.out, words) || r.err != "" {
			t.Errorf("%s: status %d, want %d; %q is to be in\n%s%s", name, r.status, want, words, r.out, r.err)
		}
	}
	status("dom0a", 2, "domu1")
	s.backup("dom0a", "METRICS=/run/metrics").silent(t)
	status("dom0a", 0, "domu1")
	status("dom0b", 0, "domu1")
	if !strings.Contains(s.must("dom0a", "cat /run/metrics"), "xen_backup_last_success_timestamp_seconds{") {
		t.Error("no metrics")
	}
	if log := s.log("dom0a"); !strings.Contains(log, "local3.info # 1 DomU, 1 disk, 1 Dom0: 1 copied, 0 failed") {
		t.Errorf("no summary:\n%s", log)
	}
	s.change("dom0b", "/srv/a.img")
	s.backup("dom0a").fails(t, 3, "# 1 DomU, 1 disk, 1 Dom0: 0 copied, 1 failed")
	status("dom0a", 2, "domu1")
	s.nothingLeft("dom0a")
}

// TestLongWrapperGateConf asks for what another host's gate.conf needs, as an administrator does, with the settings of a run.
func TestLongWrapperGateConf(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "MAP=dom0b:/srv/a.img=/srv/b.img")
	s.must("dom0a", "mkdir /etc/others && cp /etc/xen-backup.d/domu1.conf /etc/others/1.conf && echo MAP= >>/etc/others/1.conf")
	for _, asked := range []struct {
		setting, words string
		status         int
		out            string
	}{
		{"", "--gate-conf dom0b", 0, "dom0a domu1/xvda /srv/b.img\n"},
		{"", "--gate-conf dom0b domu1", 0, "dom0a domu1/xvda /srv/b.img\n"},
		{"CONF_DIR=/etc/others", "--gate-conf dom0b", 0, "dom0a domu1/xvda /srv/a.img\n"},
		{"CONF_DIR=/etc/missing", "--gate-conf dom0b", 78, ""},
		{"", "--gate-conf dom0c", 78, ""},
		{"", "--gate-conf dom0b domu9", 78, ""},
		{"", "--gate-conf", 64, ""},
		{"", "--gate-conf -x", 64, ""},
		{"", "--gate-conf dom0b --json", 64, ""},
		{"", "--gate-conf dom0b --status", 64, ""},
		{"", "--gate-conf dom0b --dry-run", 64, ""},
	} {
		r := s.on("dom0a", asked.setting+" xen-backup.sh "+asked.words)
		if r.status != asked.status || r.out != asked.out || (r.err == "") != (asked.status == 0) {
			t.Errorf("%s %s: status %d\n%s%s", asked.setting, asked.words, r.status, r.out, r.err)
		}
	}
	if log := s.log("dom0a"); log != "" {
		t.Errorf("it is no run, and logs\n%s", log)
	}
}

// TestLongWrapperProgress looks at a terminal: a copy's progress is in its last line, and each line of the log
// stands alone.
func TestLongWrapperProgress(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "BWLIMIT=250K")
	out := s.must("dom0a", `script -qec "env -i /usr/local/sbin/xen-backup.sh" /dev/null </dev/null`)
	if !strings.Contains(out, "domu1 xvda to dom0b: ") || !strings.Contains(out, " of 1.0 MiB (") {
		t.Errorf("no progress:\n%q", out)
	}
	if !strings.Contains(out, "\r\x1b[K#### dom0b:/srv/a.img: 1048576 bytes changed, ") {
		t.Errorf("a line of the log:\n%q", out)
	}
}

// TestLongWrapperAtOnce has a Dom0 that stands still with one DomU, while the other one is copied.
func TestLongWrapperAtOnce(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.image("dom0a", "/srv/b.img", mib)
	s.domain("dom0a", "domu2", 1, "/srv/b.img")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s)
	s.around(`if [[ " $* " = *" --auto "*" domu1/"* ]]; then until [[ -e /run/go ]]; do sleep 0.1; done; fi`)
	run := s.begin("dom0a", cron("DOMUS_AT_ONCE=2"))
	eventually(s, "the other DomU's copy", func() bool { return strings.Contains(s.log("dom0a"), "#### dom0b:/srv/b.img: 1048576 bytes changed") })
	eventually(s, "the end of its snapshot", func() bool { return s.on("dom0a", "xb-snap list | grep '^/srv/.b.img.*base of dom0b$'").status == 0 })
	if !strings.Contains(s.must("dom0a", "xb-snap list"), "/srv/.a.img") {
		t.Error("the first DomU has no snapshot")
	}
	s.must("dom0b", "touch /run/go")
	run.end().silent(t)
	s.same("/srv/a.img", "/srv/a.img")
	s.nothingLeft("dom0a")
}

// TestWrapperStopped has a run stopped in the middle of a copy, by a signal to its first process: it ends at once, says so, and
// leaves nothing behind. A second signal changes nothing of that. One that was killed cannot say so; its parts end all
// the same, and the next run clears up.
func TestWrapperStopped(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "BWLIMIT=20K", `POST_DOMU='echo POST_DOMU $STATUS >>/run/hooks'`)
	s.write("dom0a/sbin/curl", "#!/bin/sh\necho \"curl ${*##*/}\" >>/run/hooks\n", 0o755)
	copying := func() *job {
		t.Helper()
		run := s.begin("dom0a", cron("PING_URL=http://192.0.2.3/id"))
		eventually(s, "the copy", func() bool { return strings.Contains(s.must("dom0a", "pgrep -xl xb-delta || :"), "xb-delta") })
		return run
	}
	for _, signal := range testkit.Some(t, 1, "TERM", "INT") {
		run := copying()
		s.must("dom0a", "read -r pid _ </run/xen-backup.lock; kill -"+signal+" $pid; kill -TERM $pid || :")
		run.end().fails(t, 143, "### ERROR: the run was stopped by a signal\n")
		s.nothingLeft("dom0a")
		want := "curl start\nPOST_DOMU 3\ncurl fail\n"
		if did := s.must("dom0a", "cat /run/hooks; rm /run/hooks"); did != want {
			t.Errorf("done:\n%s\nwant\n%s", did, want)
		}
	}
	run := copying()
	s.must("dom0a", "read -r pid _ </run/xen-backup.lock; kill -KILL $pid")
	run.end()
	s.must("dom0a", "flock --wait 600 /run/xen-backup.lock true; rm /run/hooks")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.backup("dom0a").fails(t, 0)
	s.same("/srv/a.img", "/srv/a.img")
}
