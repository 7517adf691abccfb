package e2e

import (
	"fmt"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// twoDom0s is what most conf files below have.
const twoDom0s = `DOM0S="dom0a dom0b"`

// domu1 is a running DomU of dom0a with these disks, 1 MiB each, and its conf file.
func (s *site) domu1(disks ...string) {
	s.Helper()
	for _, disk := range disks {
		s.image("dom0a", disk, mib)
	}
	s.domain("dom0a", "domu1", 1, disks...)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
}

// grow changes a disk on a Dom0.
func (s *site) change(name, file string) {
	s.Helper()
	s.must(name, fmt.Sprintf("head -c 100000 /dev/urandom | dd of='%s' bs=1k seek=100 conv=notrunc status=none", file))
}

// TestWrapper is a run as cron does it.
func TestWrapper(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	for range 2 {
		s.backup("dom0a").silent(t)
		s.same("/srv/a.img", "/srv/a.img")
		s.change("dom0a", "/srv/a.img")
	}
}

// TestLongWrapperNobodyElse demands an error of each run that copies nothing because of
// what DOM0S says.
func TestLongWrapperNobodyElse(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	for _, c := range []struct{ dom0s, hosts, words string }{
		{"dom0a", "", "no Dom0 but this one"},
		{"dom0b dom0c", "", "does not name this host (if it does, set LOCAL_DOM0)"},
		{"dom0a dom0b", "127.0.0.1 localhost\n192.0.2.1 dom0a dom0b\n", "both dom0a and dom0b lead to this host"},
		{"dom0a dom0b", "127.0.1.1 dom0b\n192.0.2.1 dom0a\n", "both dom0a and dom0b lead to this host"},
	} {
		s.conf("dom0a", "domu1", "DOMU=domu1", fmt.Sprintf("DOM0S=%q", c.dom0s))
		if c.hosts != "" {
			s.write("dom0a/etc/hosts", c.hosts, 0o644)
		}
		s.backup("dom0a").fails(t, 3, "### ERROR 78: DomU domu1: ", c.words)
	}
}

// TestLongWrapperNoDisk has a conf file that leaves no disk to copy.
func TestLongWrapperNoDisk(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvda")
	s.backup("dom0a").fails(t, 3, "### ERROR 78: DomU domu1: it has no disk to copy, or EXCLUDE names them all: xvda\n")
}

// countSSH notes each connection that the run of a Dom0 opens.
func (s *site) countSSH() {
	s.Helper()
	s.write("dom0a/sbin/ssh", "#!/bin/sh\ncase \" $* \" in *' -M '*) echo \"$*\" >>/run/masters ;; esac\nexec /usr/bin/ssh \"$@\"\n", 0o755)
}

// TestLongWrapperDeadDom0s has, beside one that works, a Dom0 that does not answer and one
// that lets nobody in: each is found dead once, and every DomU still has its copy.
func TestLongWrapperDeadDom0s(t *testing.T) {
	s := newSite(t)
	s.must("dom0b", `sed "s/ListenAddress.*/Port 2222/" /etc/ssh/pair >/etc/ssh/hangs
		printf "#!/bin/sh\nexec sleep 1000\n" >/usr/local/sbin/hang; chmod 755 /usr/local/sbin/hang
		printf "%s\n" "AuthorizedKeysFile none" "AuthorizedKeysCommandUser root" "AuthorizedKeysCommand /usr/local/sbin/hang" >>/etc/ssh/hangs
		/usr/sbin/sshd -f /etc/ssh/hangs`)
	s.write("dom0a/root/.ssh/config", "Host dom0e\nPort 2222\n", 0o600)
	s.countSSH()
	for i := range 3 {
		domu := fmt.Sprintf("domu%d", i)
		s.image("dom0a", "/srv/"+domu, mib)
		s.domain("dom0a", domu, 1, "/srv/"+domu)
		s.conf("dom0a", domu, "DOMU="+domu, `DOM0S="dom0a dom0c dom0d dom0e dom0b"`)
	}
	r := s.backup("dom0a", "CONNECT_TIMEOUT=5")
	if r.status != 3 {
		t.Errorf("status %d, want 3\n%s", r.status, r.err)
	}
	masters := s.must("dom0a", "cat /run/masters")
	for _, dom0 := range []string{"dom0c", "dom0d", "dom0e", "dom0b"} {
		if n := strings.Count(masters, dom0); n != 1 {
			t.Errorf("%s was called %d times", dom0, n)
		}
	}
	for i := range 3 {
		domu := fmt.Sprintf("domu%d", i)
		s.same("/srv/"+domu, "/srv/"+domu)
		for _, dom0 := range []string{"dom0c", "dom0d", "dom0e"} {
			want := fmt.Sprintf("### ERROR 69: DomU %s: remote Dom0 %s cannot be reached\n", domu, dom0)
			if strings.Count(r.err, want) != 1 {
				t.Errorf("not once in the mail: %s", want)
			}
		}
	}
	if t.Failed() {
		t.Log(r.err)
	}
}

// TestLongWrapperLatePause has a toolstack that carries a pause out when nobody waits for it
// any more, and one whose client never returns.
func TestLongWrapperLatePause(t *testing.T) {
	for _, client := range testkit.Some(t, 1, "sleep 1000", "sleep 1; exit 1", "wait") {
		t.Run(client, func(t *testing.T) {
			s := newSite(t)
			s.domu1("/srv/a.img", "/srv/b.img")
			s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PAUSE=auto")
			s.must("dom0a", "mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
			s.write("dom0a/sbin/virsh", `#!/bin/bash
case " $* " in
*" suspend "*)
	# what libvirtd has been asked for it does, whoever waits
	setsid bash -c 'sleep 5; exec virsh.real "$@"' - "$@" &
	`+client+`
	;;
*) exec virsh.real "$@" ;;
esac
`, 0o755)
			s.on("dom0a", cron("XB_PAUSE_WAIT=2", "XB_PAUSE_LIMIT=1", "XB_PAUSE_WATCH=8")).
				fails(t, 3, "### ERROR 69: DomU domu1: no snapshots", "domu1 does not let itself be paused")
			eventually(s, "the late pause and its end",
				func() bool { return strings.Contains(s.must("dom0a", "cat /run/paused || :"), "suspend\nresume\n") })
			if state := s.must("dom0a", "virsh domstate domu1"); !strings.HasPrefix(state, "running") {
				t.Errorf("the DomU is %s", state)
			}
			s.must("dom0a", "pgrep -x sleep | xargs -r kill")
			s.nothingLeft("dom0a")
		})
	}
}

// TestLongWrapperPause has a DomU paused for its snapshots, and no longer than PAUSE_LIMIT even
// where these hang.
func TestLongWrapperPause(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img", "/srv/b.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PAUSE=auto")
	s.backup("dom0a").silent(t)
	if did := s.must("dom0a", "cat /run/paused"); did != "suspend\nresume\n" {
		t.Errorf("done to the DomU: %q", did)
	}
	// Nothing in /srv goes on until the DomU does.
	s.must("dom0a", "rm /run/paused; mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
	s.write("dom0a/sbin/virsh", `#!/bin/bash
virsh.real "$@" || exit
case " $* " in
*" suspend "*) fsfreeze -f /srv ;;
*" resume "*) fsfreeze -u /srv ;;
esac
`, 0o755)
	s.backup("dom0a", "XB_PAUSE_LIMIT=1").fails(t, 0, "domu1 ran again before all snapshots were taken")
	if did := s.must("dom0a", "cat /run/paused"); did != "suspend\nresume\n" {
		t.Errorf("done to the DomU: %q", did)
	}
}

// TestLongWrapperDryRun demands of --dry-run what the run would say.
func TestLongWrapperDryRun(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	for _, name := range []string{"dom0a", "dom0b"} {
		s.must(name, "mkdir /etc/xen-backup /srv/state; echo STATE_DIR=/srv/state >/etc/xen-backup/host.conf")
	}
	s.backup("dom0a").silent(t)
	s.change("dom0a", "/srv/a.img")
	// In the usual place is another opinion of that standby.
	s.must("dom0b", "mkdir -p /var/lib/xen-backup; sed 's/clean/applying/' /srv/state/*.json >/var/lib/xen-backup/$(cd /srv/state; echo *.json)")
	s.on("dom0a", cron("--dry-run")).
		fails(t, 0, "### would sync domu1 from dom0a to dom0b: /srv/a.img to /srv/a.img")
	s.backup("dom0a").silent(t)

	// A disk that can't be frozen.
	loop := strings.TrimSpace(s.must("dom0a", "losetup -f --show /srv/a.img"))
	t.Cleanup(func() { s.here("losetup -d " + loop) })
	s.domain("dom0a", "domu1", 1, loop)
	for _, mode := range []string{"--dry-run", ""} {
		s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, fmt.Sprintf("MAP=dom0b:%s=/srv/new.img", loop))
		s.backup("dom0a", mode).fails(t, 3, "### ERROR 78: DomU domu1: no snapshots")
	}
}

// TestLongWrapperWords demands that warnings and errors name the DomU, and reach the mail.
func TestLongWrapperWords(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdq")
	s.image("dom0b", "/srv/a.img", mib)
	s.backup("dom0a").fails(t, 0, "DomU domu1: xb-locate: ", "xvdq",
		"DomU domu1, disk xvda, dom0b:/srv/a.img: xb-patch: first contact with /srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.change("dom0b", "/srv/a.img")
	r := s.backup("dom0a")
	r.fails(t, 3)
	lines := strings.Split(r.err, "\n")
	if !strings.Contains(r.err, "on dom0a: xen-backup.sh --force-diverged domu1") {
		t.Errorf("no cure:\n%s", r.err)
	}
	for _, words := range []string{"### ERROR 80: DomU domu1, disk xvda: ", "dom0b:/srv/a.img", "would lose"} {
		if !strings.Contains(lines[0], words) {
			t.Errorf("no %q in the first line:\n%s", words, r.err)
		}
	}
	for _, line := range lines {
		if line != "" && !strings.Contains(line, "DomU domu1") && !strings.HasPrefix(line, "# 1 DomU, ") ||
			strings.Contains(line, "(0 ") {
			t.Errorf("in the mail: %s", line)
		}
	}
}

// TestLongWrapperLastCommon has a host that got the image, sent it back when the DomU ran there, and
// was written to since: the message says when both had the same, not when the last run looked. A
// standby that is gone is not said to have been written to.
func TestLongWrapperLastCommon(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.backup("dom0a").silent(t)
	state := "/var/lib/xen-backup/%2Fsrv%2Fa.img.json"
	s.must("dom0b", `sed -i -E 's/("time": *")[0-9]{4}/\12001/' `+state)
	s.change("dom0b", "/srv/a.img")
	for range 2 {
		s.backup("dom0a").fails(t, 3, "### ERROR 80: DomU domu1, disk xvda: ", "is not what both hosts last had, at 2001-")
	}
	sent := "/var/lib/xen-backup/sent/%2Fsrv%2Fa.img"
	s.must("dom0b", "mkdir -p "+sent+
		`; for h in a c; do sed -E 's/dom0a/dom0'$h'/; s/("time": *")2001/\1'$(case $h in a) echo 2002 ;; c) echo 2003 ;; esac)'/' `+
		state+" >"+sent+"/dom0$h.json; done; rm "+state)
	for range 2 { // the second time dom0b remembers what the first run saw
		s.backup("dom0a").fails(t, 3, "### ERROR 80: DomU domu1, disk xvda: ", "is not what both hosts last had, at 2002-")
	}
	s.must("dom0b", "rm /srv/a.img")
	r := s.backup("dom0a")
	r.fails(t, 3, "### ERROR 80: DomU domu1, disk xvda: ", "is missing, although a sync left an image in it: is its file system not mounted?")
	s.backup("dom0a", "--dry-run").fails(t, 3, "if it is gone for good: on dom0a: xen-backup.sh --force-diverged domu1\n")
	if strings.Contains(r.err, "would lose") {
		t.Errorf("called a divergence:\n%s", r.err)
	}
}

// TestLongWrapperLog has a host without syslog, and words that are no clean lines.
func TestLongWrapperLog(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, `printf 'caf\303\251 \033[31mred\r\nno newline' >&2`)
	r := s.backup("dom0a")
	r.fails(t, 0, "domu1.conf: caf?? ?[31mred\n", "domu1.conf: no newline\n")
	if log := s.log("dom0a"); !strings.Contains(log, "local3.warning ## /etc/xen-backup.d/domu1.conf: no newline\n") {
		t.Errorf("in the log:\n%s", log)
	}
	s.must("dom0a", "rm /usr/local/sbin/logger")
	s.backup("dom0a", `'LOG_OPTION=--socket /run/none'`).
		fails(t, 0, "## checking DomU domu1\n", "### sync domu1 from dom0a to dom0b")
}

// TestLongWrapperShells has login shells on the other Dom0 that are no sh, that speak, and
// that are none.
func TestLongWrapperShells(t *testing.T) {
	for _, c := range testkit.Some(t, 3, []struct {
		name, shell, setup string
		works              bool
		words              string
	}{
		{name: "words on stdout", shell: "bash", setup: "echo 'printf glued' >/root/.bashrc", words: "glued"},
		{name: "fish", shell: "fish", works: true},
		{name: "nologin", shell: "nologin", words: "This account is currently not available."},
		{name: "words on stderr", shell: "bash", setup: "echo 'printf glued >&2' >/root/.bashrc", works: true},
		{name: "csh", shell: "tcsh", works: true},
		{name: "dash", shell: "dash", works: true},
	}...) {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			shell := strings.TrimSpace(s.must("dom0b", "command -v "+c.shell+" || :"))
			if shell == "" {
				t.Skip("needs " + c.shell)
			}
			s.must("dom0b", "sed -i 's|^\\(root:.*:\\)[^:]*$|\\1"+shell+"|' /etc/passwd; "+c.setup)
			s.domu1("/srv/a.img")
			s.image("dom0b", "/srv/a.img", mib)
			for range 2 {
				r := s.backup("dom0a", "--verify")
				if c.works {
					r.fails(t, 0)
					s.same("/srv/a.img", "/srv/a.img")
				} else {
					r.fails(t, 3, "### ERROR ", "DomU domu1", c.words)
				}
			}
		})
	}
}

