package state

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// confOf makes host.conf a file of the test's.
func confOf(t *testing.T, text string) {
	t.Helper()
	t.Setenv("XB_STATE_DIR", "")
	before := hostConf
	t.Cleanup(func() { hostConf = before })
	hostConf = filepath.Join(t.TempDir(), "host.conf")
	if err := os.WriteFile(hostConf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		conf string
		want Places
	}{
		{"", Places{Dir: DefaultDir}},
		{"# STATE_DIR=/no\n\n  \nSPOOL_DIR=/big/spool # of tmpfs\n", Places{Dir: DefaultDir, Spool: "/big/spool"}},
		{"STATE_DIR=\"" + dir + "\"\n\tSPOOL_DIR='/b'\t# c\n", Places{Dir: Dir(dir), Spool: "/b"}},
		{"STATE_DIR=/no\nSTATE_DIR=/tmp", Places{Dir: "/tmp"}},
		{"POOL_LIMIT=90 # percent", Places{Dir: DefaultDir, Limit: 90}},
	} {
		confOf(t, c.conf)
		if p, err := Find(""); err != nil || p != c.want {
			t.Errorf("%q: %+v, %v", c.conf, p, err)
		}
	}
	os.Remove(hostConf)
	if p, err := Find(""); err != nil || p != (Places{Dir: DefaultDir}) {
		t.Errorf("no file: %+v, %v", p, err)
	}

	// It is of the host's own state directory.
	confOf(t, "STATE_DIR=/c\nSPOOL_DIR=/d\n")
	t.Setenv("XB_STATE_DIR", "/from/env")
	if p, err := Find(""); err != nil || p != (Places{Dir: "/from/env"}) {
		t.Errorf("environment: %+v, %v", p, err)
	}
	if p, err := Find("/from/flag"); err != nil || p != (Places{Dir: "/from/flag"}) {
		t.Errorf("flag: %+v, %v", p, err)
	}
}

func TestFindRefuses(t *testing.T) {
	for _, line := range []string{"STATEDIR=/a", "SPOOL_DIR", "SPOOL_DIR=", "SPOOL_DIR=a", "SPOOL_DIR=\"/a", "SPOOL_DIR='/a'b",
		"SPOOL_DIR=/a b", "SPOOL_DIR = /a", "SPOOL_DIR=$HOME/a", "SPOOL_DIR=\"/a$b\"", "SPOOL_DIR=/a;reboot", "export SPOOL_DIR=/a",
		"SPOOL_DIR=~/a", "SPOOL_DIR=\"\"", "SPOOL_DIR=/a\\", "SPOOL_DIR=/a*",
		"KEEP=", "KEEP=often", "KEEP=24h:hourly 7d:daily", "POOL_LIMIT=0", "POOL_LIMIT=100", "POOL_LIMIT=80%", "POOL_LIMIT=/a"} {
		confOf(t, "# of this host\n"+line+"\n")
		_, err := Find("")
		testkit.WantStatus(t, line, err, exit.Config)
		if err != nil && !strings.Contains(err.Error(), hostConf+": line 2: ") {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, dir := range []string{"/no/such/directory", "/etc/passwd"} { // not mounted, or mistyped
		confOf(t, "STATE_DIR="+dir)
		_, err := Find("")
		testkit.WantStatus(t, dir, err, exit.Config)
	}
	confOf(t, "")
	os.Remove(hostConf)
	if err := os.Mkdir(hostConf, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Find("")
	testkit.WantStatus(t, "a directory", err, exit.Config)
}

// What cannot be told is not taken for the default, and nothing is waited for.
func TestFindRefusesNoFile(t *testing.T) {
	for what, arrange := range map[string]func() error{
		"a link to nowhere": func() error { return os.Symlink(hostConf+".not", hostConf) },
		"a pipe":            func() error { return unix.Mkfifo(hostConf, 0o600) },
		"a device":          func() error { return os.Symlink("/dev/full", hostConf) },
		"a large file":      func() error { return os.WriteFile(hostConf, bytes.Repeat([]byte("#\n"), 1<<20), 0o600) },
	} {
		confOf(t, "")
		os.Remove(hostConf)
		if err := arrange(); err != nil {
			t.Fatal(err)
		}
		found := make(chan error, 1)
		go func() { _, err := Find(""); found <- err }()
		select {
		case err := <-found:
			testkit.WantStatus(t, what, err, exit.Config)
		case <-time.After(testkit.Long):
			t.Errorf("%s: waits", what)
		}
	}
}
