package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// conducted is a script that does with xb-copy what xen-backup.sh does with one DomU: words are options of both
// --prepare and the copy, more those of the copy. Its status is that of the first xb-copy that fails.
func conducted(domu, dom0s, words, more string) string {
	return fmt.Sprintf(`
domu=%s dom0s=%q words=(%s) more=(%s)
run=/run/xen-backup.$$
mkdir -m 700 $run
mkfifo $run/never
exec 5<>$run/never
xb-copy --connect --run $run --connect-timeout 5 ${dom0s#dom0a } <$run/never 5>&- &
until [[ -e $run/dom0s ]]; do sleep 0.05; done
finish() {
	trap '' TERM
	exec 5>&-
	wait
	[[ ! -s $run/snapshots ]] || xb-snap remove --unless-kept $(<$run/snapshots)
	xb-snap prune --bases >/dev/null
	rm -rf $run
}
trap finish EXIT
trap 'exit 143' TERM
xb-locate --copy --words --dom0s "$dom0s" --bundle $run/bundle $domu >$run/rows
copy() { xb-copy --run $run --connect-timeout 5 --domu $domu "${words[@]}" "$@" 5>&-; }
code=0
copy --prepare <$run/rows >$run/ready || code=$?
[[ -s $run/ready ]] || exit $code
other=$(cut -f 2 $run/ready | head -1)
xb-snap create --uri --owner $$ --size 64M $(awk -F '\t' -v o="$other" '$2 == o { print $5 }' $run/ready) >$run/snapshots
copy --snapshots $run/snapshots --bundle $run/bundle "${more[@]}" <$run/ready || code=$?
exit $code
`, domu, dom0s, words, more)
}

// complaints are the lines that are neither progress nor information, nor the shell's on a signal.
func (r result) complaints() (lines []string) {
	for line := range strings.Lines(r.err) {
		if !strings.HasPrefix(line, "info ") && !strings.HasPrefix(line, "progress ") && line != "Terminated\n" {
			lines = append(lines, line)
		}
	}
	return lines
}

// well demands success, and nothing but information.
func (r result) well(t *testing.T) {
	t.Helper()
	if r.status != 0 || len(r.complaints()) > 0 {
		t.Errorf("status %d, %q\n%s", r.status, r.complaints(), r.err)
	}
}

// TestLongCopy has one disk copied, and copied again, and two as a set.
func TestLongCopy(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	for range 2 {
		r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "--verify"))
		r.well(t)
		r.fails(t, 0, "info ### sync domu1 from dom0a to dom0b: /srv/a.img to /srv/a.img\n", "info #### dom0b:/srv/a.img: verified, blocks 256 changed 0 bytes 0\n")
		s.same(xvda, xvda)
		s.nothingLeft("dom0a")
		s.change("dom0a", xvda)
	}
	s.must("dom0b", "test -s /var/lib/xen-backup/xml/domu1.xml")
	s.domu1(xvda, xvdb)
	set := ""
	for range 2 {
		r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "", ""))
		r.well(t)
		r.fails(t, 0, "info ### commit domu1 on dom0b: xvda xvdb, of 20")
		set = s.renewed(set, xvda, xvdb)
		s.nothingLeft("dom0a")
		s.changeAll(xvda, xvdb)
	}
}

// copying begins a copy of domu1 that does not end before dom0b has /run/go, and waits until it is under way.
func (s *site) copying(begin func(script string) *job) *job {
	s.Helper()
	s.around(`if [[ " $* " = *" --auto "* ]]; then touch /run/begun; until [[ -e /run/go ]]; do sleep 0.1; done; fi`)
	j := begin(conducted("domu1", "dom0a dom0b", "", ""))
	eventually(s, "the copy", func() bool { return s.on("dom0b", "rm /run/begun").status == 0 })
	return j
}

// programs are those of a copy that run on a Dom0.
func (s *site) programs(name string) string {
	s.Helper()
	return s.must(name, `for p in /proc/[0-9]*/cmdline; do tr '\0' ' ' 2>/dev/null <"$p" | grep -E '^(/[^ ]*/)?(ssh|xb-[a-z]+) ' || :; done`)
}

// unremembered demands that a run which was ended has left nothing in the memory of dom0a.
func (s *site) unremembered() {
	s.Helper()
	if list := s.must("dom0a", "xb-patch --list"); list != "" {
		s.Errorf("remembered:\n%s", list)
	}
}

// TestLongCopySignal ends a copy with a signal to all of its programs: it ends at once, and it is no failure.
func TestLongCopySignal(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	run := s.copying(func(script string) *job { return s.begin("dom0a", script) })
	begun := time.Now()
	syscall.Kill(-run.cmd.Process.Pid, syscall.SIGTERM)
	r := run.end()
	s.nothingLeft("dom0a")
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("it ended after %v", took)
	}
	if c := r.complaints(); len(c) > 0 {
		t.Errorf("it says %q", c)
	}
	s.unremembered()
}

