package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/testkit"
)

// gated has dom0b's only key, dom0a's, pass through xb-gate, as xb-gate(8) says, with these lines in gate.conf.
func gated(t *testing.T, conf ...string) *site {
	s := newSite(t)
	for file, name := range map[string]string{"xb-gate": "xb-gate", "xen-failover.sh": "xen-failover"} {
		script, err := os.ReadFile("../../scripts/" + file)
		if err != nil {
			t.Fatal(err)
		}
		s.write("dom0b/sbin/"+name, string(script), 0o755)
	}
	s.write("dom0b/sbin/logger", `#!/bin/bash
[[ $1 = -t && $2 = xb-gate && $3 = -p && $5 = -- && $# = 6 ]] && echo "$4 $6" >>/run/syslog
`, 0o755)
	s.must("dom0b", `mkdir /etc/xen-backup
sed -i 's/^PermitRootLogin.*/PermitRootLogin forced-commands-only/' /etc/ssh/pair
printf 'restrict,command="/usr/local/sbin/xb-gate dom0a" %s\n' "$(cat /root/.ssh/authorized_keys)" >/run/key
mv /run/key /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys`)
	s.gateConf(conf...)
	// sshd reads its configuration again, and says so by how it answers.
	s.must("dom0b", `for f in /proc/[0-9]*/cmdline; do
	! tr '\0' ' ' <$f 2>/dev/null | grep -q '^sshd.*listener\|^/usr/sbin/sshd -D' || kill -HUP "$(basename "${f%/cmdline}")"
done`)
	eventually(t, "a gate before dom0b", func() bool {
		return s.on("dom0a", "ssh -o ConnectTimeout=5 dom0b xb-patch --version").status == 0 &&
			s.on("dom0a", "ssh -o ConnectTimeout=5 dom0b true").status == refused
	})
	s.must("dom0b", ": >/run/syslog")
	return s
}

func (s *site) gateConf(lines ...string) {
	s.Helper()
	s.write("dom0b/etc/xen-backup/gate.conf", strings.Join(lines, "\n")+"\n", 0o644)
}

// content is a sum over all that a command could leave behind on dom0b.
func (s *site) content() string {
	s.Helper()
	return s.must("dom0b", "find /etc /root /srv /var/lib /usr/local/sbin /run ! -path /run/syslog ! -path '/run/sshd*' "+
		"-printf '%p %i %s %m %U %T@ %C@\\n' | sort; find /dev -xdev -type f")
}

// sameContent demands that dom0b has what it had before, and nothing else.
func (s *site) sameContent(before string) {
	s.Helper()
	had := make(map[string]bool)
	for line := range strings.Lines(before) {
		had[line] = true
	}
	for line := range strings.Lines(s.content()) {
		if !had[line] {
			s.Errorf("new or changed on dom0b: %s", line)
		}
		delete(had, line)
	}
	for line := range had {
		s.Errorf("not on dom0b any more: %s", line)
	}
}

