package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// xlStandIn knows the domains in /run/xl, files with their UUIDs, and stays when it has created one, as xl does, with all
// files that it was given. On their consoles is what /run/console says.
const xlStandIn = `#!/bin/bash
mkdir -p /run/xl
cd /run/xl
case $1 in
list)
	if [[ ${2-} = -l ]]; then
		printf '['
		comma=
		for d in *; do
			[[ -e $d ]] || continue
			printf '%s{"domid":1,"config":{"c_info":{"name":"%s","uuid":"%s"},"disks":[]}}' "$comma" "$d" "$(<"$d")"
			comma=,
		done
		echo ']'
		exit
	fi
	printf 'Name                                        ID   Mem VCPUs\tState\tTime(s)\n'
	for d in *; do [[ ! -e $d ]] || printf '%-40s     1   256     1     -b----      15.4\n' "$d"; done ;;
create)
	cp "$2" /run/created
	cp "$(sed -n 's/^disk = . "\(.*\),raw,xvda,rw" .$/\1/p' "$2")" /run/created.img
	name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$2")
	sed -n 's/^uuid = "\(.*\)"$/\1/p' "$2" >"$name"
	setsid sleep 1000 >/dev/null 2>&1 </dev/null &
	echo $! >/run/stays ;;
console)
	cat /run/console
	exec cat >/dev/null ;; # until its input ends
destroy)
	rm "$2" ;;
esac
`

const xlGuest = `name = "domu1"
memory = 256
bootloader = "pygrub"
disk = [ "/srv/domu1.img,raw,xvda,rw" ]
vif = [ "mac=00:16:3e:5c:81:0a,bridge=xenbr0" ]
# end of the configuration
`

// newStandby has a standby of domu1, a guest of xl, on dom0b: the image /srv/new of dom0a.
func newStandby(t *testing.T) *site {
	s := newSite(t)
	script, err := os.ReadFile("../../scripts/xen-failover.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dom0a", "dom0b"} {
		s.write(name+"/sbin/xl", xlStandIn, 0o755)
		s.write(name+"/sbin/xen-failover", string(script), 0o755)
		s.must(name, "mkdir -p /etc/xen")
	}
	s.image("dom0b", "/srv/new", 3<<20)
	s.must("dom0b", "truncate -s 3M /srv/domu1.img; cd /srv\n"+
		"xb-sig domu1.img | xb-delta new | xb-patch --peer dom0a --disk domu1/xvda --toolstack xl domu1.img\n"+
		"cat >kept <<'END'\n"+xlGuest+"END\n"+"xb-locate --store domu1 <kept")
	return s
}

// failover is the command by which somebody promotes domu1.
func failover(words string) string {
	return "env -i TOOLSTACK=xl CONNECT_TIMEOUT=10 /usr/local/sbin/xen-failover " + words
}

// TestFailoverLog demands that whatever a program says, as virsh does with empty
// lines, the log goes on.
func TestFailoverLog(t *testing.T) {
	out, err := exec.Command("bash", "-euo", "pipefail", "-c", `dry_run=yes
		eval "$(sed -n '/^log() {/,/^}/p' ../../scripts/xen-failover.sh)"
		printf '%s\n' 'err one' '' ' two' 'info xb-any' three | log`).CombinedOutput()
	if want := "one\ntwo\nthree\n"; err != nil || string(out) != want {
		t.Errorf("got %v and %q, want %q", err, out, want)
	}
}

// TestLongPromoteOtherFiles: a standby that would have QEMU open another file of this host is no disk to start from, whoever
// trusts the document.
func TestLongPromoteOtherFiles(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img")
	}
	s := newStandby(t)
	s.must("dom0b", `cd /srv && cp domu1.img before
qemu-img create -q -f raw secret 3M
qemu-img create -q -f qcow2 -F raw -b secret new.qcow2
truncate -s 3M new.qcow2
xb-sig domu1.img | xb-delta new.qcow2 | xb-patch --peer dom0a --disk domu1/xvda --toolstack xl domu1.img
sed s/,raw,/,qcow2,/ kept | xb-locate --store domu1`)
	r := s.on("dom0b", failover("promote domu1 --trust-document"))
	if r.status != 78 || !strings.Contains(r.err, "QEMU may open other files of this host") ||
		!strings.Contains(r.err, "/srv/domu1.img is a qcow2 image with a backing store") {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	s.must("dom0b", "[[ ! -e /run/created && ! -e /etc/xen/domu1.cfg ]]\nxb-locate --store domu1 </srv/kept")
	if r = s.on("dom0b", failover("promote domu1")); r.status != 0 { // of a raw one all bytes are the guest's
		t.Errorf("a raw disk: status %d: %s", r.status, r.err)
	}
}

