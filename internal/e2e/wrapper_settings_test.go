package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestScriptsAreShort keeps the scripts what somebody reads before they get root: what needs more is a program.
func TestScriptsAreShort(t *testing.T) {
	for name, most := range map[string]int{"xen-backup.sh": 449, "xen-failover.sh": 300} {
		text, err := os.ReadFile("../../scripts/" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if len(lines) > most {
			t.Errorf("%s: %d lines, want at most %d", name, len(lines), most)
		}
		for i, line := range lines {
			if len(strings.ReplaceAll(line, "\t", "        ")) > 120 {
				t.Errorf("%s:%d: more than 120 columns", name, i+1)
			}
		}
		if others := regexp.MustCompile(`\b(sed|awk|grep|pkill|killall|jq)\b`).FindAll(text, -1); others != nil {
			t.Errorf("%s uses %s", name, others)
		}
	}
}

// noting has a program on a Dom0 note the words of each call in /run/calls.
func (s *site) noting(dom0, program string) {
	s.Helper()
	s.write(dom0+"/sbin/"+program,
		"#!/bin/bash\necho \""+program+" $* .\" >>/run/calls\nexec /usr/local/bin/"+program+" \"$@\"\n", 0o755)
}

// calls returns what was noted, and forgets it.
func (s *site) calls(dom0 string) string {
	s.Helper()
	return s.must(dom0, "cat /run/calls; rm /run/calls")
}

// TestLongWrapperGuestsFirst demands that what the settings say of the guests' own reads and writes reaches whatever
// reads or writes a disk: here, and on a Dom0 that runs guests.
func TestLongWrapperGuestsFirst(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.noting("dom0a", "xb-delta")
	s.noting("dom0b", "xb-sig")
	s.noting("dom0b", "xb-patch")
	demand := func(name string, far, limit bool, words ...string) {
		t.Helper()
		if name != "" {
			s.conf("dom0a", "domu1", append([]string{"DOMU=domu1", twoDom0s}, strings.Fields(name)...)...)
		}
		s.backup("dom0a", words...).silent(t)
		here, there := s.calls("dom0a"), ""
		for line := range strings.Lines(s.calls("dom0b")) {
			if !strings.Contains(line, "--prepare") {
				there += line
			}
		}
		near := !strings.Contains(name, "BACKGROUND") && words == nil
		if strings.Contains(here, " --background ") != near || strings.Contains(here, " --read-limit 50M ") != limit {
			t.Errorf("%s %s: %s", name, words, here)
		}
		if full := strings.Contains(name, "TRACK=no"); full != strings.Contains(there, "xb-sig ") && near && far {
			t.Errorf("%s: there\n%s", name, there)
		}
		if n := strings.Count(there, " --background "); n != map[bool]int{true: strings.Count(there, "\n")}[far] || !strings.Contains(there, "xb-patch --auto ") {
			t.Errorf("%s %s: there %d times in the background:\n%s", name, words, n, there)
		}
	}
	demand("", false, false)
	s.must("dom0b", `bash -c 'exec -a kvm bash -c "sleep 1000; :" -name guest=other' >/dev/null 2>&1 &`)
	demand("", true, false)
	demand("READ_LIMIT=50M", true, true)
	demand("TRACK=no", true, false)
	demand("TRACK=no READ_LIMIT=50M", true, true)
	demand("BACKGROUND=no", false, false)
	s.domain("dom0a", "domu1", 5, "/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	demand("", false, false, "--final", "domu1")
}

// TestLongWrapperFreeze has file systems to be frozen in a guest that has no agent.
func TestLongWrapperFreeze(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.noting("dom0a", "xb-snap")
	s.must("dom0a", "mv /usr/local/sbin/virsh /usr/local/sbin/virsh.real")
	s.write("dom0a/sbin/virsh", `#!/bin/bash
case " $* " in *" domfsfreeze "* | *" domtime "*) echo 'error: Guest agent is not responding' >&2; exit 1 ;; esac
exec virsh.real "$@"
`, 0o755)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PAUSE=freeze")
	r := s.backup("dom0a")
	r.fails(t, 3, "### ERROR 69: DomU domu1: no snapshots")
	if strings.Count(r.err, "###") != 1 || strings.Contains(r.err, "xen-backup.sh: line") {
		t.Errorf("it says more than that: %s", r.err)
	}
	if calls := s.calls("dom0a"); !strings.Contains(calls, " --freeze domu1 ") {
		t.Errorf("xb-snap was told\n%s", calls)
	}
	s.must("dom0b", "! ls /srv/*.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "PAUSE=freeze-or-go")
	s.backup("dom0a").fails(t, 0, "## DomU domu1: xb-snap: ", "agent")
	if calls := s.calls("dom0a"); !strings.Contains(calls, " --freeze-or-go domu1 ") {
		t.Errorf("xb-snap was told\n%s", calls)
	}
	s.renewed("", xvda, xvdb)
}

// TestLongWrapperOldestFirst has DomUs whose copies are of different age, and two that were never copied.
func TestLongWrapperOldestFirst(t *testing.T) {
	s := newSite(t)
	for _, domu := range []string{"domu1", "domu2", "domu3", "domu4"} {
		s.image("dom0a", "/srv/"+domu, mib)
		s.domain("dom0a", domu, 1, "/srv/"+domu)
		s.conf("dom0a", domu, "DOMU="+domu, twoDom0s)
	}
	s.backup("dom0a", "domu2").silent(t)
	s.must("dom0a", "sleep 1.1") // what is remembered has seconds
	s.backup("dom0a", "domu1").silent(t)
	s.must("dom0a", ": >/run/syslog")
	s.backup("dom0a").silent(t)
	order := ""
	for _, found := range regexp.MustCompile(`## checking DomU (\S+)`).FindAllStringSubmatch(s.log("dom0a"), -1) {
		order += found[1] + " "
	}
	if order != "domu3 domu4 domu2 domu1 " {
		t.Errorf("their order is %s", order)
	}
}

// TestLongWrapperTakesLong demands that the log tells now and then of a copy that takes long, and the mail does not.
func TestLongWrapperTakesLong(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "BWLIMIT=250K")
	s.backup("dom0a", "XB_PROGRESS_EVERY=1s").silent(t)
	if log := s.log("dom0a"); !regexp.MustCompile(`local3\.info #### dom0b:/srv/a\.img: \S+ \S+ of 1\.0 MiB \(`).MatchString(log) {
		t.Errorf("in the log:\n%s", log)
	}
	s.same("/srv/a.img", "/srv/a.img")
}

// TestLongWrapperHookSurroundings demands that a hook has what it is promised, and nothing else: no descriptor of the run,
// such as the one that is the lock.
func TestLongWrapperHookSurroundings(t *testing.T) {
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s,
		`PRE_SNAPSHOT='env >/run/env; read -r line || echo no input >/run/input; ls /proc/self/fd >/run/open; setsid sleep 1002 &'`)
	for range 2 {
		s.backup("dom0a").silent(t) // what the hook has left behind holds neither the lock nor the run
	}
	env := s.must("dom0a", "cat /run/env")
	for _, line := range []string{"DOMU=domu1", "STATUS=0", "PEER=dom0b", "LC_ALL=C",
		"PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin"} {
		if !strings.Contains(env, line+"\n") {
			t.Errorf("no %s in\n%s", line, env)
		}
	}
	// A run has what cron gave it.
	open := s.must("dom0a", "exec env -i bash -c 'ls /proc/self/fd; :'")
	if got, want := s.must("dom0a", "cat /run/input /run/open"), "no input\n"+open; got != want {
		t.Errorf("a hook's input and descriptors: %q, want %q", got, want)
	}
	if n := s.must("dom0a", "pgrep -cfx 'sleep 1002'"); n != "2\n" {
		t.Errorf("%s hooks are still there, want 2", fmt.Sprint(n))
	}
}
