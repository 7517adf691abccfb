package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
)

// ask asks one toolstack once.
func ask(toolstack Toolstack, name string) (Answer, error) {
	listing, err := toolstack.List(context.Background())
	if err != nil {
		return Answer{}, err
	}
	return listing.Ask(context.Background(), name)
}

// replay puts testdata/replay in the place of virsh and xl, to answer with these
// texts; "@NAME" is what is captured under that name. It returns how often a
// question was asked.
func replay(t *testing.T, answers map[string]string) (asked func(question string) int) {
	t.Helper()
	dir := t.TempDir()
	for question, text := range answers {
		if name, ok := strings.CutPrefix(text, "@"); ok {
			text = captured(t, name)
		}
		mode := os.FileMode(0o600)
		if strings.HasSuffix(question, ".sh") {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(dir, question), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	program, err := filepath.Abs("testdata/replay")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"virsh", "xl"} {
		if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("REPLAY", dir)
	return func(question string) int {
		text, _ := os.ReadFile(filepath.Join(dir, question+".asked"))
		return strings.Count(string(text), "\n")
	}
}

const (
	domu1UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
	virshList = "00000000-0000-0000-0000-000000000000 Domain-0                      \n" +
		domu1UUID + " domu1                         \n\n"
	virshEmpty = "00000000-0000-0000-0000-000000000000 Domain-0                      \n\n"
	xlHeader   = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n" +
		"Domain-0                                     0  2048     2     r-----    1117.8\n"
)

// virshSays and xlSays are the answers of hosts that were captured.
func virshSays(state, document string) map[string]string {
	return map[string]string{"virsh-list": virshList, "virsh-domstate": state, "virsh-dumpxml": document,
		"virsh-dominfo": "@shutoff-dominfo.out"}
}

func xlSays(list, long string) map[string]string {
	return map[string]string{"xl-list": list, "xl-list-l": long}
}

func both(a, b map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

var (
	xlNone      = xlSays("@shutoff-after-destroy-xl-list.out", "[]")
	virshNone   = map[string]string{"virsh-list": virshEmpty}
	virshBroken = map[string]string{"virsh-error": "@nolibvirtd.err"}
	xlBroken    = map[string]string{"xl-error": "xencall: error: Could not obtain handle on privileged command interface\n"}
	shutOff     = virshSays("@shutoff-after-destroy-domstate-reason.out", "@shutoff-dumpxml.out")
	managed     = map[string]string{"virsh-dominfo": "@msave-dominfo.out"}
	crashed     = virshSays("@crashed-domstate-reason.out", "@crashed-dumpxml.out")
)

func TestLocate(t *testing.T) {
	running := virshSays("@running-domstate-reason.out", "@running-dumpxml.out")
	for name, c := range map[string]struct {
		answers map[string]string
		makers  string // logs of the xl processes that run, separated by blanks
		inUse   string
		useErr  error
		ask     string
		status  int
		want    string // toolstack and state, or a part of the message
		looks   int    // how often virsh or xl was asked for its list
	}{
		"running": {answers: both(running, xlNone), want: "virsh running (booted)", looks: 1},
		"resumed": {answers: both(virshSays("@resumed-domstate-reason.out", "@running-dumpxml.out"),
			xlNone), want: "virsh running (unpaused)", looks: 1},
		"paused": {answers: both(virshSays("@paused-domstate-reason.out", "@paused-dumpxml.out"), xlNone),
			want: "virsh paused (user)", looks: 1},
		"started by xl": {answers: both(shutOff, xlSays("@xlcreate-xl-list.out", "@xlcreate-xl-list-l.out")),
			want: "xl running", looks: 1},
		"xl, blocked": {answers: both(virshNone, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			want: "xl running", looks: 1},
		"xl, paused": {answers: both(virshNone, xlSays("@paused-xl-list.out", "@running-xl-list-l-all.out")),
			want: "xl paused", looks: 1},
		"xl, no libvirtd": {answers: both(virshBroken,
			xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")), want: "xl running", looks: 1},
		"libvirt, xl fails": {answers: both(running, xlBroken), want: "virsh running (booted)", looks: 1},
		"by uuid": {answers: both(running, xlNone), ask: strings.ToUpper(domu1UUID),
			want: "virsh running (booted)", looks: 1},
		"by id": {answers: both(running, xlNone), ask: "1", want: "virsh running (booted)", looks: 1},
		"xl, by uuid": {answers: both(virshNone, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			ask: domu1UUID, want: "xl running", looks: 1},
		"xl, by id": {answers: both(map[string]string{"virsh-error": "@running-missing-dumpxml.err"},
			xlSays("@xlcreate-xl-list.out", "@xlcreate-xl-list-l.out")), ask: "6", want: "xl running", looks: 1},
		"not defined": {answers: both(virshNone, xlNone), status: exit.No,
			want: "domu1 is not active here (virsh: not defined, xl: not running)", looks: 1},
		"another id": {answers: both(running, xlNone), ask: "17", status: exit.No,
			want: "17 is not active here", looks: 1},
		"shut off": {answers: both(shutOff, xlNone), status: exit.No,
			want: "virsh: shut off (destroyed), xl: not running", looks: 2},
		"saved": {answers: both(virshSays("@msave-domstate.out", "@shutoff-dumpxml.out"),
			both(xlNone, managed)), status: exit.No, want: "(virsh: shut off (saved), xl: not running, its memory is saved)",
			looks: 2},
		"saved, libvirtd restarted": {answers: both(virshSays("shut off (unknown)\n", "@shutoff-dumpxml.out"),
			both(xlNone, managed)), status: exit.No, want: "(virsh: shut off (unknown), xl: not running, its memory is saved)",
			looks: 2},
		"saved to a file": {answers: both(virshSays("@msave-domstate.out", "@shutoff-dumpxml.out"), xlNone),
			status: exit.No, want: "(virsh: shut off (saved), xl: not running)", looks: 2},
		"gone before dominfo": {answers: both(both(shutOff, xlNone),
			map[string]string{"virsh-dominfo.sh": "#!/bin/sh\necho \"error: failed to get domain 'domu1'\" >&2; exit 1\n"}),
			status: exit.No, want: "virsh: shut off (destroyed)", looks: 6},
		"saved or not": {answers: both(both(shutOff, xlNone),
			map[string]string{"virsh-dominfo": "Managed save:   unknown\n"}), status: exit.Unavailable,
			want: `tells Managed save: "unknown"`, looks: 1},
		"dominfo fails": {answers: both(both(shutOff, xlNone),
			map[string]string{"virsh-dominfo.sh": "#!/bin/sh\ncat >&2; exit 1\n"}), status: exit.Unavailable,
			want: "cannot tell whether domu1 is here: virsh: exit status 1", looks: 1},
		"crashed": {answers: both(crashed, xlSays("@crashed-xl-list.out", "@running-xl-list-l-all.out")),
			status: exit.No, want: "virsh: shut off (crashed), xl: crashed", looks: 6},
		"crashed, disk open": {answers: both(crashed, xlSays("@crashed-xl-list.out", "@running-xl-list-l-all.out")),
			inUse: "xvda (/x) is in use: mounted on /srv", status: exit.Busy,
			want: "(virsh: shut off (crashed), xl: crashed), but its disk xvda (/x) is in use: mounted on /srv", looks: 6},
		"cannot tell who uses it": {answers: both(shutOff, xlNone),
			useErr: exit.Fail(exit.Unavailable, "cannot tell who uses /x"), status: exit.Unavailable,
			want: "cannot tell who uses /x", looks: 2},
		"being saved": {answers: both(shutOff, xlSays("@saving-xl-list.out", "@running-xl-list-l-all.out")),
			want: "xl paused (being saved or migrated)", looks: 1},
		"shutting down": {answers: both(virshSays("@shutoff-after-shutdown-domstate-reason.out",
			"@running-dumpxml.out"), xlSays("@xlcreate-gone.out", "@xlcreate-xl-list-l.out")), status: exit.No,
			want: "xl: shut down, but still there", looks: 6},
		"dying": {answers: both(virshNone,
			xlSays(xlHeader+"domu1  6   256     1     -----d      15.4\n", "[]")), status: exit.No, want: "xl: dying", looks: 6},
		"shut off, disk open": {answers: both(shutOff, xlNone), inUse: "xvda (/x) is in use: mounted on /srv",
			status: exit.Busy, want: "but its disk xvda (/x) is in use: mounted on /srv", looks: 6},
		"virsh says nothing": {answers: both(map[string]string{"virsh-list": ""}, xlNone), status: exit.Unavailable,
			want: "virsh list prints nothing", looks: 1},
		"no libvirtd": {answers: both(virshBroken, xlNone), status: exit.Unavailable,
			want:  "cannot tell whether domu1 is here: virsh: failed to connect to the hypervisor; Failed to connect socket",
			looks: 1},
		"xl fails": {answers: both(shutOff, xlBroken), status: exit.Unavailable,
			want:  "xl: xencall: error: Could not obtain handle on privileged command interface (virsh: shut off (destroyed))",
			looks: 1},
		"both fail": {answers: both(virshBroken, xlBroken), status: exit.Unavailable,
			want: "libvirt-sock': No such file or directory; xl: xencall: error", looks: 1},
		"libvirtd dies": {answers: both(map[string]string{"virsh-list": virshList,
			"virsh-error": "@nolibvirtd.err"}, xlNone), status: exit.Unavailable, want: "failed to connect", looks: 1},
		"undefined meanwhile": {answers: both(map[string]string{"virsh-list": virshList,
			"virsh-error": "error: failed to get domain 'domu1'\n"}, xlNone), status: exit.No, want: "virsh: not defined",
			looks: 6},
		"no document": {answers: both(virshSays("running\n", "what?"), xlNone), status: exit.Unavailable,
			want: "virsh dumpxml: text outside", looks: 1},
		"state in another tongue": {answers: both(virshSays("実行中\n", "@running-dumpxml.out"), xlNone),
			status: exit.Unavailable, want: "virsh domstate prints", looks: 1},
		"xl speaks sexp": {answers: both(virshNone, xlSays("@running-xl-list.out", "(domain (domid 1))")),
			status: exit.Unavailable, want: "no JSON list of domains", looks: 1},
		"running without id": {answers: both(virshSays("running (booted)\n", "@shutoff-dumpxml.out"), xlNone),
			status: exit.No, want: "running (booted)", looks: 6},
		"no disks yet": {answers: both(shutOff, xlSays("@startpaused-xl-list.out", "[]")),
			status: exit.Unavailable, want: "xl lists domu1 without its disks", looks: 6},
		"arrives": {answers: both(shutOff,
			xlSays(xlHeader+"domu1--incoming  6   256     1     --p---      0.0\n", "[]")),
			inUse: "xvda (/x) is in use: mounted on /srv", status: exit.No,
			want: "one half of a migration (virsh: shut off (destroyed), xl: known as domu1--incoming)", looks: 1},
		"has left": {answers: both(virshNone,
			xlSays(xlHeader+"domu1--migratedaway  6   256     1     ---s--      9.0\n", "[]")), status: exit.No,
			want: "known as domu1--migratedaway", looks: 1},
		"half by its name": {answers: both(virshNone,
			xlSays(xlHeader+"domu1--incoming  6   256     1     -b----      9.0\n",
				`[{"domid": 6, "config": {"c_info": {"name": "domu1--incoming"}}}]`)), ask: "domu1--incoming", status: exit.No,
			want: "one half of a migration", looks: 1},
		"arrives in libvirt": {answers: both(virshSays("paused (migrating)\n", "@paused-dumpxml.out"), xlNone),
			status: exit.No, want: "one half of a migration", looks: 1},
		"other domain's prefix": {answers: both(virshNone, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")),
			ask: "domu", status: exit.No, want: "xl: not running", looks: 1},
		"Domain-0": {answers: both(virshSays("running (unknown)\n", "@running-dumpxml-dom0.out"), xlNone),
			ask: "Domain-0", status: exit.No, want: "virsh: Domain-0, the host itself, xl: Domain-0, the host itself", looks: 2},
		"half made": {answers: both(virshNone,
			xlSays(xlHeader+"(null)     6   256     1     --p---      0.0\n", "[]")), status: exit.No, want: "xl: not running",
			looks: 6},
		"reboots under libvirt": {answers: both(both(crashed, xlNone),
			map[string]string{"virsh-domstate.3": "running (booted)\n"}), want: "virsh running (booted)", looks: 3},
		"xl comes back": {makers: "xl-domu1.log",
			answers: both(both(virshNone, xlNone),
				map[string]string{"xl-list.2": "@running-xl-list.out", "xl-list-l.2": "@running-xl-list-l-all.out"}),
			want: "xl running", looks: 2},
		"xl is at work on it": {makers: "pts",
			answers: both(both(virshNone, xlNone),
				map[string]string{"xl-list.2": "@running-xl-list.out", "xl-list-l.2": "@running-xl-list-l-all.out"}),
			want: "xl running", looks: 2},
		"another xl is at work": {makers: "xl-other.log pts", answers: both(virshNone, xlNone), status: exit.No,
			want: "xl: not running", looks: 2},
		"others are guarded": {makers: "xl-other.log xldevd.log", answers: both(virshNone, xlNone), status: exit.No,
			want: "xl: not running", looks: 1},
		"a zombie is there": {answers: both(virshNone, xlSays(xlHeader+zombie, "[]")), status: exit.No,
			want: "xl: not running", looks: 1},
		"a zombie of another": {answers: both(both(shutOff, xlSays(xlHeader+zombie, "[]")),
			map[string]string{"xl-list-v": zombieOf("11111111-2222-4333-8444-555555555555")}), status: exit.No,
			want: "shut off (destroyed), xl: not running", looks: 2},
		"half destroyed": {answers: both(both(shutOff, xlSays(xlHeader+zombie, "[]")),
			map[string]string{"xl-list-v": zombieOf(domu1UUID)}), status: exit.No,
			want: "shut off (destroyed), xl: not running", looks: 6},
		"half destroyed, which one": {answers: both(shutOff, xlSays(xlHeader+zombie, "[]")), status: exit.No,
			want: "shut off (destroyed), xl: not running", looks: 6},
		"half made, then complete": {answers: both(both(virshNone,
			xlSays(xlHeader+"(null)     6   256     1     --p---      0.0\n", "[]")),
			map[string]string{"xl-list.6": "@running-xl-list.out", "xl-list-l.6": "@running-xl-list-l-all.out"}),
			want: "xl running", looks: 6},
		"disk closed at last": {answers: both(shutOff, xlNone), inUse: "xvda is in use until 3", status: exit.No,
			want: "shut off (destroyed)", looks: 3},
		"QEMU's shut off": {answers: both(map[string]string{"virsh-list": "b9fd7d9c-5e0d-4a35-9b2c-0d5f7a3c11aa qdom1\n",
			"virsh-domstate": "shut off (destroyed)\n", "virsh-dumpxml": "@qemu-dumpxml.out",
			"virsh-dominfo": "@shutoff-dominfo.out"}, xlNone), ask: "qdom1", status: exit.No, want: "shut off (destroyed)",
			looks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked := replay(t, c.answers)
			toolstacks, err := Installed("auto", "xen:///system", "")
			if err != nil || len(toolstacks) != 2 {
				t.Fatalf("%v, %v", toolstacks, err)
			}
			toolstacks[1].(*xl).proc = makers(t, strings.Fields(c.makers)...)
			if c.ask == "" {
				c.ask = "domu1"
			}
			looks := 0
			l := Locator{Toolstacks: toolstacks, Pause: time.Millisecond, InUse: func(*Domain) (string, error) {
				if disk, limited := strings.CutSuffix(c.inUse, " until 3"); limited {
					if looks++; looks < 3 {
						return disk, nil
					}
					return "", nil
				}
				return c.inUse, c.useErr
			}}
			a, err := l.Locate(context.Background(), c.ask)
			got := a.Toolstack + " " + a.State
			if err != nil {
				got = err.Error()
			}
			if exit.StatusOf(err) != c.status || !strings.Contains(got, c.want) {
				t.Errorf("status %d, %q; want %d, %q", exit.StatusOf(err), got, c.status, c.want)
			}
			if looks := max(asked("virsh-list"), asked("xl-list")); looks != c.looks {
				t.Errorf("%d looks, want %d", looks, c.looks)
			}
			if err == nil && (a.Domain.Name != "domu1" || len(a.Domain.Disks) != 1 ||
				a.Domain.Disks[0].Source != "/dev/VolGroupXX/LogVolDomU1") {
				t.Errorf("the domain is %+v", a.Domain)
			}
		})
	}
}

const zombie = "(null)                                       3     0     1     --ps-d      15.4\n"

// zombieOf is what `xl list -v` prints where there is one.
func zombieOf(uuid string) string {
	return "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label\n" +
		"Domain-0                                     0  2048     2     r-----     509.9 00000000-0000-0000-0000-000000000000        -                -\n" +
		strings.TrimSuffix(zombie, "\n") + " " + uuid + "        0                -\n"
}

// makers makes a /proc in which xl runs once for each of the logs.
func makers(t *testing.T, logs ...string) string {
	h := &host{t, t.TempDir()}
	for i, log := range logs {
		h.file(fmt.Sprintf("%d/comm", i+42), "xl\n")
		h.link(fmt.Sprintf("%d/fd/1", i+42), "/var/log/xen/"+log)
	}
	return h.root
}

// Many domains are asked for in as many looks as one of them needs.
func TestLocateAll(t *testing.T) {
	asked := replay(t, both(shutOff, xlSays("@running-xl-list.out", "@running-xl-list-l-all.out")))
	toolstacks, err := Installed("auto", "", "")
	if err != nil {
		t.Fatal(err)
	}
	toolstacks[1].(*xl).proc = makers(t)
	l := Locator{Toolstacks: toolstacks, Pause: time.Millisecond, InUse: func(*Domain) (string, error) { return "", nil }}
	names := []string{"none", "domu1"}
	for i := range 98 {
		names = append(names, fmt.Sprintf("none%d", i))
	}
	for i, found := range l.locateAll(context.Background(), names) {
		if want := map[bool]int{true: exit.OK, false: exit.No}[i == 1]; exit.StatusOf(found.Err) != want {
			t.Errorf("%s: %v", names[i], found.Err)
		}
	}
	for question, want := range map[string]int{"virsh-list": 1, "xl-list": 1, "xl-list-l": 1} {
		if n := asked(question); n != want {
			t.Errorf("%s was asked %d times for 100 domains, want %d", question, n, want)
		}
	}
}

// An xl that guards a domain has the domain's log for its standard output.
func TestXLGuard(t *testing.T) {
	replay(t, xlNone)
	h := &host{t, t.TempDir()}
	h.link("42/fd/1", "/var/log/xen/xl-domu1.log")
	h.link("43/fd/1", "/var/log/xen/xl-domu10.log")
	h.link("44/fd/1", "/var/log/xen/xl-moved--incoming.log")
	h.link("45/fd/1", "/var/log/xen/xl-editor.log")
	for pid, comm := range map[string]string{"42": "xl", "43": "xl", "44": "xl", "45": "vi"} {
		h.file(pid+"/comm", comm+"\n")
	}
	x := &xl{proc: h.root, timeout: patience}
	for name, want := range map[string]bool{"domu1": true, "domu10": true, "moved": true, "domu": false, "10": false,
		"editor": false} {
		if a, err := ask(x, name); err != nil || a.Restless != want || a.Active {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// A toolstack that cannot be run, hangs or fails gives no answer.
func TestNoAnswer(t *testing.T) {
	for script, c := range map[string]struct {
		timeout time.Duration
		want    string
	}{
		"sleep 47":               {100 * time.Millisecond, "xl did not answer within 100ms"},
		"echo words >&2; exit 1": {patience, "xl: words"},
	} {
		replay(t, map[string]string{"xl-list.sh": "#!/bin/sh\n" + script + "\n"})
		x := &xl{proc: t.TempDir(), timeout: c.timeout}
		if _, err := x.List(context.Background()); exit.StatusOf(err) != exit.Unavailable || err.Error() != c.want {
			t.Errorf("%s: status %d, %v", script, exit.StatusOf(err), err)
		}
	}
}

func TestInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Installed("auto", "", ""); exit.StatusOf(err) != exit.Unavailable {
		t.Errorf("no toolstack: %v", err)
	}
	toolstacks, err := Installed("virsh", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := toolstacks[0].List(context.Background()); exit.StatusOf(err) != exit.Unavailable ||
		!errors.Is(err, exec.ErrNotFound) {
		t.Errorf("no virsh: %v", err)
	}
}

// xendomains leaves a file for each domain when the host is shut down.
func TestXLSaved(t *testing.T) {
	replay(t, xlNone)
	h := &host{t, t.TempDir()}
	x := &xl{proc: h.root, etc: h.root, timeout: patience}
	saved := func(name string) string {
		t.Helper()
		a, err := ask(x, name)
		if err != nil || a.Active {
			t.Fatalf("%+v, %v", a, err)
		}
		return a.Saved
	}
	h.file("save/domu1", "memory")
	h.file("save/dir/x", "memory")
	if words := saved("domu1"); words != "" {
		t.Errorf("before there is a file: %s", words)
	}
	h.file("default/xendomains", "# XENDOMAINS_SAVE=/none\nXENDOMAINS_SAVE=\"/none\"\nXENDOMAINS_SAVE="+h.root+
		"/save # ours\n")
	want := "in " + h.root + "/save/domu1: xl restore it and shut it down, or give the memory up by removing the file"
	if words := saved("domu1"); words != want {
		t.Errorf("its memory is saved %q, want %q", words, want)
	}
	for _, name := range []string{"domu", "dir", "dir/x", "../save/domu1"} {
		if words := saved(name); words != "" {
			t.Errorf("%s: its memory is saved %s", name, words)
		}
	}
}