// TestLongPromoteXL: an apply that was interrupted is finished first, and the DomU is started by what has come. Whatever xl
// leaves running, runs get at the disk as before, and who waits for the end of the output, as ssh
// does, sees it.
func TestLongPromoteXL(t *testing.T) {
	s := newStandby(t)
	s.must("dom0a", "mkdir -p /run/xl; echo x >/run/xl/domu1")
	r := s.on("dom0b", failover("promote domu1"))
	if r.status != 81 || !strings.Contains(r.err, "domu1 runs on dom0a") {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	s.must("dom0a", "rm /run/xl/domu1")

	s.image("dom0b", "/srv/newer", 3<<20)
	s.must("dom0b", "cd /srv; xb-sig domu1.img | xb-delta newer >delta\n"+
		`export XB_STANDBY_DOOMED='{"Run":"An apply","Delta":"/srv/delta","After":"half written","Options":{"Target":`+
		`"/srv/domu1.img","Toolstack":"xl","StateDir":"/var/lib/xen-backup","Disk":"domu1/xvda","Peer":"dom0a"}}'`+"\n"+
		"! doomed >/dev/null 2>&1; xb-patch --state domu1.img | grep -q applying")
	r = s.on("dom0b", failover("promote --dry-run domu1"))
	if r.status != 0 || !strings.Contains(r.err, "xb-patch --recover /srv/domu1.img") || !strings.Contains(r.err, "would be started here") {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	r = s.on("dom0b", "readlink /proc/self/fd/2 >/run/output; exec "+failover("promote domu1"))
	if r.status != 0 || !strings.Contains(r.err, "## DomU domu1 runs here") {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	s.must("dom0b", "cmp /srv/domu1.img /srv/newer; grep -q xenbr0 /run/created; cmp /run/created /etc/xen/domu1.cfg\n"+
		"[[ -z $(find /run -maxdepth 1 -name 'xen-failover*') ]]\n"+
		"[[ $(ls -l /proc/$(</run/stays)/fd) != *\"$(</run/output)\"* ]]\n"+
		"flock -n /var/lib/xen-backup/%2Fsrv%2Fdomu1.img.lock true")
	if log := s.log("dom0b"); !strings.Contains(log, "local3.err ### ERROR 81: DomU domu1 runs on dom0a\n") {
		t.Errorf("logged:\n%s", log)
	}
	if r = s.on("dom0b", failover("promote domu1")); r.status != 81 {
		t.Errorf("again: status %d: %s", r.status, r.err)
	}
}

// TestLongPromoteAt: the DomU is started as it was at a time, and what its disk was until now is not lost.
func TestLongPromoteAt(t *testing.T) {
	s := newStandby(t)
	for n := 1; n <= 2; n++ {
		s.image("dom0b", fmt.Sprintf("/srv/image%d", n), 3<<20)
		s.must("dom0b", fmt.Sprintf("cd /srv; xb-sig domu1.img | xb-delta image%d | xb-patch --auto --peer dom0a --disk domu1/xvda "+
			"--toolstack xl --keep 9 --taken %s domu1.img; sed 's/256/%[3]d/' kept | xb-locate --store domu1", n, hour(n), 300+n))
	}
	promote := func(words string, status int, wants ...string) {
		t.Helper()
		s.on("dom0b", failover("promote domu1 "+words)).fails(t, status, wants...)
	}
	test := s.on("dom0b", "echo login: >/run/console; "+failover("test domu1 --at 2026-11-26T01:30:00Z"))
	if test.status != 0 || !strings.Contains(test.err, "DomU domu1: its disks as of "+hour(1)) ||
		!strings.Contains(test.err, "DomU domu1: its document as of "+hour(1)) ||
		!strings.Contains(test.err, "its test copy says: login:") {
		t.Errorf("test --at: %+v", test)
	}
	s.must("dom0b", "grep 'memory = .301' /run/created; cmp /run/created.img /srv/image1; cmp /srv/domu1.img /srv/image2; ls /run/xl; [[ -z $(ls /run/xl) ]]")
	if r := s.on("dom0b", failover("test domu1 --at 2026-11-26T00:30:00Z")); r.status != 69 {
		t.Errorf("test of what is not there: %+v", r)
	}
	promote("--at yesterday", 64, "wants a time")
	promote("--at 2026-11-26T25:00:00Z", 64, "is no time as")
	promote("--at 2026-11-26T00:30:00Z", 69, "there is no point of /srv/domu1.img")
	promote("--at 2026-11-26T01:30:00Z --dry-run", 0, "would be started here", "/srv/domu1.img is of "+hour(1)+", ",
		"its document as of "+hour(1))
	promote("--at "+hour(9)+" --dry-run", 0, "its document as of the last copy", "/srv/domu1.img is of "+hour(2)+", ")
	s.must("dom0b", "cmp /srv/domu1.img /srv/image2")
	promote("--at 2026-11-26T01:30:00Z", 0, "## DomU domu1 runs here")
	s.must("dom0b", "cmp /srv/domu1.img /srv/image1; xb-snap list --points | grep "+hour(2)+"; grep 'memory = 301' /run/created")
}

// TestLongPromoteAtDocument: a point is started by its own document, which is judged as any other, and with the disks that the
// DomU had then; one that an older version has made, by the last one.
func TestLongPromoteAtDocument(t *testing.T) {
	s := newStandby(t)
	two := strings.NewReplacer("rw\" ]", "rw\", \"/srv/data.img,raw,xvdb,rw\" ]", "= 256", "= 302").Replace(xlGuest)
	strange := strings.Replace(xlGuest, "bootloader", "device_model_override = \"/tmp/mine\"\nbootloader", 1)
	s.must("dom0b", "cd /srv; truncate -s 1M data.img; echo login: >/run/console\n")
	for n, document := range []string{xlGuest, strange, two} {
		s.image("dom0b", "/srv/image", 3<<20)
		s.must("dom0b", fmt.Sprintf("cd /srv; xb-sig domu1.img | xb-delta image | xb-patch --auto --peer dom0a --disk domu1/xvda "+
			"--toolstack xl --keep 9 --taken %s domu1.img\nxb-locate --store domu1 <<'END'\n%sEND\n", hour(n+1), document))
	}
	try := func(words string, status int, want ...string) {
		t.Helper()
		r := s.on("dom0b", failover(words))
		for _, want := range want {
			if r.status != status || !strings.Contains(r.err, want) {
				t.Errorf("%s: status %d, want %d and %q: %s", words, r.status, status, want, r.err)
			}
		}
	}
	try("promote domu1 --dry-run --at "+hour(1), 0, "its document as of "+hour(1), "would be started here")
	try("test domu1 --at "+hour(2), 77, "device_model_override", "--trust-document")
	try("promote domu1 --dry-run --trust-document --at "+hour(2), 0, "would be started here")
	try("promote domu1 --at "+hour(2), 77, "device_model_override", "--trust-document")
	try("test domu1 --trust-document --at "+hour(2), 0, "its document as of "+hour(2), "its test copy says: login:")
	try("promote domu1 --dry-run --at "+hour(2), 0, "its document as of "+hour(2), "would be started here")
	s.must("dom0b", "rm /var/lib/xen-backup/xml/at/domu1@"+hour(1)+".cfg")
	try("promote domu1 --dry-run --at "+hour(1), 69, "its document as of the last copy", "/srv/data.img")
	try("promote domu1 --at "+hour(2), 0, "its document as of "+hour(2), "## DomU domu1 runs here")
	s.must("dom0b", "grep /tmp/mine /run/created; ! grep /srv/data.img /run/created; grep data.img /var/lib/xen-backup/xml/domu1.cfg")
}

// TestLongPointsOfOtherFiles: what a start from a point would have QEMU open is told by the point, whatever the standby is now.
func TestLongPointsOfOtherFiles(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img")
	}
	s := newStandby(t)
	s.must("dom0b", `cd /srv && qemu-img create -q -f raw secret 3M && echo login: >/run/console
qemu-img create -q -f qcow2 -F raw -b secret backed.qcow2
qemu-img create -q -f qcow2 alone.qcow2 3M
truncate -s 3M backed.qcow2 alone.qcow2
sed s/,raw,/,qcow2,/ kept | xb-locate --store domu1`)
	for n, image := range []string{"alone", "backed", "alone", "backed"} {
		s.must("dom0b", fmt.Sprintf("cd /srv; xb-sig domu1.img | xb-delta %s.qcow2 | xb-patch --auto --peer dom0a --disk domu1/xvda "+
			"--toolstack xl --keep 9 --taken %s domu1.img", image, hour(n)))
	}
	try := func(words string, status int, want string) {
		t.Helper()
		r := s.on("dom0b", failover(words))
		if r.status != status || !strings.Contains(r.err, want) {
			t.Errorf("%s: status %d: %s", words, r.status, r.err)
		}
	}
	const backed = "is a qcow2 image with a backing store"
	try("test domu1", 78, backed)
	try("test domu1 --at "+hour(2), 0, "its test copy says")
	try("test domu1 --at "+hour(1), 78, backed)
	try("promote domu1 --dry-run --at "+hour(2), 0, "would be started here")
	try("promote domu1 --dry-run --at "+hour(1), 78, backed)
	try("promote domu1 --at "+hour(1), 78, backed)
	s.must("dom0b", "[[ ! -e /etc/xen/domu1.cfg ]]")
	try("promote domu1 --at "+hour(2), 0, "## DomU domu1 runs here")
}

// A test copy of a guest of xl is another domain, on snapshots of the standbys, and is removed, whatever ends its test.
func TestLongTestCopyXL(t *testing.T) {
	s := newStandby(t)
	s.must("dom0a", "mkdir -p /run/xl; echo x >/run/xl/domu1")
	s.must("dom0b", "printf 'Debian GNU/Linux 12 domu1 hvc0\\r\\n\\r\\ndomu1 login: ' >/run/console")
	const gone = "[[ -z $(ls -A /run/xl; xb-snap list; find /run -maxdepth 1 -type d -name 'xen-failover*') ]] && cmp /srv/domu1.img /srv/new"
	test := func(words string, status int, want string) {
		t.Helper()
		r := s.on("dom0b", failover("test domu1 "+words))
		if r.status != status || !strings.Contains(r.err, want) {
			t.Errorf("test %s: status %d: %s", words, r.status, r.err)
		}
	}

	test("--memory 64M", 0, "## DomU domu1: its test copy says: domu1 login:, so it starts from its standbys")
	s.must("dom0b", gone+`
! grep -e vif -e xenbr0 -e /srv/domu1.img /run/created
grep -qx 'memory = 64' /run/created
grep -q '^name = "domu1.xb-test"' /run/created
grep -q 'disk = .*xb-snap.*,raw,xvda,rw' /run/created
grep -q 'domu1 login:' /var/log/xen-backup/domu1.log`)
	test("--for 1s --pattern '^welcome'", 1, "no sign of life within 1 s")
	s.must("dom0b", gone+"; grep -q 'domu1 login:' /var/log/xen-backup/domu1.log")
	before := s.must("dom0b", "stat -c %y /srv")
	for words, want := range map[string]string{"--for nonsense": "bad time span", "--for 0s": "bad time span",
		"--pattern '('": "missing", "--pattern ''": "--pattern needs a value", "--memory 0": "less than 1M",
		"--memory 1K": "less than 1M", "--memory lots": "bad size"} {
		test(words, 64, want)
	}
	if s.must("dom0b", "stat -c %y /srv") != before {
		t.Error("snapshots were taken for what is refused")
	}

	s.must("dom0b", "echo 00000000-0000-4000-8000-000000000001 >/run/xl/domu1.xb-test")
	test("", 75, "a domain of the name domu1.xb-test is here that is no test copy")
	s.must("dom0b", "rm /run/xl/domu1.xb-test; "+gone)

	for what, kill := range map[string]string{
		"stopped":             "kill $script; wait $script; [[ $? = 143 ]]",
		"killed":              "kill -9 $script; wait $script; until [[ -z $(ls /run/xl) ]]; do sleep 0.1; done",
		"killed with program": "kill -9 $(pgrep -f '^xb-locate.*--try') $script; wait $script; [[ -n $(ls /run/xl) ]]",
	} {
		s.must("dom0b", failover("test domu1 --pattern nothing")+` &
script=$!
until [[ -e /run/xl/domu1.xb-test && -s $(echo /run/xen-failover.*/copy.log) ]]; do sleep 0.1; done
set +e
`+kill+" || { echo it was not "+what+"; exit 1; }")
		if what == "stopped" {
			s.must("dom0b", gone)
		}
		test("", 0, "its test copy says")
		s.must("dom0b", gone)
	}
}