// Every path, disk and DomU here that a good command would name is one that gate.conf allows: what is wrong is the one
// thing that each is a trial of. All of it is to be refused with 77, whatever it is, but for what sshd itself refuses.
var hostile = map[string][]string{
	"nothing, and shells": {
		"", " ", "sh", "bash", "/bin/sh", "bash -i", "sh -c id", "su", "sudo xb-sig /srv/a.img",
		"exec xb-sig /srv/a.img", "id", "true", "env xb-sig /srv/a.img", "/usr/bin/xb-sig /srv/a.img",
		"./xb-sig /srv/a.img", "xb-sig", "xb-patch", "xb-locate", "eval xb-sig /srv/a.img",
		"PATH=/srv xb-sig /srv/a.img", "XB_STATE_DIR=/srv xb-sig /srv/a.img",
	},
	"other programs": {
		"xb-snap create /srv/a.img", "xb-snap remove /srv/a.img", "xb-snap prune", "xb-delta /srv/a.img",
		"xb-copy --connect --run /srv dom0a", "xen-backup.sh", "xen-backup.sh --force-diverged", "xb-gate dom0a",
		"virsh list", "xl list", "lvremove -f vg", "dd if=/srv/a.img", "cat /etc/shadow", "rm -rf /srv",
		"scp -t /srv", "scp -f /etc/shadow", "rsync --server -logDtpr . /srv", "/usr/lib/openssh/sftp-server",
		"internal-sftp", "git-upload-pack /srv", "xb-sig.exe /srv/a.img", "XB-SIG /srv/a.img",
	},
	"what a shell would do": {
		"xb-sig /srv/a.img; touch /srv/mark", "xb-sig /srv/a.img;touch /srv/mark",
		"xb-sig /srv/a.img & touch /srv/mark", "xb-sig /srv/a.img && touch /srv/mark",
		"xb-sig /srv/a.img || touch /srv/mark", "xb-sig /srv/a.img | tee /srv/mark", "xb-sig /srv/a.img >/srv/mark",
		"xb-sig /srv/a.img 2>/srv/mark", "xb-sig $(touch /srv/mark)", "xb-sig </srv/a.img",
		"xb-sig `touch /srv/mark`", "xb-sig ${IFS}/srv/a.img", "xb-sig $HOME", "xb-sig $((1))",
		"xb-sig \"/srv/a.img\"", "xb-sig '/srv/a.img'", "xb-sig /srv/a\\.img", "xb-sig /srv/*.img",
		"xb-sig /srv/?.img", "xb-sig /srv/[a].img", "xb-sig /srv/{a,b}.img", "xb-sig ~/a.img",
		"xb-sig /srv/a.img # touch", "!xb-sig /srv/a.img", "xb-sig /srv/a.img\ntouch /srv/mark",
		"xb-sig /srv/a.img\n", "\nxb-sig /srv/a.img", "xb-sig /srv/a.img\rtouch /srv/mark", "xb-sig\t/srv/a.img",
		"xb-sig /srv/a.img\x0btouch", "xb-sig /srv/a.img\x1b[2J", "xb-sig /srv/a.img\x7f", "(xb-sig /srv/a.img)",
		"{ xb-sig /srv/a.img; }", "xb-sig /srv/a.img \\0", "xb-sig /srv/a.img\\x00", "xb-sig ^/srv/a.img",
	},
	"bytes and spaces": {
		"xb-sig  /srv/a.img", " xb-sig /srv/a.img", "xb-sig /srv/a.img ", "xb-sig /srv/\u00e4.img",
		"xb-sig /srv/a.img\u00a0", "xb-sig\u2003/srv/a.img", "xb-sig /srv/\u202ea.img", "xb-sig \uff0fsrv\uff0fa.img",
		"\ufeffxb-sig /srv/a.img", "xb-sig /srv/a\xff.img", "xb-sig /srv/a\xc0\xae.img", "xb-s\u0456g /srv/a.img",
		"xb-sig /srv/a.img,b", "xb-sig /srv/\u2025/a.img",
	},
	"paths": {
		"xb-sig a.img", "xb-sig ./a.img", "xb-sig /srv/../srv/a.img", "xb-sig /srv/./a.img", "xb-sig //srv/a.img",
		"xb-sig /srv//a.img", "xb-sig /srv/a.img/..", "xb-sig /srv/a.img/.", "xb-sig /srv/a.img/",
		"xb-sig /srv/%61.img", "xb-sig /srv%2fa.img", "xb-sig /%2e%2e/srv/a.img", "xb-sig file:///srv%2fa.img",
		"xb-sig file:///srv%2Fa.img", "xb-sig file:///%2e%2e/srv/a.img", "xb-sig file:///srv/%2e/a.img",
		"xb-sig file:///srv/%61.img", "xb-sig file:///srv/a.img%00", "xb-sig file:///srv/a.img%0a",
		"xb-sig file:///srv/a.img%", "xb-sig file:///srv/a.img%2", "xb-sig file:///srv/a.img%g0",
		"xb-sig file:///srv/a.img%7f", "xb-sig file://dom0c/srv/a.img", "xb-sig file:/srv/a.img",
		"xb-sig file:srv/a.img", "xb-sig FILE:///srv/a.img", "xb-sig file:///srv/../srv/a.img",
		"xb-sig file:////srv/a.img", "xb-sig http://dom0c/a.img", "xb-sig -", "xb-sig /dev/stdin",
		"xb-sig /proc/self/fd/0", "xb-sig /proc/1/root/srv/a.img", "xb-sig /", "xb-sig /srv", "xb-sig /dev/null",
	},
	"options": {
		"xb-sig -- /srv/a.img", "xb-sig -- --state-dir", "xb-sig /srv/a.img --heartbeat",
		"xb-sig /srv/a.img -- --state-dir /srv", "xb-sig --heart /srv/a.img", "xb-sig --missing /srv/a.img",
		"xb-sig --hash=xxh64 /srv/a.img", "xb-sig --hash=hash /srv/a.img",
		"xb-sig --hash xxh64 --hash sha256 /srv/a.img", "xb-sig --hash md5 /srv/a.img", "xb-sig --hash /srv/a.img",
		"xb-sig -b4K /srv/a.img", "xb-sig -b /srv/a.img", "xb-sig -b -1 /srv/a.img", "xb-sig -b 4Q /srv/a.img",
		"xb-sig -b 99999999999999999999 /srv/a.img", "xb-sig -vb 4K /srv/a.img", "xb-sig -v /srv/a.img",
		"xb-sig --state-dir /srv /srv/a.img", "xb-sig --summary /srv/mark /srv/a.img", "xb-sig --info /etc/shadow",
		"xb-sig --progress /srv/a.img", "xb-sig --allow /srv/mark /srv/a.img", "xb-sig --allow=/srv/mark /srv/a.img",
		"xb-sig --peer dom0a /srv/a.img", "xb-sig --size 4096 /srv/a.img", "xb-sig --help", "xb-sig --version",
		"xb-sig -oProxyCommand=id /srv/a.img", "xb-sig /srv/a.img /srv/a.img", "xb-sig --Heartbeat /srv/a.img",
		"xb-sig -heartbeat /srv/a.img", "xb-sig \u2010-heartbeat /srv/a.img", "-oProxyCommand=id", "--version",
		"xb-patch --version --state-dir /srv", "xb-patch --version /srv/a.img", "xb-patch -V", "xb-patch --help",
	},
	"verbs of xb-patch": {
		"xb-patch /srv/a.img", "xb-patch --spool /srv /srv/a.img", "xb-patch --in-place /srv/a.img",
		"xb-patch --create /srv/a.img", "xb-patch --force-diverged /srv/a.img", "xb-patch --dry-run /srv/a.img",
		"xb-patch --state /srv/a.img", "xb-patch --adopt domu1/xvda /srv/a.img",
		"xb-patch --discard-changes /srv/a.img", "xb-patch --abandon-apply /srv/a.img",
		"xb-patch --record --peer dom0a --disk domu1/xvda --stages 0 /srv/a.img", "xb-patch --list",
		"xb-patch --list --json", "xb-patch --list --metrics /srv/mark", "xb-patch --list --order domu1",
		"xb-patch --list --expected /etc/shadow", "xb-patch --list --when", "xb-patch --list --when domu1",
		"xb-patch --list --when domu1/xvda --metrics /srv/mark", "xb-patch --info /etc/shadow",
		"xb-patch --list --json --when domu1/xvda", "xb-patch --list domu1/xvda --when",
	},
	"dangerous options of xb-patch": {
		"xb-patch --auto --peer dom0a --disk domu1/xvda --force-diverged /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --spool /srv /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --in-place /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --summary /srv/mark /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --state-dir /srv /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --discard-changes /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --adopt domu1/xvda /srv/a.img",
		"xb-patch --auto --force --peer dom0a --disk domu1/xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --mode 4755 /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --owner -r /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --owner a:b:c /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --hold ../../x --taken 2026-11-26T23:47:28Z /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --taken now /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --first-copy always /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --create-lv ../vg /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --create-lv -y /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --toolstack sh /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --force-diverged /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size -1 /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 0x10 /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have ../x /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have /srv/mark /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have --state-dir /srv /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have xxh64:4096:1:a --have -x:y:z:a /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have xxh64:4096:1:a --size 2 /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --have=xxh64:4096:1:a /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --have xxh64:4096:1:a /srv/a.img",
		"xb-patch --prepare --peer dom0a --disk domu1/xvda --size 1 --summary /srv/mark /srv/a.img",
		"xb-patch --commit ../set --peer dom0a /srv/a.img",
		"xb-patch --commit abc --peer dom0a --force-diverged /srv/a.img", "xb-patch --commit abc --peer dom0a",
		"xb-patch --recover --force-diverged /srv/a.img", "xb-patch --recover --abandon-apply /srv/a.img",
		"xb-patch --recover",
	},
	"another peer": {
		"xb-patch --prepare --peer dom0c --disk domu1/xvda --size 4096 /srv/a.img",
		"xb-patch --auto --peer dom0c --disk domu1/xvda /srv/a.img",
		"xb-patch --auto --peer= --disk domu1/xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --peer dom0c --disk domu1/xvda /srv/a.img",
		"xb-patch --auto --peer DOM0A --disk domu1/xvda /srv/a.img", "xb-patch --commit abc --peer dom0c /srv/a.img",
		"xb-patch --recover --peer dom0c /srv/a.img",
	},
	"names of disks and DomUs": {
		"xb-patch --auto --peer dom0a --disk domu1 /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda/b /srv/a.img",
		"xb-patch --auto --peer dom0a --disk /xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/ /srv/a.img",
		"xb-patch --auto --peer dom0a --disk ../xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/.. /srv/a.img",
		"xb-patch --auto --peer dom0a --disk -x/xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/-x /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1%2fxvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk=domu1/xvda /srv/a.img",
		"xb-patch --auto --peer dom0a --disk=disk /srv/a.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvda --uuid ../../../../x /srv/a.img", "xb-locate --active",
		"xb-locate --active -c qemu+ssh://dom0c/system?command=id domu1",
		"xb-locate --active --connect test:///srv/x domu1", "xb-locate --active --toolstack /srv/x domu1",
		"xb-locate --active ../domu1", "xb-locate --active domu1 --words", "xb-locate --active domu1/x",
		"xb-locate --known --xl-config /etc/shadow domu1", "xb-locate --known", "xb-locate --copy domu1",
		"xb-locate --document domu1", "xb-locate --xml /etc/shadow", "xb-locate domu1", "xb-locate --all domu1",
		"xb-locate --note /srv/mark domu1", "xb-locate --still /etc/shadow domu1", "xb-locate --here dom0a",
		"xb-locate --targets --dom0s dom0a /srv/a.img", "xb-locate --plan", "xb-locate --store",
		"xb-locate --store ../domu1", "xb-locate --store domu1 --state-dir /srv",
		"xb-locate --store domu1 -c qemu:///system", "xb-locate --store domu1 domu1",
		"xb-locate --store domu1 --map /srv/x", "xb-locate --store domu1 --map /srv/x=/srv/a=/srv/b",
		"xb-locate --store domu1 --map /srv/x=../a.img", "xb-locate --store domu1 --map /srv/%78=/srv/a.img",
		"xb-locate --store domu1 --drop ../xvda", "xb-locate --store domu1 --format qcow2", "xb-locate --store=domu1",
		"xb-locate --store domu1 --promote", "xb-locate --words --active domu1",
	},
	"a failover": {
		"xb-locate --may promote domu1", "xb-locate --may promote", "xb-locate --may destroy domu1", "xb-locate --may promote ../domu1",
		"xb-locate --may", "xb-locate --nowhere domu1", "xb-copy --move --domu domu1 --to dom0c --confs /srv",
		"xen-failover promote domu1", "xen-failover promote --dry-run domu1", "xen-failover promote", "xen-failover", "xen-failover domu1",
		"xen-failover promote domu1 domu2", "xen-failover promote ../domu1", "xen-failover promote -- domu1",
		"xen-failover promote domu1 --dry-run", "xen-failover --dry-run promote domu1", "xen-failover promote --the-other-host-is-off domu1",
		"xen-failover promote --trust-document domu1", "xen-failover promote --disks-of-different-times domu1",
		"xen-failover promote --allow /srv/mark --peer dom0a domu1", "xen-failover promote --peer dom0a domu1",
		"xen-failover test domu1", "xen-failover move domu1 dom0c", "xen-failover.sh promote domu1", "xen-failover promote promote domu1",
	},
	"memory": {
		"xb-locate --may memory domu1", "xb-locate --arrival keep --moving " + aMove + " --size 10 domu1",
		"xb-locate --arrival restore --moving " + aMove + " --document-file /srv/a.img domu1",
		"xb-locate --arrival restore --moving " + aMove + " domu1", "xb-locate --arrival resume --moving " + aMove + " domu1",
		"xb-locate --arrival destroy --moving " + aMove + " domu1", "xb-locate --arrival tell --moving " + aMove + " domu1",
		"xb-locate --arrival", "xb-locate --arrival keep --moving ../../a --size 10 domu1",
		"xb-locate --arrival keep --moving " + aMove + " --size -1 domu1", "xb-locate --arrival destroy --moving " + aMove + " ../domu1",
		"xb-locate --arrival destroy --moving " + aMove + " --state-dir /srv domu1",
		"xb-locate --arrival destroy --moving " + aMove + " domu1 domu2", "xb-locate --arrival destroy --moving " + aMove,
		"xb-locate --arrival destroy --moving " + aMove + " -c test:///srv/x domu1", "xb-locate --active --moving ../x domu1",
		"xen-failover promote --restore " + aMove + " domu1", "xen-failover promote --restore ../x domu1",
		"xen-failover promote --restore " + aMove + " --the-other-host-is-off domu1", "xen-failover promote --restore domu1",
		"virsh restore /srv/a.img", "virsh destroy domu1", "virsh resume domu1", "xl restore /srv/a.img", "xl destroy domu1",
	},
}