// TestLongWrapperSSHConfig has settings for a user's own comfort in ssh_config.
func TestLongWrapperSSHConfig(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.write("dom0a/root/.ssh/config",
		"RemoteCommand tmux attach\nRequestTTY yes\nStdinNull yes\nForkAfterAuthentication yes\n", 0o600)
	for range 2 {
		s.backup("dom0a").silent(t)
		s.same("/srv/a.img", "/srv/a.img")
		s.change("dom0a", "/srv/a.img")
	}
}

// TestWrapperLock has a toolstack and a conf file leave programs behind: they do not
// hold the lock.
func TestWrapperLock(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "setsid sleep 1000 >/dev/null 2>&1 &")
	s.must("dom0a", "mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
	s.write("dom0a/sbin/virsh", "#!/bin/bash\nsetsid sleep 1001 </dev/null >/dev/null 2>&1 &\nexec virsh.real \"$@\"\n",
		0o755)
	for range 2 {
		s.backup("dom0a").silent(t)
	}
	s.must("dom0a", "pgrep -fx 'sleep 1000'; pgrep -fx 'sleep 1001'")
}

// TestLongWrapperReplaced has the script replaced, as cp does it, while it runs.
func TestLongWrapperReplaced(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s,
		"yes 'echo replaced; exit 9' 2>/dev/null | head -c 100000 >/usr/local/sbin/xen-backup.sh")
	s.backup("dom0a").silent(t)
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperSurroundings demands an error, and the right one, of what would else end each
// DomU with a wrong one.
func TestLongWrapperSurroundings(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	long := "/run/" + strings.Repeat("x", 27)
	s.must("dom0a", "mkdir "+long+" "+long[:31]+"; cp -a /usr/local/sbin/xen-backup.sh /usr/local/sbin/old.sh")
	s.on("dom0a", cron("RUN_DIR="+long)).fails(t, 78, "RUN_DIR has more than 31 characters")
	s.on("dom0a", cron("RUN_DIR="+long[:31])).silent(t)
	s.must("dom0a", "sed -i 's/404/909/' /usr/local/sbin/old.sh")
	if r := s.on("dom0a", "old.sh"); r.status != 78 || strings.Count(r.err, "\n") != 1 ||
		!strings.Contains(r.err, "bash 4.4") {
		t.Errorf("an old bash: status %d, %s", r.status, r.err)
	}
	// Lists are no patterns for names of files where cron happens to be.
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0[b]"`)
	s.on("dom0a", "cd /run; touch dom0b; "+cron()).fails(t, 3, "bad DOM0S: dom0[b]")
	s.must("dom0a", "! ls /usr/local/sbin/pkill; printf '#!/bin/sh\necho pkill >>/run/pkill\n' >/usr/local/sbin/pkill; chmod 755 /usr/local/sbin/pkill")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.backup("dom0a").silent(t)
	s.must("dom0a", "! ls /run/pkill")
	for _, words := range []string{"--no-such", "--final --force-diverged domu1", "--final"} {
		if r := s.on("dom0a", "xen-backup.sh "+words); r.status != 64 || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: status %d, %s", words, r.status, r.err)
		}
	}
}

