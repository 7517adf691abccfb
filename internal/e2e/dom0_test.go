package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// site is two Dom0s, dom0a and dom0b, for the tests of xen-backup.sh: sets of
// namespaces on this machine with their own /etc, /root, /run, /var/lib and /srv, an
// XFS with reflinks. Each has a real sshd, and virsh with libvirt's test driver. What
// the scripts log is in /run/syslog.
type site struct {
	*testing.T
	dir     string
	pid     map[string]string // of each Dom0's first process
	orders  io.WriteCloser    // to what made the Dom0s
	answers *bufio.Reader
	words   bytes.Buffer // what it said
}

// addresses are in each Dom0's /etc/hosts. At dom0c's nobody answers, unless a test adds it; what
// is sent to dom0d is dropped, and dom0e is a second sshd of dom0b, if a test starts it.
const addresses = `127.0.0.1 localhost
192.0.2.1 dom0a
192.0.2.2 dom0b
192.0.2.3 dom0c
192.0.2.4 dom0d
192.0.2.5 dom0e
`

// pair makes the two Dom0s, and ends them when its standard input ends. Until then a line of
// that is something to do to them.
const pair = `
dir=$1 bin=$3
die() { echo "$*" >&2; exit 1; }
. "$2/hosts/pair.sh"
make() {
	make_host $1 1g
	cd "$dir/$1"
	rm -rf etc/xen* etc/profile.d etc/ssh/*_config.d
	mkdir etc/xen-backup.d
	cp ../hosts etc/hosts
	sed -i 's/^[^ ]*/*/' root/.ssh/known_hosts
	printf '%s\n' 'ListenAddress 0.0.0.0' 'UsePAM no' 'UseDNS no' 'MaxStartups 100' >>etc/ssh/pair
	echo 'uri_default = "test:///run/node.xml"' >etc/libvirt/libvirt.conf
	echo "$bin /usr/local/bin none bind" >>mounts
}
boot() {
	power_on $1
	on $1 bash -c "mkdir /run/domains; echo '<node/>' >/run/node.xml; : >/run/syslog"
}
cut() {
	kill -9 "$(<"$dir/$1.pid")"
	wait "${host[$1]}" || : # what it had mounted is no longer
}
third() { # joins dom0c to dom0a
	ip link add veth1 netns "$(<"$dir/dom0a.pid")" type veth peer name veth0 netns "$(<"$dir/dom0c.pid")"
	address dom0c 192.0.2.3
	on dom0a ip link set veth1 up
	on dom0a ip route add 192.0.2.3/32 dev veth1
	await dom0c answers dom0c
}
make_keys
for h in dom0a dom0b; do
	make $h
	boot $h
done
cable
nobody='neighbour add 192.0.2.4 lladdr 02:00:00:00:00:04 dev veth0'
on dom0a ip $nobody
printf '%s\n' "$nobody" 'address add 192.0.2.5/24 dev veth0' | on dom0b ip -batch -
echo done
while read -r order; do
	$order
	echo done
done
power_off
`

// logger stands for logger(1), so that a test leaves nothing in this machine's log.
const logger = `#!/bin/bash
while [[ $1 != -p ]]; do shift; done
echo logger >>/run/loggers
declare -A level=([3]=err [4]=warning [6]=info)
while IFS= read -r line; do echo "${2%.*}.${level[${line:1:1}]} ${line:3}"; done >>/run/syslog
`

// virshStandIn makes the test driver's domains last: what one call does to them, the next sees. What is asked once more
// about the same domains has its answer kept: to start libvirt's client is a third of what a run costs.
const virshStandIn = `#!/bin/bash
case " $* " in
*" suspend "*) word=suspend runstate=3 ;;
*" resume "*) word=resume runstate=1 ;;
" list "* | " dumpxml "* | " domstate "*)
	IFS= read -rd '' domains </run/node.xml
	question=/run/virsh/${*//\//:}
	[[ ! -e $question ]] || mapfile -d '' -t kept <"$question" # domains and answer
	if [[ ${kept[0]} != "$domains" ]]; then
		mkdir -p /run/virsh
		printf %s "$domains" >/run/virsh/$$
		answer=$(LIBVIRT_DEFAULT_URI=test:///run/virsh/$$ /usr/bin/virsh "$@" 2>/dev/null && echo .) || exec /usr/bin/virsh "$@"
		kept=("$domains" "${answer%.}")
		printf '%s\0' "${kept[@]}" >/run/virsh/$$
		mv /run/virsh/$$ "$question"
	fi
	printf %s "${kept[1]}"
	exit ;;
*) exec /usr/bin/virsh "$@" ;;
esac
cd /run
exec 8>virsh.lock
flock 8
domu=${!#} domu=${domu#--domain=}
grep -q 'runstate>1<' "domains/$domu" || [[ $word = resume ]] || exit 1
sed -i "s|runstate>.*</test|runstate>$runstate</test|" "domains/$domu"
{ echo '<node>'; cat domains/*; echo '</node>'; } >node.xml.new
mv node.xml.new node.xml
echo "$word" >>paused
`

