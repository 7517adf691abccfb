package main

import (
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// What an ssh to each host does.
const farHosts = `
for host; do case $host in dom0*) break ;; esac; done
case "$*" in *" xb-locate --active "*domu1) ;; *) exit 9 ;; esac
case $host in
dom0no) echo no ;;
dom0yes) echo yes ;;
dom0busy) echo 'xb-locate: its disk is in use' >&2; exit 75 ;;
dom0mute) exit 0 ;;
dom0gone) echo 'ssh: connect to host dom0gone port 22: No route to host' >&2; exit 255 ;;
dom0other) echo 'no such command' >&2; exit 127 ;;
esac`

// TestNowhere: a domain that may be active on some host is not started on another one.
func TestNowhere(t *testing.T) {
	testkit.Programs(t, map[string]string{"ssh": farHosts})
	off := node(t, guest("domu1", 1, 5, ""))
	confs := t.TempDir()
	testkit.Write(t, confs+"/1.conf", "DOMU=domu1; DOM0S='dom0a dom0no'\n")
	ask := func(args ...string) result {
		return locateCommand(t, nil, append([]string{"--nowhere", "--words", "-c", off, "--toolstack", "virsh"}, args...)...)
	}
	for _, c := range []struct {
		dom0s  string
		status int
		want   string // of standard error
	}{
		{"dom0no", 0, ""},
		{"dom0no dom0yes dom0busy dom0gone", 81, "err ### ERROR 81: DomU domu1 runs on dom0yes\nerr   Dom0 dom0gone"},
		{"dom0no dom0busy", 75, "it cannot be told whether DomU domu1 runs there: xb-locate: its disk is in use"},
		{"dom0gone dom0busy", 69, "Dom0 dom0gone cannot be reached"},
		{"dom0gone", 69, "err ### ERROR 69: Dom0 dom0gone cannot be reached, and DomU domu1 may run there. Make sure that it is off"},
		{"dom0gone --others-are-off", 0, "warning ## Dom0 dom0gone cannot be reached: off, as whoever started this says\n"},
		{"dom0mute --others-are-off", 69, "Dom0 dom0mute: it cannot be told"},
		{"dom0other --others-are-off", 69, "no such command"},
	} {
		words := strings.Fields(c.dom0s)
		names := strings.Join(words, " ")
		args := []string{}
		if last := words[len(words)-1]; strings.HasPrefix(last, "--") {
			names, args = strings.Join(words[:len(words)-1], " "), []string{last}
		}
		r := ask(append(args, "--dom0s", names, "domu1")...)
		want := ""
		if c.status == 0 {
			want = names + "\n"
		}
		if r.status != c.status || r.stdout != want || !strings.Contains(r.stderr, c.want) || c.want == "" && r.stderr != "" {
			t.Errorf("%s: %+v, want %d, %q", c.dom0s, r, c.status, c.want)
		}
	}
	if r := ask("--confs", confs, "--local", "dom0a", "--dom0s", "dom0no", "domu1"); r != (result{stdout: "dom0no\n"}) {
		t.Errorf("with a conf file: %+v", r)
	}
	testkit.Write(t, confs+"/1.conf", "DOMU=domu2; DOM0S='dom0a dom0no'\n")
	r := ask("--confs", confs, "--local", "dom0a", "domu1")
	if r.status != 0 || r.stdout != "" || !strings.Contains(r.stderr, "warning ## DomU domu1: no conf file in "+confs) {
		t.Errorf("without a conf file: %+v", r)
	}
	r = locateCommand(t, nil, "--nowhere", "-c", node(t, guest("domu1", 1, 1, "")), "--toolstack", "virsh", "domu1")
	if want := (result{81, "", "xb-locate: DomU domu1 runs on this Dom0\n"}); r != want {
		t.Errorf("here: %+v, want %+v", r, want)
	}
	for args, status := range map[string]int{"": 64, "a b": 64, "--dom0s -oProxyCommand=x domu1": 64, "--connect-timeout 0 domu1": 64,
		"-- -domu1": 64, "--all domu1": 64} {
		if r := ask(strings.Fields(args)...); r.status != status || r.stdout != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