// TestLongWrapperBreaksOff has a command fail that nobody expects to: the copy is an error,
// not one of something else.
func TestLongWrapperBreaksOff(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.write("dom0a/sbin/xb-copy", `#!/bin/bash
case " $* " in *" --connect "* | *" --prepare "*) exec /usr/local/bin/xb-copy "$@" ;; esac
exit 5
`, 0o755)
	s.backup("dom0a").fails(t, 3, "### ERROR 70: DomU domu1: it broke off with status 5\n")
	s.must("dom0b", "! ls /srv/a.img")
	s.must("dom0a", "rm /usr/local/sbin/xb-copy")
	s.write("dom0a/sbin/xb-delta", "#!/bin/sh\nexit 5\n", 0o755)
	s.backup("dom0a").fails(t, 3, "### ERROR 5: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img")
	s.must("dom0b", "! test -s /srv/a.img")
}

// TestLongWrapperMap has a disk that has another name on each Dom0: it keeps it, wherever
// the DomU runs.
func TestLongWrapperMap(t *testing.T) {
	s := newSite(t)
	rules := "MAP=(dom0b:/srv/a.img=/srv/b.img)"
	s.domu1("/srv/a.img")
	for _, name := range []string{"dom0a", "dom0b"} {
		s.conf(name, "domu1", "DOMU=domu1", twoDom0s, rules)
	}
	s.backup("dom0a").silent(t)
	s.same("/srv/a.img", "/srv/b.img")
	s.domain("dom0a", "domu1", 5, "/srv/a.img")
	s.domain("dom0b", "domu1", 1, "/srv/b.img")
	s.change("dom0b", "/srv/b.img")
	s.backup("dom0b").fails(t, 0)
	s.same("/srv/a.img", "/srv/b.img")
	s.must("dom0a", "! ls /srv/b.img")
	// An explicit rule for the way back wins.
	s.conf("dom0b", "domu1", "DOMU=domu1", twoDom0s, rules, "MAP+=(dom0a:/srv/b.img=/srv/c.img)")
	s.backup("dom0b").fails(t, 0)
	s.same("/srv/c.img", "/srv/b.img")
}

