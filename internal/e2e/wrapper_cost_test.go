package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestLongWrapperPrograms counts the programs that a run starts on the source's host when nothing has changed.
func TestLongWrapperPrograms(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	s := newSite(t)
	s.domu1("/srv/a.img")
	s.must("dom0a", "rm /usr/local/sbin/virsh") // the stand-in is two programs
	s.backup("dom0a").silent(t)
	r := s.on("dom0a", "exec env -i strace -f -qq -e trace=execve -e signal=none -e status=successful -o /run/programs /usr/local/sbin/xen-backup.sh")
	r.silent(t)
	s.nothingLeft("dom0a")
	trace := s.must("dom0a", "cat /run/programs")
	started := regexp.MustCompile(`(?m)execve\("([^"]*)"`).FindAllStringSubmatch(trace, -1)
	const most = 35
	if len(started) == 0 || len(started) > most {
		t.Errorf("%d programs, want at most %d:\n%s", len(started), most, trace)
	}
	var ssh, loggers int
	for _, program := range started {
		switch {
		case strings.HasSuffix(program[1], "/ssh"):
			ssh++
		case strings.HasSuffix(program[1], "/logger"):
			loggers++
		}
	}
	if loggers != 1 || ssh > 5 {
		t.Errorf("%d loggers and %d times ssh, want 1 and at most 5", loggers, ssh)
	}
	t.Logf("%d programs, %d times ssh", len(started), ssh)
}