// left prints what a run may not leave behind: a snapshot, a directory, a process.
const left = `#!/bin/bash
xb-snap list | grep -v "	base[^	]*$"
find /run -maxdepth 1 -type d -name "xen-backup.*"
for cmdline in /proc/[0-9]*/cmdline; do
	tr "\0" " " 2>/dev/null <"$cmdline" | grep -E "ControlPath=/run|xen-backup[.]sh|watchdog|^xb-"
done
:
`

func newSite(t *testing.T) *site {
	t.Parallel()
	needRoot(t)
	for _, program := range []string{"sshd", "virsh", "ip", "mkfs.xfs", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	s := &site{T: t, dir: t.TempDir(), pid: map[string]string{}}
	script, err := os.ReadFile("../../scripts/xen-backup.sh")
	if err == nil {
		err = os.Mkdir(filepath.Join(s.dir, "bin"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"xen-backup.sh": string(script), "logger": logger, "virsh": virshStandIn, "left": left,
	} {
		s.write("bin/"+name, text, 0o755)
	}
	s.write("hosts", addresses, 0o644)
	s.start()
	return s
}

// write makes a file below the site's directory.
func (s *site) write(name, text string, mode os.FileMode) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		s.Fatal(err)
	}
}

// start starts both Dom0s, for as long as the test runs.
func (s *site) start() {
	s.Helper()
	scripts, err := filepath.Abs("../../scripts")
	if err != nil {
		s.Fatal(err)
	}
	both := exec.Command("bash", "-euc", pair, "pair", s.dir, scripts, bin)
	both.Env, both.Stderr = s.env(), &s.words
	orders, err1 := both.StdinPipe()
	out, err2 := both.StdoutPipe()
	if err := errors.Join(err1, err2, both.Start()); err != nil {
		s.Fatal(err)
	}
	s.orders, s.answers = orders, bufio.NewReader(out)
	s.Cleanup(func() {
		s.orders.Close()
		both.Wait()
		if s.Failed() {
			for name := range s.pid {
				text, _ := os.ReadFile(filepath.Join(s.dir, name+".log"))
				s.Logf("%s:\n%s", name, text)
			}
			s.Logf("what made them:\n%s", s.words.String())
		}
	})
	s.done("dom0a", "dom0b")
}

// done waits until an order to what made the Dom0s is carried out, and these of them are up.
func (s *site) done(up ...string) {
	s.Helper()
	if answer, err := s.answers.ReadString('\n'); answer != "done\n" {
		s.Fatalf("the Dom0s do not start, or end: %q, %v", answer, err)
	}
	for _, name := range up {
		pid, err := os.ReadFile(filepath.Join(s.dir, name+".pid"))
		if err != nil {
			s.Fatal(err)
		}
		s.pid[name] = strings.TrimSpace(string(pid))
	}
}

// order has something done to the Dom0s.
func (s *site) order(line string, up ...string) {
	s.Helper()
	if _, err := io.WriteString(s.orders, line+"\n"); err != nil {
		s.Fatal(err)
	}
	s.done(up...)
}

// cut takes a Dom0's power away: its processes, its link and what it has in /run are gone.
func (s *site) cut(name string) {
	s.Helper()
	s.order("cut " + name)
}

// bootThird starts dom0c, for the first time or after a cut, which only dom0a can reach.
func (s *site) bootThird() {
	s.Helper()
	if _, is := s.pid["dom0c"]; !is {
		s.order("make dom0c")
	}
	s.order("boot dom0c", "dom0c")
	s.order("third")
}

func (s *site) env() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"}
}

// here runs a script outside both Dom0s.
func (s *site) here(script string) {
	s.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// job is a script that runs on a Dom0.
type job struct {
	s        *site
	script   string
	cmd      *exec.Cmd
	out, err bytes.Buffer
	cancel   context.CancelFunc
	ctx      context.Context
}

// begin starts a script on a Dom0.
func (s *site) begin(name, script string) *job {
	s.Helper()
	j := &job{s: s, script: script}
	j.ctx, j.cancel = untilHang()
	j.cmd = exec.CommandContext(j.ctx, "nsenter", "--target", s.pid[name], "--mount", "--net", "--uts", "--pid", "--",
		"bash", "-ec", script)
	j.cmd.Env, j.cmd.Dir, j.cmd.Stdout, j.cmd.Stderr = s.env(), "/", &j.out, &j.err
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	j.cmd.Cancel = func() error { return syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL) }
	j.cmd.WaitDelay = 5 * time.Second // what it left behind may have its output open
	if err := j.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	return j
}