// TestLongWrapperMapMisses has rules of MAP that nothing comes under, and a conf file that
// cannot be read.
func TestLongWrapperMapMisses(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "MAP='dom0b:/srv/A.img=/srv/b.img dom0c:/srv/a.img=/srv/b.img'")
	s.backup("dom0a").fails(t, 0,
		"## DomU domu1: xb-locate: MAP names /srv/A.img, which is no disk that is copied (/srv/a.img): dom0b:/srv/A.img=/srv/b.img",
		"## DomU domu1: xb-locate: MAP names dom0c, which is not in DOM0S: dom0c:/srv/a.img=/srv/b.img")
	// A name that the disk has on another Dom0, or on none of these two.
	s.conf("dom0a", "domu1", "DOMU=domu1", "DOM0S='dom0a dom0b'",
		"MAP='dom0b:/srv/c.img=/srv/d.img dom0a:/srv/c.img=/srv/a.img dom0b:/srv/d.img=/srv/d.img'")
	s.backup("dom0a").silent(t)
	s.same("/srv/a.img", "/srv/d.img")

	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "MAP='dom0b")
	s.backup("dom0a", "domu1").fails(t, 3,
		"### ERROR 78: /etc/xen-backup.d/domu1.conf: not a file of shell variables")
	s.backup("dom0a", "domu2").fails(t, 3,
		"### ERROR 78: no conf file for DomU domu2, unless it is one with a mistake, which bash -n FILE shows: /etc/xen-backup.d/domu1.conf")
}