// TestLongCopyKilled kills whoever started the programs of a run, one of these, or only lets it go away: none stays behind.
func TestLongCopyKilled(t *testing.T) {
	for name, kill := range map[string]string{
		"parent":  "kill -9 $(</run/script)",
		"copy":    "pkill -9 -f '^xb-copy .*--snapshots'",
		"connect": "pkill -9 -f '^xb-copy --connect '",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.domu1(xvda)
			run := s.copying(func(script string) *job { return s.begin("dom0a", "echo $$ >/run/script\n"+script) })
			s.must("dom0a", kill)
			eventually(s, "the end of all", func() bool {
				return s.programs("dom0a") == ""
			})
			s.must("dom0b", "touch /run/go")
			run.end()
			if name != "parent" {
				s.nothingLeft("dom0a")
			}
		})
	}
}

// TestLongCopyDead has one of two Dom0s not answer, and one that dies while the other one is copied to.
func TestLongCopyDead(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.countSSH()
	r := s.on("dom0a", conducted("domu1", "dom0a dom0b dom0c", "", ""))
	const dead = "err ### ERROR 69: DomU domu1: remote Dom0 dom0c cannot be reached\n"
	r.fails(t, 3, dead)
	s.same(xvda, xvda)
	s.nothingLeft("dom0a")
	for _, dom0 := range []string{"dom0b", "dom0c"} {
		if n := strings.Count(s.must("dom0a", "cat /run/masters"), dom0); n != 1 {
			t.Errorf("%s was called %d times", dom0, n)
		}
	}
	// Of one that is not asked for nobody speaks.
	r = s.on("dom0a", conducted("domu1", "dom0a dom0b dom0c", "--to dom0b", ""))
	r.well(t)
}

// TestLongCopyDies has one of two Dom0s die in the middle: the other one is not held up, and the log tells which.
func TestLongCopyDies(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.bootThird()
	s.write("dom0c/sbin/xb-patch", "#!/bin/bash\n[[ \" $* \" != *' --auto '* ]] || { touch /run/begun; sleep 1000; }\n"+
		"exec /usr/local/bin/xb-patch \"$@\"\n", 0o755)
	run := s.begin("dom0a", conducted("domu1", "dom0a dom0b dom0c", "", ""))
	eventually(s, "the copy to dom0b", func() bool { return strings.Contains(s.must("dom0a", "xb-patch --list"), "dom0b") })
	s.must("dom0c", "test -e /run/begun")
	s.same(xvda, xvda)
	s.cut("dom0c")
	r := run.end()
	r.fails(t, 3, "err ### ERROR 69: DomU domu1, disk xvda: /srv/a.img was not copied to dom0c:/srv/a.img: a host or a program does not answer\n")
	if strings.Count(r.err, "ERROR") != 1 {
		t.Errorf("errors:\n%s", r.err)
	}
	s.nothingLeft("dom0a")
}

// TestLongCopyStallsInSig has a signature that does not go on, and another disk that is not held up by it.
func TestLongCopyStallsInSig(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.write("dom0b/sbin/xb-sig", "#!/bin/bash\n[[ $* != */srv/b.img ]] || kill -STOP $$\nexec /usr/local/bin/xb-sig \"$@\"\n", 0o755)
	r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "--stall 12", ""))
	r.fails(t, 3, "err ### ERROR 69: DomU domu1, disk xvdb: /srv/b.img was not copied to dom0b:/srv/b.img: no progress for 12 s\n",
		"warning ### DomU domu1: what dom0b has got of xvda is not used without the other disks: the next run replaces it\n",
		"err ### DomU domu1: failed: xvdb; its standby on dom0b is of no one set: xvda ")
	s.must("dom0b", "pkill -KILL -x xb-sig; rm /usr/local/sbin/xb-sig")
	s.nothingLeft("dom0a")
	s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "")).well(t)
	s.renewed("", xvda, xvdb)
}

// TestLongCopyStallsInApply holds back what is written there, as a broken disk does: it is told as that, and in which state
// the standby is.
func TestLongCopyStallsInApply(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "")).well(t)
	s.change("dom0a", xvda)
	s.must("dom0b", "fsfreeze -f /srv")
	t.Cleanup(func() { s.on("dom0b", "fsfreeze -u /srv") })
	run := s.begin("dom0a", conducted("domu1", "dom0a dom0b", "--stall 25", ""))
	applying := func() bool {
		return strings.Contains(s.on("dom0b", "xb-patch --state /srv/a.img").out, `"phase":"applying"`)
	}
	eventually(s, "the apply", applying)
	s.must("dom0b", "pkill -STOP -x xb-patch") // it does not even say that it waits
	r := run.end()
	r.fails(t, 3, "err ### ERROR 69: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: no progress for 25 s\n",
		"err #### DomU domu1, disk xvda, dom0b:/srv/a.img: the standby is of no one set: xvda applying: what has begun to be applied "+
			"goes on there, or the next run finishes it, or on dom0b: xb-patch --recover /srv/a.img\n")
	if strings.Count(r.err, "ERROR") != 1 {
		t.Errorf("errors:\n%s", r.err)
	}
	s.must("dom0b", "fsfreeze -u /srv; pkill -CONT -x xb-patch")
	eventually(s, "the end of the apply", func() bool { return !applying() })
	s.same(xvda, xvda)
}