// end waits for it.
func (j *job) end() result {
	j.s.Helper()
	defer j.cancel()
	j.cmd.Wait()
	if j.ctx.Err() != nil {
		j.s.Fatalf("%s: hangs; so far:\n%s%s", j.script, j.out.String(), j.err.String())
	}
	return result{status: j.cmd.ProcessState.ExitCode(), out: j.out.String(), err: j.err.String()}
}

// on runs a script on a Dom0.
func (s *site) on(name, script string) result {
	s.Helper()
	return s.begin(name, script).end()
}

// must runs a script that has to succeed and returns what it printed.
func (s *site) must(name, script string) string {
	s.Helper()
	r := s.on(name, script)
	if r.status != 0 {
		s.Fatalf("%s: %s: status %d\n%s", name, script, r.status, r.err)
	}
	return r.out
}

// domain has virsh on a Dom0 show a domain with these disks, as sda, sdb and so on.
// The runstate is 1 (running), 3 (paused) or 5 (shut off).
func (s *site) domain(name, domain string, runstate int, disks ...string) {
	s.Helper()
	var xml strings.Builder
	fmt.Fprintf(&xml, `<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>%s</name>
<uuid>6ba7b810-9dad-11d1-80b4-%012x</uuid><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<test:runstate>%d</test:runstate><devices>
`, domain, []byte(domain)[max(0, len(domain)-6):], runstate)
	for i, disk := range disks {
		kind, attribute := "file", "file"
		if strings.HasPrefix(disk, "/dev/") {
			kind, attribute = "block", "dev"
		}
		fmt.Fprintf(&xml, "<disk type='%s' device='disk'><driver name='qemu' type='raw'/><source %s='%s'/>"+
			"<target dev='xvd%c' bus='xen'/></disk>\n", kind, attribute, disk, 'a'+i)
	}
	io.WriteString(&xml, "</devices></domain>\n")
	s.must(name, fmt.Sprintf("cat >/run/domains/%[1]s <<'END'\n%[2]sEND\n"+
		"cd /run; { echo '<node>'; cat domains/*; echo '</node>'; } >node.xml.new; mv node.xml.new node.xml", domain,
		xml.String()))
}

// conf writes /etc/xen-backup.d/NAME.conf on a Dom0.
func (s *site) conf(name, conf string, lines ...string) {
	s.Helper()
	s.write(filepath.Join(name, "etc/xen-backup.d", conf+".conf"), strings.Join(lines, "\n")+"\n", 0o644)
}

// image makes a file of random bytes on a Dom0.
func (s *site) image(name, file string, size int) {
	s.Helper()
	s.must(name, fmt.Sprintf("head -c %d /dev/urandom >'%s'", size, file))
}

// same demands that dom0a's file is dom0b's.
func (s *site) same(a, b string) {
	s.Helper()
	sum := func(name, file string) string {
		return strings.Fields(s.must(name, fmt.Sprintf("sha256sum <'%s'", file)))[0]
	}
	if sum("dom0a", a) != sum("dom0b", b) {
		s.Errorf("dom0a:%s and dom0b:%s differ", a, b)
	}
}

// cron is the command by which cron runs xen-backup.sh, and what it would mail is on
// standard error. The words are settings, then arguments.
func cron(words ...string) string {
	settings, arguments := []string{}, []string{}
	for _, word := range words {
		if name, _, is := strings.Cut(word, "="); is && strings.ToUpper(name) == name {
			settings = append(settings, word)
		} else {
			arguments = append(arguments, word)
		}
	}
	return fmt.Sprintf("exec env -i %s /usr/local/sbin/xen-backup.sh %s", strings.Join(settings, " "),
		strings.Join(arguments, " "))
}

// backup runs it on a Dom0.
func (s *site) backup(name string, words ...string) result {
	s.Helper()
	r := s.on(name, cron(words...))
	s.nothingLeft(name)
	return r
}

// log returns what a Dom0's scripts have logged: a line is "local3.info WORDS".
func (s *site) log(name string) string {
	s.Helper()
	return s.must(name, "cat /run/syslog")
}

// nothingLeft demands that a run has left no snapshot, process or directory behind.
func (s *site) nothingLeft(name string) {
	s.Helper()
	for end := time.Now().Add(testkit.Long); ; time.Sleep(50 * time.Millisecond) {
		left := s.must(name, "left")
		if left == "" {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("left behind:\n%s", left)
		}
	}
}