// TestLongWrapperDocument demands that the document that travels names the standbys, and is for
// nobody else to read; and that it travels when the copies are there.
func TestLongWrapperDocument(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img", "/srv/b.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb", "MAP=dom0b:/srv/a.img=/srv/z.img")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s) // not here
	s.domain("dom0a", "domu2", 5)
	s.must("dom0b", "mkdir /srv/z.img")
	s.backup("dom0a").fails(t, 3)
	s.must("dom0b", "! ls /var/lib/xen-backup/xml/domu1.xml; rmdir /srv/z.img")
	s.backup("dom0a").silent(t)
	xml := s.must("dom0b", "cat /var/lib/xen-backup/xml/domu1.xml")
	if !strings.Contains(xml, "/srv/z.img") || strings.Contains(xml, "file='/srv/b.img") ||
		strings.Contains(xml, "file='/srv/a.img") {
		t.Errorf("the document on dom0b:\n%s", xml)
	}
	modes := s.must("dom0b", "stat -c %a /var/lib/xen-backup/xml/domu1.xml") +
		s.must("dom0a", "stat -c %a /etc/xen-backup.d/domu1.xml")
	if modes != "600\n600\n" {
		t.Errorf("modes %s, want 600", modes)
	}
	if log := s.log("dom0a"); !strings.Contains(log,
		"SKIP: DomU domu2 is not running on this host: domu2 is not active here (virsh: shut off") {
		t.Errorf("why domu2 is skipped:\n%s", log)
	}
}

// TestLongWrapperOneStandby has two disks meet in one standby, which has two names.
func TestLongWrapperOneStandby(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img", "/srv/b.img")
	s.must("dom0b", "touch /srv/one.img; ln -s one.img /srv/two.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "MAP='dom0b:/srv/a.img=/srv/one.img dom0b:/srv/b.img=/srv/two.img'")
	if r := s.backup("dom0a"); r.status != 3 || !strings.Contains(r.err, "domu1/xvda") && !strings.Contains(r.err, "domu1/xvdb") {
		t.Errorf("status %d, and no word of the other disk:\n%s", r.status, r.err)
	}
	s.must("dom0b", "! test -s /srv/one.img")
	// And those of two DomUs.
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb", "MAP=dom0b:/srv/a.img=/srv/one.img")
	s.backup("dom0a").fails(t, 0)
	s.image("dom0a", "/srv/c.img", mib)
	s.domain("dom0a", "domu2", 1, "/srv/c.img")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s, "MAP=dom0b:/srv/c.img=/srv/two.img")
	s.backup("dom0a", "--force-diverged", "domu2").fails(t, 3, "### ERROR 80: DomU domu2, disk xvda: ", "domu1/xvda")
	s.same("/srv/a.img", "/srv/one.img")
}

