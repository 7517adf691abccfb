package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// movingXL knows the domains in /run/xl. What is to happen at which step a test writes to /run/doom; what it did is in
// /run/events.
const movingXL = `#!/bin/bash
. /usr/local/sbin/doom
mkdir -p /run/xl
stay() { setsid sleep 1000 >/dev/null 2>&1 </dev/null & } # with all other files that it was given, as xl does
case $1 in
list)
	if [[ ${2-} = -l ]]; then
		for d in $(ls /run/xl); do
			printf '[{"domid":1,"config":{"c_info":{"name":"%s"},"disks":[{"pdev_path":"/srv/%s.img","vdev":"xvda",' $d $d
			printf '"format":"raw","readwrite":1}]}}]\n'
		done
		[[ -n $(ls /run/xl) ]] || echo '[]'
		exit
	fi
	printf 'Name                                        ID   Mem VCPUs\tState\tTime(s)\n'
	for d in $(ls /run/xl); do
		case $(</run/xl/$d) in '') flags=-b---- ;; suspended) flags=--pss- ;; *) flags=--p--- ;; esac
		printf '%-40s     1   256     1     %s      15.4\n' "$d" $flags
	done ;;
shutdown)
	doomed "before shutdown"
	[[ ! -e /run/deaf ]] || exit 0
	rm "/run/xl/${!#}"
	echo "shutdown" >>/run/events
	doomed "after shutdown" ;;
create)
	! is "create fails" || { echo "no room for it" >&2; exit 1; }
	touch /run/xl/domu1
	stay
	echo "create" >>/run/events ;;
save)
	! is "save fails" || { echo "no room for it" >&2; exit 1; }
	[[ -e /run/xl/$2 && ! -s /run/xl/$2 ]] || exit 1
	cp /run/memory "$3"
	! is "save is killed" || { echo suspended >"/run/xl/$2"; kill -9 $$; }
	rm "/run/xl/$2"
	doomed "after save" ;;
restore)
	[[ $2 = -p && ! -e /run/xl/domu1 ]] || exit 1
	[[ $(stat -c %a "${!#}") = 600 ]] || exit 1
	! is "restore is killed" || { echo half >/run/xl/domu1; kill -9 $$; }
	if is "restore waits"; then
		echo half >/run/xl/domu1
		until [[ -e /run/go ]]; do sleep 0.1; done
	fi
	! is "restore fails" || { echo "another CPU" >&2; exit 1; }
	echo paused >/run/xl/domu1
	stay
	cp "${!#}" /run/memory ;;
unpause)
	[[ -s /run/xl/$2 ]] || exit 1
	! grep -qs "asked\|stop\|back" /var/lib/xen-backup/move/domu1.json || [[ ! -e /var/lib/xen-backup/move/domu1.memory ]] || exit 1 # from one memory twice
	: >/run/xl/domu1 ;;
destroy)
	rm "/run/xl/$2"
	rm -f /run/memory ;;
esac
`

// doom is read by what stands for programs: it kills the move at a step.
const doom = `
is() { grep -qsxF -- "$1" /run/doom && sed -i "0,/^$1\$/{/^$1\$/d}" /run/doom; }
doomed() {
	local p
	is "$1" || return 0
	for p in /proc/[0-9]*; do
		[[ $(tr '\0' ' ' <$p/cmdline 2>/dev/null) != "xb-copy --move "* ]] || kill "-${2:-KILL}" "${p#/proc/}"
	done
}
`

const doomedRun = `#!/bin/bash
. /usr/local/sbin/doom
[[ " $* " = *' --final '* ]] || exec /usr/local/sbin/xen-backup.real "$@"
doomed "before final"
! is "final fails" || { echo "### ERROR 74: the last copy" >&2; exit 3; }
if grep -qsx interrupted /run/doom; then
	doomed interrupted TERM
	sleep 1000 & wait $!
fi
/usr/local/sbin/xen-backup.real "$@"
status=$?
doomed "after final"
exit $status
`