const refused = 77

const aMove = "abcdefghijklmnopqrstuvwxyz" // a name that one could have

// ask has dom0a send commands to dom0b, each as it is, and returns their statuses. They come over one connection, as
// those of a run do.
func (s *site) ask(commands []string) []int {
	s.Helper()
	for i, command := range commands {
		s.write(fmt.Sprintf("dom0a/root/ask.%d", i), command, 0o600)
	}
	out := s.must("dom0a", fmt.Sprintf(`cd /root
ssh -o ControlPath=/run/master -M -N -f dom0b
for i in {0..%d}; do
	IFS= read -rd '' command <ask.$i || :
	status=0
	ssh -T -o ControlPath=/run/master dom0b -- "$command" </dev/null >out.$i 2>err.$i || status=$?
	echo $status
done
ssh -o ControlPath=/run/master -O exit dom0b 2>/dev/null`, len(commands)-1))
	var statuses []int
	for _, word := range strings.Fields(out) {
		status, _ := strconv.Atoi(word)
		statuses = append(statuses, status)
	}
	if len(statuses) != len(commands) {
		s.Fatalf("%d answers to %d commands", len(statuses), len(commands))
	}
	return statuses
}

func (s *site) said(i int) string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "dom0a/root", fmt.Sprintf("err.%d", i)))
	return strings.TrimSpace(string(text))
}