// TestLongWrapperStall has an xb-patch that stands still: it is given up, but not the slow copy
// of the next DomU.
func TestLongWrapperStall(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.image("dom0a", "/srv/b.img", 3*mib/2)
	s.domain("dom0a", "domu2", 1, "/srv/b.img")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s, "BWLIMIT=50K")
	s.write("dom0b/sbin/xb-patch", `#!/bin/bash
case " $* " in
*" --auto "*" domu1/"*) kill -STOP $$ ;;
esac
exec /usr/local/bin/xb-patch "$@"
`, 0o755)
	r := s.on("dom0a", cron("STALL=14"))
	r.fails(t, 3, "### ERROR 69: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: no progress for 14 s\n")
	if strings.Count(r.err, "ERROR") != 1 {
		t.Errorf("errors:\n%s", r.err)
	}
	s.same("/srv/b.img", "/srv/b.img")
	s.must("dom0b", "pkill -KILL -f '/usr/local/sbin/[x]b-patch'")
	s.nothingLeft("dom0a")
}

// TestWrapperLinkCut cuts the link in the middle of the first disk's copy: its connection
// looks open for minutes, and no further disk or DomU may wait for it.
func TestWrapperLinkCut(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img", "/srv/b.img")
	s.image("dom0a", "/srv/c.img", mib)
	s.domain("dom0a", "domu2", 1, "/srv/c.img")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s)
	s.write("dom0b/sbin/xb-patch", `#!/bin/bash
case " $* " in
*" --auto "*) ip link set veth0 down ;;
esac
exec /usr/local/bin/xb-patch "$@"
`, 0o755)
	r := s.on("dom0a", cron("STALL=14", "CONNECT_TIMEOUT=5"))
	r.fails(t, 3, "### ERROR 69: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: no progress for 14 s\n",
		"### ERROR 69: DomU domu1, disk xvdb: /srv/b.img was not copied to dom0b:/srv/b.img: no progress for 14 s\n",
		"### DomU domu1: failed: xvda xvdb; its standby on dom0b cannot be asked of when it is\n",
		"### ERROR 69: DomU domu2: remote Dom0 dom0b cannot be reached\n")
	s.nothingLeft("dom0a")
}

// TestLongWrapperStallInApply holds back what is written there, as a broken disk does: the run
// gives up, but what has begun to be applied is applied, and the next run goes on from it.
func TestLongWrapperStallInApply(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.backup("dom0a")
	s.change("dom0a", "/srv/a.img")
	s.must("dom0b", "fsfreeze -f /srv")
	t.Cleanup(func() { s.on("dom0b", "fsfreeze -u /srv") })
	s.on("dom0a", cron("STALL=25")).fails(t, 3,
		"### ERROR 69: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: no progress for 25 s\n")
	s.on("dom0a", cron()).fails(t, 3, "### ERROR 75: ", "xb-patch is at work on it: process ", "from dom0a, of domu1/xvda")
	s.must("dom0b", "fsfreeze -u /srv")
	eventually(s, "the end of the apply", func() bool {
		return strings.Contains(s.on("dom0b", "xb-patch --state /srv/a.img").out, `"phase":"clean"`)
	})
	s.same("/srv/a.img", "/srv/a.img")
	s.change("dom0a", "/srv/a.img")
	s.backup("dom0a").silent(t)
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperImageNames has disks with names as virt-manager makes them, and worse.
func TestLongWrapperImageNames(t *testing.T) {
	s := newSite(t)
	names := []string{"/srv/Windows 10.img", "/srv/50% $(touch x) `touch x`; caf\u00e9.img"}
	s.domu1(names...)
	for range 2 {
		s.backup("dom0a", "--verify").silent(t)
		for _, name := range names {
			s.same(name, name)
			s.change("dom0a", name)
		}
	}
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb",
		"MAP=dom0b:file:///srv/Windows%2010.img=file:///srv/W%2010.img")
	s.backup("dom0a").silent(t)
	s.same(names[0], "/srv/W 10.img")
	if xml := s.must("dom0b", "cat /var/lib/xen-backup/xml/domu1.xml"); !strings.Contains(xml, "'/srv/W 10.img'") {
		t.Errorf("the document on dom0b:\n%s", xml)
	}
}

// TestLongWrapperSkips demands words for a DomU that was asked for and is not copied, and for
// one that nobody knows; silence for one that is merely off.
func TestLongWrapperSkips(t *testing.T) {
	s := newSite(t)
	s.domain("dom0a", "domu1", 5)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.backup("dom0a").silent(t)
	s.backup("dom0a", "domu1").fails(t, 3,
		"## SKIP: DomU domu1 is not running on this host: domu1 is not active here (virsh: shut off")

	s.conf("dom0a", "domu1", "DOMU=domu2", twoDom0s)
	s.backup("dom0a").fails(t, 3, "### ERROR 78: DomU domu2: no Dom0 knows a DomU of that name")
	s.domain("dom0b", "domu2", 5)
	s.backup("dom0a").silent(t) // it has moved
	s.conf("dom0a", "domu1", "DOMU=domu3", `DOM0S="dom0a dom0b dom0c"`)
	s.backup("dom0a", "CONNECT_TIMEOUT=5").silent(t) // dom0c may know it
	s.conf("dom0a", "domu1", "DOMU=domu3", twoDom0s)
	s.must("dom0a", "mkdir -p /var/lib/xen-backup/xml; touch /var/lib/xen-backup/xml/domu3.xml")
	s.backup("dom0a").silent(t) // here is its copy
}