// TestLongCopyShells has a login shell on the other Dom0 that speaks where data should be, and one that is none.
func TestLongCopyShells(t *testing.T) {
	for name, c := range map[string]struct{ setup, words string }{
		"stdout":  {"echo 'printf glued' >/root/.bashrc", "glued"},
		"nologin": {"sed -i 's|^\\(root:.*:\\)[^:]*$|\\1/usr/sbin/nologin|' /etc/passwd", "This account is currently not available."},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.domu1(xvda)
			s.must("dom0b", c.setup)
			s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "")).fails(t, 3,
				"err ### ERROR ", ": DomU domu1: remote Dom0 dom0b cannot tell whether the DomU runs there", c.words)
			s.nothingLeft("dom0a")
		})
	}
}

// TestLongCopyFirstCause has a stage fail here, and the others only see its end: what is told is the cause, in the same run.
func TestLongCopyFirstCause(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	for _, c := range []struct {
		status int
		words  string
	}{{74, "read /srv/a.img: input/output error"}, {82, "its snapshot is invalid"}} {
		s.write("dom0a/sbin/xb-delta", fmt.Sprintf("#!/bin/bash\n/usr/local/bin/xb-delta \"$@\" 2>/dev/null | head -c 500\n"+
			"echo 'xb-delta: %s' >&2\nexit %d\n", c.words, c.status), 0o755)
		s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "")).fails(t, 3,
			fmt.Sprintf("err ### ERROR %d: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: ", c.status),
			"err #### DomU domu1, disk xvda, dom0b:/srv/a.img: xb-delta: "+c.words+"\n")
		if list := s.must("dom0a", "xb-patch --list --json"); !strings.Contains(list, c.words) {
			t.Errorf("remembered:\n%s", list)
		}
		s.nothingLeft("dom0a")
	}
}

// TestLongCopyOneStandby has two DomUs meet in one standby: it is the conf file that is wrong.
func TestLongCopyOneStandby(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.domain("dom0a", "domu2", 1, xvda)
	script := conducted("domu1", "dom0a dom0b", "", "")
	both := script[strings.Index(script, "xb-locate "):strings.LastIndex(script, "exit $code")]
	r := s.on("dom0a", strings.Replace(script, both, "for domu in domu1 domu2; do "+both+"done\n", 1))
	r.fails(t, 3, "err ### ERROR 78: DomU domu2: /srv/a.img would overwrite dom0b:/srv/a.img of domu1 /srv/a.img\n")
	if strings.Count(r.err, "ERROR") != 1 {
		t.Errorf("errors:\n%s", r.err)
	}
	s.same(xvda, xvda)
}

// TestLongCopyKnown asks whether somebody knows a DomU.
func TestLongCopyKnown(t *testing.T) {
	s := newSite(t)
	s.domain("dom0b", "domu2", 5)
	for _, c := range []struct{ domu, dom0s, want string }{
		{"domu2", "dom0b", "yes\n"}, {"domu3", "dom0b", "no\n"}, {"domu3", "dom0b dom0c", "maybe\n"}, {"domu2", "dom0c dom0b", "yes\n"},
	} {
		got := s.must("dom0a", `mkdir /run/known; cd /run/known; mkfifo never; exec 5<>never
xb-copy --connect --run $PWD --connect-timeout 5 `+c.dom0s+` <never >/dev/null 5>&- &
until [[ -e dom0s ]]; do sleep 0.05; done
xb-copy --known --run $PWD `+c.domu+" "+c.dom0s+`
exec 5>&-; wait; rm -r /run/known`)
		if got != c.want {
			t.Errorf("%s on %s: %q, want %q", c.domu, c.dom0s, got, c.want)
		}
	}
	s.nothingLeft("dom0a")
}

// TestLongCopyFewSessions has an sshd that lets one connection have less than the copies of two disks take.
func TestLongCopyFewSessions(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.must("dom0b", "sed -i '1i MaxSessions 1' /etc/ssh/pair; pkill -HUP -o -x sshd")
	s.must("dom0a", "until ssh dom0b true; do sleep 0.1; done 2>/dev/null")
	r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "", ""))
	r.fails(t, 0, "Session open refused by peer")
	s.renewed("", xvda, xvdb)
	s.nothingLeft("dom0a")
}

// TestLongCopyPrograms counts what a disk without changes starts.
func TestLongCopyPrograms(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	s := newSite(t)
	s.domu1(xvda)
	s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "")).well(t)
	script := strings.ReplaceAll(conducted("domu1", "dom0a dom0b", "", ""), "xb-copy --",
		"strace -A -f -qq -e trace=execve -e signal=none -e status=successful -o /run/programs xb-copy --")
	s.on("dom0a", script).well(t)
	trace := s.must("dom0a", "cat /run/programs")
	// Each xb-copy; the connection; two questions; what has changed, and two stages; the document.
	if n := strings.Count(trace, "execve("); n != 3+1+2+3+1 {
		t.Errorf("%d programs:\n%s", n, trace)
	}
}