func TestGateRefuses(t *testing.T) {
	s := gated(t, "dom0a domu1/* /srv/a.img", "dom0a domu1/* /srv/*.img", "dom0c domu1/* /srv/c/c.img")
	s.image("dom0b", "/srv/a.img", 1<<20)
	var commands, kinds []string
	for kind, list := range hostile {
		for i, command := range list {
			if i%2 == 0 || testkit.Campaign() { // of each kind at least the half, from the first on
				commands, kinds = append(commands, command), append(kinds, kind)
			}
		}
	}
	if len(commands) < 150 {
		t.Errorf("only %d commands", len(commands))
	}
	before := s.content()
	for i, status := range s.ask(commands) {
		if said := s.said(i); status != refused || !strings.HasPrefix(said, "xb-") {
			t.Errorf("%s: %q: status %d, want %d\n%s", kinds[i], commands[i], status, refused, said)
		}
		if out, _ := os.ReadFile(filepath.Join(s.dir, "dom0a/root", fmt.Sprintf("out.%d", i))); len(out) > 0 {
			t.Errorf("%s: %q: printed %q", kinds[i], commands[i], out)
		}
	}
	s.sameContent(before)
	log := s.log("dom0b")
	if got := strings.Count(log, "auth.info dom0a: refused: "); got != len(commands) {
		t.Errorf("%d lines of %d commands in the log:\n%s", got, len(commands), log)
	}
	if strings.ContainsAny(log, "\r\t\x1b;`$\u00e4") {
		t.Errorf("the log has what was sent, as it was sent:\n%s", log)
	}
}

// What was interrupted is finished through the gate by whom it is allowed to, whoever began it.
func TestLongGateRecovers(t *testing.T) {
	s := gated(t, "dom0a domu1/xvda /srv/a.img", "dom0a domu2/xvda /srv/b.img")
	for _, c := range []struct {
		target, disk string
		status       int
	}{{"/srv/a.img", "domu1/xvda", 0}, {"/srv/b.img", "domu9/xvda", refused}} {
		s.must("dom0b", fmt.Sprintf(`cd /srv
head -c 256K /dev/urandom >new
head -c 256K /dev/urandom >%[1]s
xb-sig %[1]s | xb-delta new >delta
! XB_STANDBY_DOOMED='{"Run":"An apply","Delta":"/srv/delta","After":"half written","Options":{"Target":"%[1]s","Disk":"%[2]s","Peer":"dom0c",
	"Toolstack":"auto","StateDir":"/var/lib/xen-backup"}}' doomed
xb-patch --state %[1]s | grep -q applying`, c.target, c.disk))
		r := s.on("dom0a", "ssh dom0b xb-patch --recover "+c.target)
		phase := s.must("dom0b", "xb-patch --state "+c.target)
		if r.status != c.status || strings.Contains(phase, "applying") != (c.status != 0) {
			t.Errorf("%s: status %d, want %d\n%s%s", c.target, r.status, c.status, phase, r.err)
		}
	}
}

// What sshd or ssh refuses by themselves is refused, too; with which status is theirs.
func TestGateAndSSH(t *testing.T) {
	s := gated(t, "dom0a domu1/* /srv/a.img")
	s.image("dom0b", "/srv/a.img", 1<<20)
	before := s.content()
	for what, script := range map[string]string{
		"a login":                "ssh dom0b </dev/null",
		"a login with words":     "echo touch /srv/mark | ssh dom0b",
		"a terminal":             "ssh -tt dom0b </dev/null",
		"a terminal for a shell": "ssh -tt dom0b sh </dev/null",
		"sftp":                   "echo 'put /etc/hostname /srv/mark' | sftp -b - dom0b",
		"the subsystem":          "ssh -s dom0b sftp </dev/null",
		"another subsystem":      "ssh -s dom0b netconf </dev/null",
		"scp":                    "scp /etc/hostname dom0b:/srv/mark",
		"scp, as it was":         "scp -O /etc/hostname dom0b:/srv/mark",
		"scp from there":         "scp -O dom0b:/srv/a.img /root/mark",
		"rsync":                  "rsync /etc/hostname dom0b:/srv/mark",
		"a port from here":       "ssh -W 127.0.0.1:22 dom0b </dev/null",
		"a port there":           "ssh -o ExitOnForwardFailure=yes -R 2222:127.0.0.1:22 dom0b xb-patch --version",
		"a socket there":         "ssh -o ExitOnForwardFailure=yes -R /srv/mark:127.0.0.1:22 dom0b xb-patch --version",
		"a tunnel":               "ssh -o ExitOnForwardFailure=yes -w any:any dom0b xb-patch --version",
		"another user":           "ssh nobody@dom0b xb-patch --version",
		"another key": "ssh-keygen -q -t ed25519 -N '' -f /root/other && " +
			"ssh -o IdentitiesOnly=yes -i /root/other dom0b xb-patch --version",
		"1 MB": `word=$(head -c 100000 /dev/zero | tr '\0' a)
			ssh dom0b xb-sig /srv/a.img $word $word $word $word $word $word $word $word $word $word`,
		"more than an environment holds": `word=$(head -c 70000 /dev/zero | tr '\0' a); ssh dom0b xb-sig /srv/a.img $word $word`,
		"its environment": "ssh -o 'SendEnv=XB_* PATH BASH_ENV LD_*' -o SetEnv='XB_STATE_DIR=/srv PATH=/srv BASH_ENV=/srv/x LD_PRELOAD=/srv/x' " +
			"dom0b xb-patch --list",
	} {
		t.Run(what, func(t *testing.T) {
			if r := s.on("dom0a", script); r.status == 0 || strings.Contains(r.out, "xb-patch") {
				t.Errorf("status %d\n%s%s", r.status, r.out, r.err)
			}
			s.sameContent(before)
		})
	}
	for _, size := range []int{16385, 100000} { // the longest that sshd passes on
		r := s.on("dom0a", fmt.Sprintf(`ssh dom0b xb-sig "/srv/$(head -c %d /dev/zero | tr '\0' a)"`, size))
		r.fails(t, refused, "longer than 16384 bytes")
	}
	s.sameContent(before)
	if strings.Contains(s.log("dom0b"), "accepted") {
		t.Errorf("the log says:\n%s", s.log("dom0b"))
	}
}