// TestLongWrapperSettings demands words about what a conf file sets to no effect.
func TestLongWrapperSettings(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUD=xvdb", "BW_LIMIT=1M", "VG=vg0", "echo $VG >/dev/null",
		"export HOOK=1", "LOG_FACILITY=local3", "COUNT=3; ((COUNT > 2))", "names=none wide=all", "mapfile <<<x", "read <<<x")
	r := s.backup("dom0a")
	r.fails(t, 0, "domu1.conf: EXCLUD is no setting", "domu1.conf: BW_LIMIT is no setting")
	if n := strings.Count(r.err, "\n"); n != 2 {
		t.Errorf("in the mail:\n%s", r.err)
	}
	for _, line := range []string{"JOBS=8", "STATE_DIR=/srv/state", "VIRSH_URI=test:///default"} {
		s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, line)
		s.backup("dom0a").fails(t, 3, "### ERROR 78: ", strings.SplitN(line, "=", 2)[0]+": readonly variable",
			"or it sets what is for the whole run")
	}
}

// TestLongWrapperOtherHash changes how blocks are compared: that is no divergence.
func TestLongWrapperOtherHash(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "BLOCK_SIZE=8kib")
	s.backup("dom0a").silent(t)
	s.backup("dom0a").silent(t)
	for _, line := range []string{"HASH=sha256", "BLOCK_SIZE=4K"} {
		s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, line)
		r := s.backup("dom0a")
		r.fails(t, 3, "### ERROR 80: DomU domu1, disk xvda: dom0b:/srv/a.img cannot be written to\n",
			"/srv/a.img was made with HASH=xxh64 and BLOCK_SIZE=8192", "--force-diverged domu1")
		if strings.Contains(r.err, "diverged:") || strings.Contains(r.err, "would lose") {
			t.Errorf("called a divergence:\n%s", r.err)
		}
	}
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "HASH=sha256")
	s.backup("dom0a", "--force-diverged", "domu1").fails(t, 0)
	s.change("dom0a", "/srv/a.img")
	s.backup("dom0a").silent(t)
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperDisksChange has another disk in the DomU when the snapshots are taken than when
// its disks were looked for, and then no DomU, and then another one: nothing is sent.
func TestLongWrapperDisksChange(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.image("dom0a", "/srv/b.img", mib)
	s.must("dom0a", "cp /run/node.xml /run/before.xml")
	s.write("dom0a/sbin/xb-snap",
		"#!/bin/bash\n/usr/local/bin/xb-snap \"$@\"\nstatus=$?\n[[ $1 != create ]] || cp /run/after.xml /run/node.xml\nexit $status\n", 0o755)
	for name, edit := range map[string]string{
		"another disk": "s|/srv/a.img|/srv/b.img|", "shut off": "s|runstate>1|runstate>5|",
		"another DomU": "s|6ba7b810|6ba7b811|",
	} {
		s.must("dom0a", "cp /run/before.xml /run/node.xml; sed '"+edit+"' /run/before.xml >/run/after.xml")
		s.backup("dom0a").fails(t, 3, "### ERROR 75: DomU domu1: ", "nothing is sent")
		if s.on("dom0b", "ls /srv/*.img").status == 0 {
			t.Errorf("%s: something was sent", name)
		}
	}
	s.must("dom0a", "cp /run/before.xml /run/node.xml; cp /run/before.xml /run/after.xml")
	s.backup("dom0a").silent(t)
}