const doomedSSH = `#!/bin/bash
. /usr/local/sbin/doom
step=
case " $* " in
*' --dry-run '*) ;;
*' xen-failover promote '*) step=promote ;;
*' --arrival '*) [[ " $* " =~ ' --arrival '([a-z]*) ]] && step=${BASH_REMATCH[1]} ;;
esac
[[ -n $step ]] || exec /usr/bin/ssh "$@"
! is "before $step" || { echo "before $step" >/run/doom; doomed "before $step"; exit 255; }
! is "cut before $step" || exit 255
/usr/bin/ssh "$@"
status=$?
doomed "after $step"
! is "cut after $step" || exit 255
exit $status
`

// newMove has domu1, a guest of xl, run on dom0a, with a conf file for both.
func newMove(t *testing.T, s *site) *site {
	s.Helper()
	script, err := os.ReadFile("../../scripts/xen-failover.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dom0a", "dom0b"} {
		for file, text := range map[string]string{"xl": movingXL, "xen-failover": string(script), "doom": doom, "ssh": doomedSSH} {
			s.write(name+"/sbin/"+file, text, 0o755)
		}
		s.must(name, "mkdir -p /etc/xen; cd /usr/local/sbin; mv xen-backup.sh xen-backup.real")
		s.write(name+"/sbin/xen-backup.sh", doomedRun, 0o755)
		s.conf(name, "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b"`)
	}
	s.must("dom0a", "cat >/etc/xen/domu1.cfg <<'END'\n"+xlGuest+"END")
	s.image("dom0a", "/srv/domu1.img", 1<<20)
	s.must("dom0b", "truncate -s 1M /srv/domu1.img")
	s.runs("dom0a")
	return s
}

// runs has domu1 run on one Dom0, and nowhere else.
func (s *site) runs(name string) {
	s.Helper()
	s.must("dom0a", "rm -rf /run/xl /run/doom /run/deaf /run/events /run/memory /var/lib/xen-backup/move; mkdir /run/xl")
	s.must("dom0b", "rm -rf /run/memory /run/xl /run/doom /run/deaf /run/events /var/lib/xen-backup/move; mkdir /run/xl")
	s.must(name, "touch /run/xl/domu1; echo $RANDOM$RANDOM$RANDOM >/run/memory; cp /run/memory /srv/memory")
}

// where returns the Dom0s on which domu1 runs.
func (s *site) where() string {
	s.Helper()
	var names []string
	for _, name := range []string{"dom0a", "dom0b"} {
		if s.on(name, "[[ -e /run/xl/domu1 ]]").status == 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func (s *site) move(from, words string) result {
	s.Helper()
	return s.on(from, failover("move domu1 "+words))
}

// TestMove: a DomU is moved, and back. What fails before the other Dom0 was asked to start it has it run here again, or
// still; after that it never runs twice: where it cannot be told whether it does there, both stay stopped. Killed at any
// step, the next move brings it to its end.
func TestMove(t *testing.T) {
	s := newMove(t, newSite(t))
	for _, c := range testkit.Some(t, 1, []struct {
		what, on, doom string
		words          string // of the command
		status         int
		said           string
		where          string
		again          string // where it runs after the same command was given again; "": it is not
	}{
		{"moved", "", "", "dom0b", 0, "## DomU domu1 runs on dom0b", "dom0b", ""},
		{"the last copy fails", "dom0a", "final fails", "dom0b", 3, "runs here again", "dom0a", "dom0b"},
		{"it does not start there", "dom0b", "create fails", "dom0b", 69, "DomU domu1: xl does not start it",
			"dom0a", "dom0b"},
		{"a cut link", "dom0a", "cut before promote", "dom0b", 75, "on dom0b, if it does not run there yet: xen-failover promote domu1",
			"", "dom0b"},
		{"a cut link after it", "dom0a", "cut after promote", "dom0b", 0, "## DomU domu1 runs on dom0b", "dom0b", ""},
		{"killed", "dom0a", "after shutdown", "dom0b", 137, "", "", "dom0b"},
		{"killed", "dom0a", "after promote", "dom0b", 137, "", "dom0b", "dom0b"},
		{"a deaf guest", "dom0a", "deaf", "dom0b --for 1s", 75, "did not shut down within 1s", "dom0a", ""},
		{"interrupted", "dom0a", "interrupted", "dom0b", 143, "## interrupted: DomU domu1 runs here again", "dom0a", "dom0b"},
		{"killed", "dom0a", "before shutdown", "dom0b", 137, "", "", "dom0b"},
		{"killed", "dom0a", "before final", "dom0b", 137, "", "", "dom0b"},
		{"killed", "dom0a", "after final", "dom0b", 137, "", "", "dom0b"},
		{"killed", "dom0a", "before promote", "dom0b", 137, "", "", "dom0b"},
		{"an unreachable Dom0", "", "", "dom0c", 69, "Dom0 dom0c cannot be asked", "dom0a", ""},
	}...) {
		what := c.what + ": " + c.doom
		s.runs("dom0a")
		switch {
		case c.doom == "deaf":
			s.must(c.on, "touch /run/deaf")
		case c.on != "":
			s.must(c.on, fmt.Sprintf("echo '%s' >/run/doom", c.doom))
		}
		r := s.move("dom0a", c.words)
		if r.status != c.status || !strings.Contains(r.err, c.said) || s.where() != c.where {
			t.Errorf("%s: status %d, runs on %q:\n%s", what, r.status, s.where(), r.err)
		}
		if c.again != "" {
			s.must("dom0b", "rm -f /run/doom")
			if r = s.move("dom0a", c.words); r.status != 0 || s.where() != c.again {
				t.Errorf("%s: again: status %d, runs on %q:\n%s", what, r.status, s.where(), r.err)
			}
		}
		for _, name := range []string{"dom0a", "dom0b"} {
			if left := s.must(name, "find /run -maxdepth 1 -name 'xen-failover*' -type d"); left != "" {
				t.Errorf("%s: left on %s: %s", what, name, left)
			}
		}
		if s.where() == "dom0b" {
			s.same("/srv/domu1.img", "/srv/domu1.img")
			if left := s.on("dom0a", "cat /var/lib/xen-backup/move/*.json"); left.status == 0 {
				t.Errorf("%s: the move is over: %s", what, left.out)
			}
		}
	}

	t.Log("and back, with what it wrote")
	s.runs("dom0b")
	s.must("dom0b", "head -c 64K /dev/urandom | dd of=/srv/domu1.img conv=notrunc status=none")
	if r := s.move("dom0b", "dom0a"); r.status != 0 || s.where() != "dom0a" {
		t.Errorf("back: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.same("/srv/domu1.img", "/srv/domu1.img")
}

// TestLongMoveRefused stops nothing for what would fail.
func TestLongMoveRefused(t *testing.T) {
	s := newMove(t, newSite(t))
	s.backup("dom0a")
	s.must("dom0b", "cp /srv/domu1.img /srv/before; echo scribble >>/srv/domu1.img")
	if r := s.move("dom0a", "dom0b"); r.status != 3 || s.where() != "dom0a" || !strings.Contains(r.err, "still runs here") {
		t.Errorf("a standby that was written to: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.must("dom0b", "xb-patch --discard-changes --peer dom0a /srv/domu1.img; touch /run/xl/domu1")
	if r := s.move("dom0a", "dom0b"); r.status != 3 || s.where() != "dom0a dom0b" {
		t.Errorf("it runs there: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.must("dom0b", "rm /run/xl/domu1")
	s.conf("dom0b", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`)
	if r := s.move("dom0a", "dom0b"); r.status != 69 || s.where() != "dom0a" || !strings.Contains(r.err, "dom0c cannot be reached") {
		t.Errorf("it may run on a third one: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.must("dom0a", "sed -i 's|^memory|kernel = \"/boot/other\"\\n&|' /etc/xen/domu1.cfg")
	if r := s.move("dom0a", "dom0b"); r.status != 77 || s.where() != "dom0a" || !strings.Contains(r.err, "--trust-document") {
		t.Errorf("a document that nobody trusts: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.must("dom0a", "rm /etc/xen/domu1.cfg")
	if r := s.move("dom0a", "dom0b"); r.status != 78 || s.where() != "dom0a" {
		t.Errorf("without a configuration: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	if events := s.on("dom0a", "cat /run/events").out; strings.Count(events, "shutdown") != 0 {
		t.Errorf("dom0a: %s", events)
	}
	if r := s.move("dom0b", "dom0a"); r.status != 1 {
		t.Errorf("where it does not run: status %d:\n%s", r.status, r.err)
	}
}

// TestLongMoveThroughGate: a key that only replicates starts nothing on the other Dom0, unless gate.conf there allows it:
// then somebody has to type the last command.
func TestLongMoveThroughGate(t *testing.T) {
	s := newMove(t, gated(t, "dom0a domu1/* /srv/domu1.img", "dom0a domu2 promote", "dom0c domu1 promote"))
	r := s.move("dom0a", "dom0b")
	if r.status != 0 || s.where() != "" || !strings.Contains(r.err, "There: xen-failover promote domu1\n") {
		t.Errorf("status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.same("/srv/domu1.img", "/srv/domu1.img")
	if r = s.on("dom0b", failover("promote domu1")); r.status != 0 || s.where() != "dom0b" {
		t.Errorf("typed there: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
	s.runs("dom0a")
	s.gateConf("dom0a domu1/* /srv/domu1.img", "dom0a domu1 promote")
	if r = s.move("dom0a", "dom0b"); r.status != 0 || s.where() != "dom0b" {
		t.Errorf("allowed: status %d, runs on %q:\n%s", r.status, s.where(), r.err)
	}
}

// goesOn demands that domu1 goes on on one Dom0, from its memory, and that nothing of it is left anywhere else.
func (s *site) goesOn(what, name string) {
	s.Helper()
	if where := s.where(); where != name {
		s.Errorf("%s: it is on %q, not on %s", what, where, name)
		return
	}
	for _, dom0 := range []string{"dom0a", "dom0b"} {
		if left := s.on(dom0, "ls /var/lib/xen-backup/move/*.memory*"); left.status == 0 {
			s.Errorf("%s: left on %s: %s", what, dom0, left.out)
		}
	}
	if r := s.on(name, "[[ ! -s /run/xl/domu1 ]] && ! grep -q create /run/events"); r.status != 0 {
		s.Errorf("%s: it stands still on %s, or was booted", what, name)
	}
	if memory := s.on(name, "cat /run/memory").out; memory != s.must("dom0a", "cat /srv/memory") {
		s.Errorf("%s: its memory is %q", what, memory)
	}
}

// TestMoveWithMemory: a DomU goes on on another Dom0 from its memory, and back. Whatever fails, it goes on from it
// once; where it cannot be told where, nowhere, and nothing touches it until somebody says where.
func TestMoveWithMemory(t *testing.T) {
	s := newMove(t, newSite(t))
	for _, c := range testkit.Some(t, 1, []struct {
		on, doom string
		status   int
		said     string
		where    string // "": it does not run
		then     string // the commands that bring it to an end, and where
	}{
		{"", "", 0, "## DomU domu1 goes on on dom0b", "dom0b", ""},
		{"dom0a", "cut after promote\ncut before destroy", 75, "to go on here: xen-failover move domu1 dom0b --undo", "", "--undo dom0a"},
		{"dom0b", "restore fails", 69, "runs here again", "dom0a", ""},
		{"dom0a", "cut after promote", 69, "runs here again", "dom0a", ""},
		{"dom0a", "cut after promote\ncut before destroy", 75, "to go on there: xen-failover move domu1 dom0b --finish", "", "--finish dom0b"},
		{"dom0a", "cut before resume\ncut before resume\ncut before resume", 75, "here: xen-failover move domu1 dom0b --finish", "",
			"--finish dom0b"},
		{"dom0a", "after save", 137, "", "", "--undo dom0a"},
		{"dom0a", "after promote", 137, "", "", "--finish dom0b"},
		{"dom0a", "after resume", 137, "", "dom0b", " dom0b"},
		{"dom0a", "save fails", 69, "still runs here", "dom0a", ""},
		{"dom0a", "final fails", 3, "runs here again", "dom0a", ""},
		{"dom0a", "interrupted", 143, "runs here again", "dom0a", ""},
		{"dom0a", "cut before keep", 69, "runs here again", "dom0a", ""},
		{"dom0a", "cut after keep", 69, "runs here again", "dom0a", ""},
		{"dom0b", "restore is killed", 69, "runs here again", "dom0a", ""},
		{"dom0a", "cut before promote", 69, "runs here again", "dom0a", ""},
		{"dom0a", "cut after resume\ncut after resume\ncut after resume", 75, "cannot be told whether it goes on", "dom0b", " dom0b"},
		{"dom0a", "before final", 137, "", "", "--finish dom0b"},
		{"dom0a", "after keep", 137, "", "", "--undo dom0a"},
		{"dom0a", "after keep", 137, "", "", "--finish dom0b"},
		{"dom0a", "after promote", 137, "", "", "--undo dom0a"},
		{"dom0a", "before resume", 137, "", "", " dom0b"},
	}...) {
		what := c.doom + c.then
		s.runs("dom0a")
		if c.on != "" {
			s.must(c.on, "cat >/run/doom <<'END'\n"+c.doom+"\nEND")
		}
		r := s.move("dom0a", "dom0b --with-memory")
		if r.status != c.status || !strings.Contains(r.err, c.said) {
			t.Errorf("%s: status %d, is on %q:\n%s", what, r.status, s.where(), r.err)
		}
		if c.where != "" && c.then == "" {
			s.goesOn(what, c.where)
			continue
		}
		if s.on("dom0a", "[[ -e /var/lib/xen-backup/move/domu1.memory ]]").status == 0 {
			s.untouchable(what)
		}
		option, where, _ := strings.Cut(c.then, " ")
		if r = s.move("dom0a", "dom0b "+option); r.status != 0 {
			t.Errorf("%s: then: status %d, is on %q:\n%s", what, r.status, s.where(), r.err)
		}
		s.goesOn(what, where)
	}
	if !testkit.Campaign() {
		return
	}
	s.runs("dom0a")
	s.must("dom0a", "echo 'before resume' >/run/doom")
	s.move("dom0a", "dom0b --with-memory")
	s.must("dom0b", "rm /run/xl/domu1") // a crash, which the memory outlives
	if r := s.move("dom0a", "dom0b --finish"); r.status != 0 {
		t.Errorf("after a crash of dom0b: status %d, is on %q:\n%s", r.status, s.where(), r.err)
	}
	s.goesOn("after a crash of dom0b", "dom0b")
	s.runs("dom0a")
	s.must("dom0a", "printf 'cut after promote\\ncut before destroy\\ncut before destroy\\ncut before destroy\\n' >/run/doom")
	s.move("dom0a", "dom0b --with-memory")
	if r := s.move("dom0a", "dom0b --undo"); r.status != 75 || s.where() != "dom0b" ||
		!strings.Contains(r.err, "xen-failover move domu1 dom0b --undo --the-other-host-is-off") {
		t.Errorf("undone without dom0b: status %d, is on %q:\n%s", r.status, s.where(), r.err)
	}
	if r := s.move("dom0a", "dom0b --undo --the-other-host-is-off"); r.status != 0 {
		t.Errorf("dom0b is off: status %d, is on %q:\n%s", r.status, s.where(), r.err)
	}
	s.must("dom0b", `[[ $(</run/xl/domu1) = paused ]]
id=$(sed -n 's/.*"id": "\(.*\)",/\1/p' /var/lib/xen-backup/move/domu1.json)
[[ $(xb-locate --arrival tell --moving "$id" domu1) = paused ]]
xb-locate --arrival destroy --moving "$id" domu1
[[ $(xb-locate --arrival tell --moving "$id" domu1) = none ]]`)
	s.goesOn("dom0b was off", "dom0a")
	s.runs("dom0b")
	if r := s.move("dom0b", "dom0a --with-memory"); r.status != 0 {
		t.Errorf("back: status %d, is on %q:\n%s", r.status, s.where(), r.err)
	}
}

// TestLongMemoryRefused: nothing is saved where there is no room for it, and what another host asks for at the wrong
// time is not done.
func TestLongMemoryRefused(t *testing.T) {
	s := newMove(t, newSite(t))
	s.must("dom0a", `ask() { xb-locate --arrival "$@" --moving abcdefghijklmnopqrstuvwxyz domu1; }
wants() { local status=$? && [[ $status = "$1" ]] || { echo "status $status, not $1" >&2; exit 1; }; }
id=zyxwvutsrqponmlkjihgfedcba
set +e
xb-locate --arrival destroy --moving "$id" domu1; wants 81
echo memory | ask keep --size 7; wants 81
rm /run/xl/domu1
printf memor | ask keep --size 7; wants 65
printf memories | ask keep --size 7; wants 65
ask resume; wants 69
[[ ! -e /var/lib/xen-backup/move/domu1.memory ]]; wants 0
echo memory | ask keep --size 7; wants 0
xb-locate --arrival destroy --moving "$id" domu1; wants 75
[[ -e /var/lib/xen-backup/move/domu1.memory ]]; wants 0
xb-locate --arrival resume --moving "$id" domu1; wants 75
ask destroy; wants 0
[[ ! -e /var/lib/xen-backup/move/domu1.memory ]]; wants 0`)
	for full, want := range map[string]string{"dom0a": "DomU domu1 still runs here: /var/lib/xen-backup/move has room for",
		"dom0b": "DomU domu1 still runs here: Dom0 dom0b does not take its memory (status 73)"} {
		s.runs("dom0a")
		s.must(full, "mkdir -p /var/lib/xen-backup/move; mount -t tmpfs -o size=400M none /var/lib/xen-backup/move") // it has 256 MiB
		r := s.move("dom0a", "dom0b --with-memory")
		if r.status != 73 || !strings.Contains(r.err, want) {
			t.Errorf("no room on %s: status %d, is on %q:\n%s", full, r.status, s.where(), r.err)
		}
		if left := s.on("dom0a", "ls /var/lib/xen-backup/move/*.json"); left.status == 0 {
			t.Errorf("no room on %s: a move was begun: %s", full, left.out)
		}
		s.goesOn("no room on "+full, "dom0a")
		s.must(full, "umount /var/lib/xen-backup/move")
	}
}

// TestLongMoveHalfRestored: a move is interrupted while domu1 is restored, which libvirt lists as paused from the first moment
// on; of xl, whose long list leaves it out until the end, this stands for one that was ended late. Nothing goes on from half
// a memory, and none is removed before another host has restored it to its end.
func TestLongMoveHalfRestored(t *testing.T) {
	s := newMove(t, newSite(t))
	move := func(what, words string, status int) {
		s.Helper()
		if r := s.move("dom0a", "dom0b "+words); r.status != status {
			s.Errorf("%s: status %d, is on %q:\n%s", what, r.status, s.where(), r.err)
		}
	}
	s.runs("dom0a")
	s.must("dom0a", `printf 'cut after promote\ncut before destroy\n' >/run/doom`)
	s.must("dom0b", "echo restore is killed >/run/doom")
	move("killed there", "--with-memory", 75)
	move("killed there, and finished", "--finish", 0)
	s.goesOn("killed there", "dom0b")

	s.runs("dom0a")
	s.must("dom0a", `printf 'cut before promote\ncut before destroy\n' >/run/doom`)
	move("at work there", "--with-memory", 75)
	s.must("dom0b", `echo restore waits >/run/doom
id=$(sed -n 's/.*"id": "\(.*\)",/\1/p' /var/lib/xen-backup/move/domu1.json)
xen-failover promote domu1 --restore "$id" >/run/restore.log 2>&1 </dev/null &
echo $! >/run/restore.pid
until [[ -e /run/xl/domu1 ]]; do kill -0 $! || { cat /run/restore.log; exit 1; }; sleep 0.1; done`)
	move("at work there, and finished", "--finish", 75)
	s.must("dom0a", "[[ -e /var/lib/xen-backup/move/domu1.memory ]]")
	s.must("dom0b", "touch /run/go; while kill -0 $(</run/restore.pid); do sleep 0.1; done 2>/dev/null")
	move("it is restored there, and finished", "--finish", 0)
	s.goesOn("at work there", "dom0b")

	s.runs("dom0a")
	s.must("dom0a", `printf 'final fails\nrestore is killed\n' >/run/doom`)
	move("killed here", "--with-memory", 3)
	move("killed here, and undone", "--undo", 0)
	s.goesOn("killed here", "dom0a")

	s.runs("dom0a")
	s.must("dom0a", "echo save is killed >/run/doom")
	move("killed while it is saved", "--with-memory", 75)
	move("killed while it is saved, and undone", "--undo", 75)
	s.must("dom0a", "[[ -e /var/lib/xen-backup/move/domu1.memory ]]; xl destroy domu1")
	move("destroyed, and undone", "--undo", 0)
	s.goesOn("killed while it is saved", "dom0a")
}

// untouchable demands that nothing touches domu1 while its memory is in a file on dom0a.
func (s *site) untouchable(what string) {
	s.Helper()
	const file = "/var/lib/xen-backup/move/domu1.memory"
	if mode := s.must("dom0a", "stat -c %a "+file); mode != "600\n" {
		s.Errorf("%s: the memory has mode %s", what, mode)
	}
	for name, command := range map[string]string{
		"a run":   cron("TOOLSTACK=xl", "--wait", "domu1"),
		"--final": cron("TOOLSTACK=xl", "--wait", "--final", "domu1"),
		"promote": failover("promote domu1"), "a move": failover("move domu1 dom0b"), "the question": "xb-locate --active domu1",
	} {
		r := s.on("dom0a", command)
		if name == "a run" || name == "--final" {
			if r.status != 3 || !strings.Contains(r.err, "ERROR 75") {
				s.Errorf("%s: %s: status %d:\n%s", what, name, r.status, r.err)
			}
		} else if r.status != 75 {
			s.Errorf("%s: %s: status %d:\n%s", what, name, r.status, r.err)
		}
		if !strings.Contains(r.err, file) {
			s.Errorf("%s: %s does not name the file:\n%s", what, name, r.err)
		}
	}
	if r := s.on("dom0b", failover("promote domu1")); r.status != 75 && r.status != 81 {
		s.Errorf("%s: promote there: status %d:\n%s", what, r.status, r.err)
	}
}

// TestLongMoveWithMemoryThroughGate: a key that only replicates brings no memory, unless gate.conf allows that; a line that lets
// it start a DomU does not.
func TestLongMoveWithMemoryThroughGate(t *testing.T) {
	s := newMove(t, gated(t, "dom0a domu1/* /srv/domu1.img", "dom0a domu1 promote", "dom0a domu2 memory"))
	r := s.move("dom0a", "dom0b --with-memory")
	if r.status != 77 || !strings.Contains(r.err, "dom0b takes no memory of DomU domu1 from here") {
		t.Errorf("status %d:\n%s", r.status, r.err)
	}
	s.goesOn("refused", "dom0a")
	s.gateConf("dom0a domu1/* /srv/domu1.img", "dom0a domu1 memory")
	if r = s.move("dom0a", "dom0b --with-memory"); r.status != 0 {
		t.Errorf("status %d:\n%s", r.status, r.err)
	}
	s.goesOn("allowed", "dom0b")
	if log := s.log("dom0b"); !strings.Contains(log, "accepted: xb-locate --allow /etc/xen-backup/gate.conf --peer dom0a --arrival keep") {
		t.Errorf("logged:\n%s", log)
	}
}