// What is well said and not in gate.conf is refused by the programs, before anything is made.
func TestGateConf(t *testing.T) {
	s := gated(t, "dom0a domu1/xvda /srv/a.img", "dom0a domu1/xvdb /srv/vm/*.img", "dom0a domu2/xvda /srv/doc.img document-only",
		"dom0a domu4/xvda /dev/xbnone/domu4", "dom0c domu3/xvda /srv/c.img")
	s.must("dom0b", `mkdir /srv/vm /srv/other
for f in a doc c other/o vm/v; do head -c 1M /dev/urandom >/srv/$f.img; done
ln -s /srv/c.img /srv/vm/link.img
ln -s /srv/other /srv/vm/out.img
ln /srv/c.img /srv/vm/hard.img
ln -s /srv/other /srv/vm/dir`)
	allowed := "--peer dom0a --disk domu1/xvda"
	var commands []string
	for _, target := range testkit.Some(t, 3, "/srv/c.img", "/srv/doc.img", "/srv/vm/link.img", "/srv/vm/hard.img", "/srv/vm/dir/new.img", "/dev/null",
		"/srv/vm/v.img", "/srv/vm/out.img", "/srv/vm/dir/o.img", "/srv/new.img", "/srv/b.img", "/srv/none/a.img", "/etc/shadow", "/dev/zero",
		"/dev/xbnone/domu1", "/srv", "/srv/a.img.img", "/dev/mapper/control", "/root/.ssh/authorized_keys", "/etc/xen-backup/gate.conf",
		"/run/syslog", "/var/lib/xen-backup/x", "file:///srv/c%20c.img") {
		if target != "/srv/vm/v.img" {
			commands = append(commands, "xb-sig "+target, "xb-sig --missing-ok "+target, "xb-patch --recover "+target)
		}
		commands = append(commands, "xb-patch --prepare --size 4096 "+allowed+" "+target, "xb-patch --auto "+allowed+" "+target,
			"xb-patch --prepare --dry-run --create-lv xbnone --size 4096 "+allowed+" "+target)
	}
	commands = append(commands,
		"xb-patch --auto --peer dom0a --disk domu3/xvda /srv/a.img", "xb-patch --auto --peer dom0a --disk domu3/xvda /srv/c.img",
		"xb-patch --auto --peer dom0a --disk domu1/xvdc /srv/a.img", "xb-patch --auto --peer dom0a --disk domu2/xvda /srv/doc.img",
		"xb-patch --prepare --size 4096 --peer dom0a --disk domu4/xvda --create-lv xbnone /dev/xbnone/domu4",
		"xb-patch --auto --peer dom0a --disk domu4/xvda --create-lv xbnone /dev/xbnone/domu4",
		"xb-patch --commit aaaaaaaaaaaaaaaaaaaaaaaaaa /srv/a.img /srv/c.img", "xb-patch --list --when domu3/xvda", "xb-patch --list --when domu1/xvda domu3/xvda",
		"xb-patch --list --when domu2/xvda", "xb-locate --active domu3", "xb-locate --active domu1 domu3", "xb-locate --known domu3", "xb-locate --store domu3",
		"xb-locate --active 1", "xb-locate --active 6ba7b810-9dad-11d1-80b4-000000000000")
	before := s.content()
	for i, status := range s.ask(commands) {
		if said := s.said(i); status != refused || !strings.HasPrefix(said, "xb-") || strings.HasPrefix(said, "xb-gate") {
			t.Errorf("%q: status %d, want %d\n%s", commands[i], status, refused, said)
		}
	}
	s.sameContent(before)
	log := s.log("dom0b")
	if strings.Count(log, "auth.info dom0a: accepted: ") != len(commands) ||
		strings.Count(log, "auth.info dom0a: refused: ") != len(commands) {
		t.Errorf("not a line for each of %d commands, and for each refusal:\n%s", len(commands), log)
	}

	// No file, and one that others can write to.
	for what, c := range map[string]struct {
		script string
		status int
	}{
		"no gate.conf":     {"rm /etc/xen-backup/gate.conf", refused},
		"a word too many":  {"echo dom0a domu1/xvda /srv/a.img all >/etc/xen-backup/gate.conf", badConfig},
		"written by users": {"chmod 666 /etc/xen-backup/gate.conf", badConfig},
		"a pipe":           {"rm /etc/xen-backup/gate.conf; mkfifo /etc/xen-backup/gate.conf", badConfig},
	} {
		s.must("dom0b", "cp -p /etc/xen-backup/gate.conf /run/kept; "+c.script)
		for _, command := range []string{"xb-sig /srv/a.img", "xb-patch --prepare --size 4096 " + allowed + " /srv/a.img", "xb-locate --active domu1"} {
			if r := s.on("dom0a", "ssh dom0b "+command); r.status != c.status || r.out != "" {
				t.Errorf("%s: %s: status %d, want %d\n%s", what, command, r.status, c.status, r.err)
			}
		}
		s.must("dom0b", "rm -f /etc/xen-backup/gate.conf; cp -p /run/kept /etc/xen-backup/gate.conf")
	}
}

// through is the pipeline of a copy to a host with a gate.
func (s *site) through(source, target, disk, options string) result {
	s.Helper()
	return s.on("dom0a", fmt.Sprintf("set -o pipefail; ssh dom0b xb-sig --heartbeat --missing-ok -b 4K --hash xxh64 %[2]s </dev/null | "+
		"xb-delta --heartbeat %[1]s | ssh dom0b xb-patch --auto --heartbeat --peer dom0a --disk %[3]s %[4]s %[2]s", source, target, disk, options))
}