// TestLongWrapperGivesWay has the guest's file system fill up during a copy: the snapshot is
// given up, and the run goes on.
func TestLongWrapperGivesWay(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.image("dom0a", "/srv/a.img", 20*mib)
	s.image("dom0a", "/srv/b.img", mib)
	s.domain("dom0a", "domu2", 1, "/srv/b.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "BWLIMIT=200K", "SNAPSHOT_SIZE=4M")
	s.conf("dom0a", "domu2", "DOMU=domu2", twoDom0s, "SNAPSHOT_SIZE=1M",
		`PRE_SNAPSHOT='rm -f /srv/full; until (($(stat -f -c "%f * %S" /srv) > 400 << 20)); do sleep 0.1; done'`)
	run := s.begin("dom0a", cron())
	eventually(s, "the copy", func() bool { return strings.Contains(s.log("dom0a"), "### sync domu1") })
	s.must("dom0a", "fallocate -l $(($(stat -f -c '%f * %S' /srv) - (200 << 20))) /srv/full")
	r := run.end()
	r.fails(t, 3, "### ERROR 82: DomU domu1, disk xvda: ", "given up")
	s.same("/srv/b.img", "/srv/b.img")
	s.nothingLeft("dom0a")
	if strings.Contains(r.err, "DomU domu2") {
		t.Errorf("the other DomU:\n%s", r.err)
	}
}

// TestLongWrapperPausedByError has a DomU that stands still because its disk is full: the copy is
// made, and the run says so.
func TestLongWrapperPausedByError(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.must("dom0a", "mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
	stuck := func(when string) {
		s.write("dom0a/sbin/virsh", `#!/bin/bash
case "$* " in
*' domstate --reason --domain=domu1 '* | 'domstate --reason --domain=domu1 ') `+when+` && echo 'paused (I/O error)' && exit ;;
esac
exec virsh.real "$@"
`, 0o755)
	}
	const words = "### ERROR 74: DomU domu1: it is paused by an I/O error"
	stuck("true")
	s.backup("dom0a").fails(t, 3, words)
	s.same("/srv/a.img", "/srv/a.img")
	s.status("dom0a", 2)
	// And one that comes to a stand while it is copied.
	stuck("test -e /run/stuck")
	s.backup("dom0a").silent(t)
	s.write("dom0a/sbin/xb-delta", "#!/bin/sh\ntouch /run/stuck\nexec /usr/local/bin/xb-delta \"$@\"\n", 0o755)
	s.change("dom0a", "/srv/a.img")
	s.backup("dom0a").fails(t, 3, words)
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperOwner demands that a file which is made for a standby can be opened by whoever
// runs the guest.
func TestLongWrapperOwner(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.must("dom0a", "chown games:backup /srv/a.img; chmod 640 /srv/a.img")
	s.backup("dom0a").silent(t)
	if got := s.must("dom0b", "stat -c '%U:%G %a' /srv/a.img"); got != "games:backup 640\n" {
		t.Errorf("owner and mode %s", got)
	}
}

// TestLongWrapperSaved has memory that belongs to the DomU's data: it is neither left behind by the
// last copy before a move, nor is a new disk put under it.
func TestLongWrapperSaved(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.backup("dom0a").silent(t)
	for _, name := range []string{"dom0a", "dom0b"} {
		s.must(name, "mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
		s.write(name+"/sbin/virsh", "#!/bin/bash\nvirsh.real \"$@\" | sed -E \"s/(Managed save:.*)no/\\1$(cat /run/saved 2>/dev/null || echo no)/\"\nexit ${PIPESTATUS[0]}\n", 0o755)
	}
	s.domain("dom0b", "domu1", 5, "/srv/a.img")
	s.change("dom0a", "/srv/a.img")
	before := s.must("dom0b", "sha256sum /srv/a.img")
	s.must("dom0b", "echo yes >/run/saved")
	s.backup("dom0a").fails(t, 3, "### ERROR 75: DomU domu1: remote Dom0 dom0b ", "saved")
	s.must("dom0b", "echo no >/run/saved")
	s.domain("dom0a", "domu1", 5, "/srv/a.img")
	s.must("dom0a", "echo yes >/run/saved")
	s.backup("dom0a", "--final", "domu1").
		fails(t, 3, "### ERROR 75: DomU domu1: it is not backed up", "managedsave-remove")
	s.backup("dom0a").silent(t) // off, as usual
	if s.must("dom0b", "sha256sum /srv/a.img") != before {
		t.Error("the standby was written to")
	}
	s.must("dom0a", "echo no >/run/saved")
	s.backup("dom0a", "--final", "domu1").silent(t)
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperFirmware demands that the variables of the DomU's firmware travel with it.
func TestLongWrapperFirmware(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.must("dom0a", `echo variables >/srv/vars.fd
		sed -i "s|<os><type>hvm</type>|<os><type>hvm</type><loader readonly='yes' type='pflash'>/srv/code.fd</loader><nvram>/srv/vars.fd</nvram>|" /run/domains/domu1
		cd /run; { echo '<node>'; cat domains/*; echo '</node>'; } >node.xml; touch /srv/code.fd`)
	s.backup("dom0a").fails(t, 0)
	s.must("dom0b", "tar -C / -xpf /var/lib/xen-backup/xml/domu1.files.tar && grep variables /srv/vars.fd")
	if log := s.log("dom0a"); !strings.Contains(log, "/srv/code.fd") {
		t.Errorf("the firmware is not named:\n%s", log)
	}
}

// TestLongWrapperTwiceTheSame has one file as two disks of a DomU.
func TestLongWrapperTwiceTheSame(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.must("dom0a", "ln -s a.img /srv/b.img")
	s.domain("dom0a", "domu1", 1, "/srv/a.img", "/srv/b.img")
	r := s.backup("dom0a")
	r.fails(t, 3, "### ERROR 78: DomU domu1: no snapshots", "are the same disk")
	if strings.Contains(r.err, "--help") {
		t.Errorf("advice for another one:\n%s", r.err)
	}
}