func TestLongGateLetsCopiesThrough(t *testing.T) {
	s := gated(t, "# the disks of dom0a's DomUs", "dom0a domu1/* /srv/vm/domu1-*.img", "dom0a odd/xvda file:///srv/vm/odd%20name.img",
		"dom0a domu1/* /srv/vm/other.img")
	s.domain("dom0b", "domu1", 5)
	s.must("dom0b", "mkdir /srv/vm")
	s.must("dom0a", "mkdir /srv/vm")
	for _, file := range []string{"a", "b"} {
		s.image("dom0a", "/srv/"+file, 3<<20)
	}
	answer := func(want, command string) {
		t.Helper()
		if got := strings.TrimSpace(s.must("dom0a", "ssh dom0b "+command)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	done := func(r result) {
		t.Helper()
		if r.status != 0 || r.err != "" {
			t.Fatalf("status %d\n%s", r.status, r.err)
		}
	}
	answer("xb-patch ", "xb-patch --version")
	answer("no", "xb-locate --active --words domu1")
	answer("yes", "xb-locate --known domu1")
	const size = " --size 3145728 --peer dom0a "
	answer("full reason=first-copy", "xb-patch --prepare --heartbeat"+size+"--disk domu1/xvda -b 4K --hash xxh64 /srv/vm/domu1-a.img")
	// One disk, whose standby is missing; a second time as a standby; and its name as a URI.
	done(s.through("/srv/a", "/srv/vm/domu1-a.img", "domu1/xvda", "--owner root:root --mode 640"))
	s.same("/srv/a", "/srv/vm/domu1-a.img")
	s.must("dom0a", "printf changed | dd of=/srv/a bs=4096 seek=7 conv=notrunc status=none")
	done(s.through("/srv/a", "file:///srv/vm/domu1-a.img", "domu1/xvda", "--background"))
	s.same("/srv/a", "/srv/vm/domu1-a.img")
	done(s.through("/srv/a", "file:///srv/vm/odd%20name.img", "odd/xvda", "--first-copy in-place"))
	s.same("/srv/a", "/srv/vm/odd name.img")
	// A set of two disks, one of them new.
	s.must("dom0a", "printf more | dd of=/srv/a bs=4096 seek=9 conv=notrunc status=none")
	const set = "abcdefghijklmnopqrstuvwxyz"
	hold := "--hold " + set + " --taken 2026-11-26T23:47:28Z"
	done(s.through("/srv/a", "/srv/vm/domu1-a.img", "domu1/xvda", hold))
	done(s.through("/srv/b", "/srv/vm/domu1-b.img", "domu1/xvdb", hold))
	done(s.on("dom0a", "ssh dom0b xb-patch --commit "+set+" --peer dom0a --heartbeat /srv/vm/domu1-a.img /srv/vm/domu1-b.img"))
	s.same("/srv/a", "/srv/vm/domu1-a.img")
	s.same("/srv/b", "/srv/vm/domu1-b.img")
	answer("is of 2026-11-26T23:47:28Z", "xb-patch --list --when domu1/xvda domu1/xvdb")
	done(s.on("dom0a", "ssh dom0b xb-patch --recover --peer dom0a /srv/vm/domu1-a.img"))
	var state struct{ Digest string }
	decode(t, s.must("dom0b", "xb-patch --state /srv/vm/domu1-a.img"), &state)
	image := "xxh64:4096:3145728:" + state.Digest
	answer("tracked basis="+image, "xb-patch --prepare"+size+"--disk domu1/xvda --have "+image+" /srv/vm/domu1-a.img")
	// Another disk's standby stays that, and what has diverged is not overwritten.
	s.through("/srv/b", "/srv/vm/domu1-a.img", "domu1/xvdb", "").fails(t, notBasis, "is the standby of domu1/xvda")
	s.must("dom0b", "printf mine | dd of=/srv/vm/domu1-b.img bs=4096 seek=3 conv=notrunc status=none")
	s.through("/srv/b", "/srv/vm/domu1-b.img", "domu1/xvdb", "").fails(t, notBasis)
	s.must("dom0b", "xb-patch --discard-changes /srv/vm/domu1-b.img")
	s.through("/srv/b", "/srv/vm/domu1-b.img", "domu1/xvdb", "").fails(t, 0, "by the consent of")
	s.same("/srv/b", "/srv/vm/domu1-b.img")
}

// A document names nothing that gate.conf does not give.
func TestLongGateStoresDocuments(t *testing.T) {
	s := gated(t, "dom0a domu1/xvda /srv/vm/a.img", "dom0a domu1/xvdc /srv/vm/tools.iso document-only", "dom0a domu2/vda network document-only",
		"dom0a domu2/nvram /srv/vm/domu2.fd document-only", "dom0a domu2/tpm /srv/tpm document-only")
	s.must("dom0b", "mkdir /srv/vm /srv/tpm; touch /srv/vm/a.img /srv/vm/b.img /srv/vm/tools.iso /srv/vm/cd.iso; ln -s b.img /srv/vm/link.img")
	disk := func(attributes, source, target, more string) string {
		return fmt.Sprintf("<disk %s><source %s/><target dev='%s'/>%s</disk>", attributes, source, target, more)
	}
	file := func(path, target string) string {
		return disk("type='file' device='disk'", "file='"+path+"'", target, "")
	}
	const uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	for what, c := range map[string]struct {
		domu, os, devices, options string
		status                     int
		words                      string
	}{
		"good":                   {"domu1", "", file("/dev/vg/a", "xvda"), "--map /dev/vg/a=/srv/vm/a.img", 0, ""},
		"a read-only disk":       {"domu1", "", file("/srv/vm/a.img", "xvda") + file("/srv/vm/tools.iso", "xvdc"), "", 0, ""},
		"a disk not here":        {"domu1", "", file("/srv/vm/a.img", "xvda") + file("/srv/none", "xvdd"), "", 0, "xvdd"},
		"a disk left out":        {"domu1", "", file("/srv/vm/a.img", "xvda") + file("/srv/vm/b.img", "xvdb"), "--drop xvdb", 0, "xvdb"},
		"a medium":               {"domu1", "", disk("type='file' device='cdrom'", "file='/srv/vm/cd.iso'", "sda", ""), "", 0, "medium of cdrom sda"},
		"a network disk":         {"domu2", "", disk("type='network' device='disk'", "protocol='rbd' name='p/i'", "vda", ""), "", 0, ""},
		"UEFI and a TPM":         {"domu1", "<nvram>/var/lib/libvirt/qemu/nvram/domu1_VARS.fd</nvram>", "<tpm><backend type='emulator'/></tpm>", "", 0, ""},
		"UEFI elsewhere":         {"domu2", "<nvram>/srv/vm/domu2.fd</nvram>", "", "", 0, ""},
		"a TPM allowed":          {"domu2", "", "<tpm><backend type='emulator'><source path='/srv/tpm'/></backend></tpm>", "", 0, ""},
		"another DomU":           {"domu3", "", "", "", refused, "the DomU domu3"},
		"another's disk":         {"domu1", "", file("/srv/vm/b.img", "xvda"), "", refused, "/srv/vm/b.img as domu1/xvda"},
		"by a link":              {"domu1", "", file("/srv/vm/link.img", "xvda"), "", refused, "/srv/vm/link.img as domu1/xvda"},
		"by a map":               {"domu1", "", file("/srv/vm/a.img", "xvda"), "--map /srv/vm/a.img=/srv/vm/b.img", refused, "/srv/vm/b.img as domu1/xvda"},
		"as another disk":        {"domu1", "", file("/srv/vm/a.img", "xvdb"), "", refused, "/srv/vm/a.img as domu1/xvdb"},
		"a device":               {"domu1", "", disk("type='block' device='disk'", "dev='/dev/zero'", "xvdb", ""), "", 0, "xvdb"},
		"a read-only one":        {"domu1", "", disk("type='file' device='disk'", "file='/etc/shadow'", "xvdb", "<readonly/>"), "", refused, "/etc/shadow"},
		"a lun":                  {"domu1", "", disk("type='file' device='lun'", "file='/srv/vm/b.img'", "xvdb", ""), "", refused, "/srv/vm/b.img"},
		"a directory":            {"domu1", "", disk("type='dir' device='disk'", "dir='/etc'", "xvdb", ""), "", refused, "disk of type"},
		"a backing store":        {"domu1", "", disk("type='file' device='disk'", "file='/srv/vm/a.img'", "xvda", "<backingStore type='file'/>"), "", refused, "backing"},
		"another's network":      {"domu1", "", disk("type='network' device='disk'", "protocol='rbd' name='p/i'", "xvda", ""), "", refused, "network disk domu1/xvda"},
		"a network dropped":      {"domu1", "", disk("type='network' device='disk'", "protocol='rbd' name='p/i'", "xvda", ""), "--drop xvda", refused, "network disk"},
		"a script":               {"domu1", "", disk("type='file' device='disk'", "file='/srv/vm/a.img'", "xvda", "<script path='/srv/x'/>"), "", refused, "network disk"},
		"a driver domain":        {"domu1", "", disk("type='file' device='disk'", "file='/srv/vm/a.img'", "xvda", "<backenddomain name='domu9'/>"), "", refused, "driver domain"},
		"UEFI of another":        {"domu1", "<nvram>/var/lib/libvirt/qemu/nvram/domu2_VARS.fd</nvram>", "", "", refused, "domu1/nvram"},
		"UEFI in a cron table":   {"domu1", "<nvram>/etc/cron.d/domu1</nvram>", "", "", refused, "domu1/nvram"},
		"UEFI and a detour":      {"domu1", "<nvram>/var/lib/libvirt/qemu/nvram/../../domu1.fd</nvram>", "", "", refused, "domu1/nvram"},
		"a TPM elsewhere":        {"domu1", "", "<tpm><backend type='emulator'><source path='/etc'/></backend></tpm>", "", refused, "domu1/tpm"},
		"not what it says it is": {"domu1", "", "</devices></domain><domain><name>x</name><devices>", "", badStream, ""},
	} {
		t.Run(what, func(t *testing.T) {
			s.write("dom0a/root/document", fmt.Sprintf("<domain type='kvm'><name>%s</name><uuid>%s</uuid><os>%s</os><devices>%s</devices></domain>",
				c.domu, uuid, c.os, c.devices), 0o600)
			s.must("dom0b", "rm -rf /var/lib/xen-backup")
			r := s.on("dom0a", "ssh -o ControlMaster=auto -o ControlPath=/run/master -o ControlPersist=yes dom0b xb-locate --store "+c.domu+" --format xml --words "+c.options+" </root/document")
			_, err := os.Stat(filepath.Join(s.dir, "dom0b/lib/xen-backup/xml", c.domu+".xml"))
			if r.status != c.status || !strings.Contains(r.err, c.words) || (err == nil) != (c.status == 0) {
				t.Errorf("status %d, want %d; stored: %v\n%s", r.status, c.status, err == nil, r.err)
			}
		})
	}
}

// swapping makes a link on dom0b, and has it lead now here, now there, as fast as it goes, until the test ends.
func (s *site) swapping(link, here, there string) {
	s.Helper()
	s.must("dom0b", fmt.Sprintf("ln -s %s %s", here, link))
	j := s.begin("dom0b", fmt.Sprintf(`exec perl -e 'while (1) { for $to ("%s", "%s") { symlink $to, "%[3]s.new"; rename "%[3]s.new", "%[3]s" } }'`,
		here, there, link))
	s.Cleanup(func() {
		syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL)
		j.cmd.Wait()
		j.cancel()
	})
}

// A link leads elsewhere between any two looks at it. What is not allowed is neither read nor written to nor created, ever.
func TestGateHoldsALinkThatIsSwapped(t *testing.T) {
	s := gated(t, "dom0a domu1/xvda /srv/vm/a.img", "dom0a domu1/xvda /srv/vm/new.img")
	// The other one has the same content: no basis would keep a delta from it.
	s.must("dom0b", `mkdir /srv/vm /srv/other
cd /srv
head -c 256K /dev/urandom >old
head -c 256K /dev/urandom >new
cp old vm/a.img
cp old other/c.img
xb-sig vm/a.img | xb-delta new >delta
xb-sig vm/a.img | xb-sig --info --json | grep digest >told
xb-sig --missing-ok none | xb-delta new >whole
rm -rf /var/lib/xen-backup`)
	s.swapping("/srv/file", "vm/a.img", "other/c.img")
	s.swapping("/srv/dir", "vm", "other")
	for _, c := range testkit.Some(t, 1, []struct{ what, command string }{
		{"--auto", "xb-patch --auto --peer dom0a --disk domu1/xvda /srv/file <delta"},
		{"xb-sig", "xb-sig /srv/file </dev/null"},
		{"--prepare", "xb-patch --prepare --peer dom0a --disk domu1/xvda --size 262144 /srv/file </dev/null"},
		{"--auto, in place", "xb-patch --auto --first-copy in-place --peer dom0a --disk domu1/xvda /srv/file <delta"},
		{"--auto, a new one", "xb-patch --auto --peer dom0a --disk domu1/xvda /srv/dir/new.img <whole"},
	}...) {
		t.Run(c.what, func(t *testing.T) {
			command, in, _ := strings.Cut(c.command, " <")
			r := s.on("dom0b", fmt.Sprintf(`cd /srv
cat old >other/c.img
rm -f other/new.img
export SSH_ORIGINAL_COMMAND='%s'
declare -A count=()
for ((i = 0; i < %d || i < 400 && (${count[0]-0} < 3 || ${count[77]-0} < 3); i++)); do
	status=0
	xb-gate dom0a <%s >out 2>err || status=$?
	count[$status]=$((${count[$status]-0} + 1))
	cmp old other/c.img
	[ ! -e other/new.img ]
	case $status in
	0)
		case $SSH_ORIGINAL_COMMAND in
		xb-sig*) xb-sig --info --json <out | grep digest | cmp - told ;;
		*new.img) cmp new vm/new.img ;;
		*--auto*) cmp new vm/a.img ;;
		esac
		;;
	75 | 77) ;; # it was seen that it was swapped, or what it leads to
	66) [[ $SSH_ORIGINAL_COMMAND = *new.img ]] ;;
	*) cat err; exit 1 ;;
	esac
	cat old >vm/a.img
	rm -rf vm/new.img /var/lib/xen-backup
done
for status in "${!count[@]}"; do echo "$status: ${count[$status]}"; done`, command, testkit.Rounds(t, 8), in))
			t.Logf("statuses\n%s", r.out)
			if r.status != 0 || !strings.Contains(r.out, "0: ") || !strings.Contains(r.out, "77: ") {
				t.Errorf("status %d\n%s%s", r.status, r.out, r.err)
			}
		})
	}
}

// The whole of xen-backup.sh through the gate: with gate.conf as xb-locate prints it first copies, sets, documents, what
// comes after, and a failure; without a line, nothing.
func TestLongWrapperThroughTheGate(t *testing.T) {
	s := gated(t)
	s.must("dom0b", "mkdir /srv/vm")
	for _, file := range []string{"a", "b", "c"} {
		s.image("dom0a", "/srv/"+file+".img", 2<<20)
	}
	s.domain("dom0a", "domu1", 1, "/srv/a.img", "/srv/b.img")
	s.domain("dom0a", "domu2", 1, "/srv/c.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b"`, `MAP="dom0b:/srv/a.img=/srv/vm/a.img dom0b:/srv/b.img=/srv/vm/b.img"`)
	s.conf("dom0a", "domu2", "DOMU=domu2", `DOM0S="dom0a dom0b"`)
	before := s.content()
	if r := s.backup("dom0a"); r.status != 3 || !strings.Contains(r.err, "the DomU domu1 is not for dom0a") {
		t.Errorf("with nothing in gate.conf: status %d\n%s", r.status, r.err)
	}
	s.sameContent(before)
	conf := s.must("dom0a", "xen-backup.sh --gate-conf dom0b")
	if conf != "dom0a domu1/xvda /srv/vm/a.img\ndom0a domu1/xvdb /srv/vm/b.img\ndom0a domu2/xvda /srv/c.img\n" {
		t.Errorf("gate.conf is to be\n%s", conf)
	}
	s.gateConf(conf)
	for i, words := range testkit.Some(t, 1, nil, []string{"--verify"}, []string{"--to", "dom0b", "domu1"}) {
		if r := s.backup("dom0a", words...); r.status != 0 || r.err != "" {
			t.Fatalf("%s: status %d\n%s", words, r.status, r.err)
		}
		s.same("/srv/a.img", "/srv/vm/a.img")
		s.same("/srv/b.img", "/srv/vm/b.img")
		s.same("/srv/c.img", "/srv/c.img")
		s.must("dom0a", fmt.Sprintf("printf changed | dd of=/srv/a.img bs=4096 seek=%d conv=notrunc status=none", i+3))
		s.backup("dom0a")
	}
	for _, l := range s.lastCopies("dom0b") {
		if !l.Tracked {
			t.Errorf("what went through the gate was not tracked: %+v", l)
		}
	}
	xml := s.must("dom0b", "cat /var/lib/xen-backup/xml/domu1.xml")
	if !strings.Contains(xml, "/srv/vm/a.img") || !strings.Contains(xml, "/srv/vm/b.img") {
		t.Errorf("its document is\n%s", xml)
	}
	if r := s.on("dom0a", "xen-backup.sh --status"); r.status != 0 {
		t.Errorf("its status is %d\n%s", r.status, r.out)
	}
	// A standby that was written to.
	s.must("dom0b", "printf mine | dd of=/srv/c.img bs=4096 seek=9 conv=notrunc status=none")
	if r := s.backup("dom0a"); r.status != 3 || !strings.Contains(r.err, "ERROR 80: DomU domu2") {
		t.Errorf("of what has diverged: status %d\n%s", r.status, r.err)
	}
	if r := s.backup("dom0a", "--force-diverged", "domu2"); r.status != 3 || !strings.Contains(r.err, "xb-patch --discard-changes") {
		t.Errorf("with force: status %d\n%s", r.status, r.err)
	}
	s.must("dom0b", "xb-patch --discard-changes /srv/c.img")
	if r := s.backup("dom0a"); r.status != 0 {
		t.Errorf("with consent: status %d\n%s", r.status, r.err)
	}
	s.same("/srv/c.img", "/srv/c.img")
	// A disk more than what is allowed.
	s.image("dom0a", "/srv/d.img", 1<<20)
	s.domain("dom0a", "domu2", 1, "/srv/c.img", "/srv/d.img")
	if r := s.backup("dom0a", "domu2"); r.status != 3 || !strings.Contains(r.err, "dom0a domu2/xvdb /srv/d.img") {
		t.Errorf("with another disk: status %d\n%s", r.status, r.err)
	}
	if exists(filepath.Join(s.dir, "dom0b/srv/d.img")) || s.on("dom0b", "test -e /srv/d.img").status == 0 {
		t.Error("the other disk was copied")
	}
	// It runs there, too.
	s.domain("dom0b", "domu1", 1)
	if r := s.backup("dom0a", "domu1"); r.status != 3 || !strings.Contains(r.err, "ERROR 81") {
		t.Errorf("of what runs there: status %d\n%s", r.status, r.err)
	}
}

// The README's lines make of the key of the installation one that is gated.
func TestLongGateByTheREADME(t *testing.T) {
	s := newSite(t)
	readme, err1 := os.ReadFile("../../README.md")
	gate, err2 := os.ReadFile("../../scripts/xb-gate")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## A key that can do nothing but replicate\n")
	_, lines, _ := strings.Cut(section, "\n```sh\n")
	lines, _, found := strings.Cut(lines, "\n```\n")
	if !found {
		t.Fatal("no lines to type in the README's section")
	}
	s.write("dom0b/sbin/xb-gate", string(gate), 0o755)
	s.image("dom0a", "/srv/a.img", 1<<20)
	s.domain("dom0a", "domu1", 1, "/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b"`)
	s.must("dom0b", "mkdir /etc/xen-backup; echo ssh-ed25519 AAAA another >>/root/.ssh/authorized_keys") // as the package does
	s.must("dom0a", "ln -s xen-backup.sh /usr/local/sbin/xen-backup")                                    // as it does, too
	s.must("dom0a", "cut -d' ' -f1,2 /root/.ssh/authorized_keys | sed 's/$/ root@dom0a/' >/root/.ssh/id_ed25519.pub")
	s.must("dom0a", "set -o pipefail; cd; "+strings.ReplaceAll(lines, "/usr/lib/xen-backup/xb-gate", "/usr/local/sbin/xb-gate"))
	s.on("dom0a", "ssh dom0b id").fails(t, refused, "xb-gate: refused")
	if r := s.backup("dom0a"); r.status != 0 || r.err != "" {
		t.Errorf("status %d\n%s", r.status, r.err)
	}
	s.same("/srv/a.img", "/srv/a.img")
	if keys := s.must("dom0b", "cat /root/.ssh/authorized_keys"); !strings.HasPrefix(keys, "ssh-ed25519 AAAA another\nrestrict,command=") {
		t.Errorf("authorized_keys:\n%s", keys)
	}
}
