package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/cli"
)

type result struct {
	status         int
	stdout, stderr string
}

func locateCommand(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := &cli.Env{Name: "xb-locate", Stdin: stdin, Stdout: &stdout, Stderr: &stderr}
	status := env.Run(usage, args, run)
	return result{status, stdout.String(), stderr.String()}
}

// node writes a configuration of libvirt's test driver and returns its URI.
func node(t *testing.T, content string) string {
	t.Helper()
	if _, err := exec.LookPath("virsh"); err != nil {
		t.Skip("virsh is not installed")
	}
	path := filepath.Join(t.TempDir(), "node.xml")
	if err := os.WriteFile(path, []byte("<node>"+content+"</node>"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "test://" + path
}

// guest is a domain of the test driver in a state by its number (virDomainState).
func guest(name string, uuid, state int, disks string) string {
	return fmt.Sprintf(`<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
<name>%s</name><uuid>00000000-0000-4000-8000-%012d</uuid><memory>65536</memory><os><type>hvm</type></os>
<devices>%s</devices><test:runstate>%d</test:runstate></domain>`, name, uuid, disks, state)
}

func networkDisk(target string) string {
	return "<disk type='network' device='disk'><source protocol='nbd'><host name='h'/></source>" +
		"<target dev='" + target + "' bus='xen'/></disk>"
}

func disk(kind, attribute, source, target, more string) string {
	return fmt.Sprintf("<disk type='%s' device='disk'><source %s='%s'/><target dev='%s' bus='xen'/>%s</disk>", kind,
		attribute, source, target, more)
}

func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStates(t *testing.T) {
	t.Parallel()
	img := image(t)
	for state, want := range []struct {
		status int
		name   string
	}{{0, "no state"}, {0, "running"}, {0, "idle"}, {0, "paused"}, {0, "in shutdown"},
		{1, "shut off"}, {1, "crashed"}, {0, "pmsuspended"}} {
		uri := node(t, guest("domu1", 1, state, disk("file", "file", img, "xvda", "")))
		r := locateCommand(t, nil, "-c", uri, "--toolstack", "virsh", "domu1")
		expect := result{stdout: "xvda\t" + img + "\n"}
		if want.status != 0 {
			expect = result{1, "", "xb-locate: domu1 is not active here (virsh: " + want.name + " (unknown))\n"}
		}
		if r != expect {
			t.Errorf("%s: %+v, want %+v", want.name, r, expect)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	img := map[string]string{}
	var guests string
	names := []string{"-dash", "a; b  c", "2", "--all", "$(id)", "domü", "a'b", "99",
		"00000000-0000-4000-8000-000000000001"}
	for i, name := range names {
		img[name] = image(t)
		guests += guest(strings.ReplaceAll(name, "'", "&#39;"), i+1, 1, disk("file", "file", img[name], "xvda", ""))
	}
	uri := node(t, guests)
	base := []string{"--connect=" + uri, "--toolstack=virsh"}
	for _, c := range []struct{ ask, name string }{
		{"-dash", "-dash"}, {"a; b  c", "a; b  c"}, {"--all", "--all"}, {"$(id)", "$(id)"}, {"domü", "domü"}, {"a'b", "a'b"},
		{"2", "2"},   // not the one with the id 2
		{"99", "99"}, // no id at all
		{"00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000001"}, // not the one with that UUID
		{"00000000-0000-4000-8000-000000000002", "a; b  c"},
		{"00000000000040008000000000000002", "a; b  c"},
		{"4", "--all"}, // by id
	} {
		r := locateCommand(t, nil, append(base, "--", c.ask)...)
		if r != (result{stdout: "xvda\t" + img[c.name] + "\n"}) {
			t.Errorf("%q: %+v", c.ask, r)
		}
	}
	for _, name := range []string{"nosuch", "-das", "A; B  C", "98", "*", "00000000-0000-4000-8000-000000000077"} {
		if r := locateCommand(t, nil, append(base, "--", name)...); r.status != 1 || r.stdout != "" ||
			!strings.HasSuffix(r.stderr, " is not active here (virsh: not defined)\n") {
			t.Errorf("%q: %+v", name, r)
		}
	}
	for _, name := range []string{"", " ", "domü ", " 2"} { // virsh's list pads names
		if r := locateCommand(t, nil, append(base, "--", name)...); r.status != 64 {
			t.Errorf("%q: %+v", name, r)
		}
	}
}

func TestDisks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	volume := filepath.Join(dir, "vol1")
	link := filepath.Join(dir, "link")
	img := image(t)
	if err := os.WriteFile(volume, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(img, link); err != nil {
		t.Fatal(err)
	}
	pool := "<pool type='dir'><name>pool 1</name><uuid>35bb2ad9-388a-cdfe-461a-b8907f6e53fe</uuid><target><path>" + dir +
		"</path></target><volume><name>vol1</name><capacity>1</capacity></volume></pool>"
	uri := node(t, pool+guest("mixed", 1, 1,
		disk("file", "file", img, "xvdc", "")+
			"<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"+
			disk("block", "dev", link, "xvda", "")+
			disk("file", "file", img, "xvdr", "<readonly/>")+
			"<disk type='volume' device='disk'><source pool='pool 1' volume='vol1'/><target dev='xvdb' bus='xen'/></disk>"+
			disk("file", "file", img, "xvds", "<shareable/>"))+
		guest("bad", 2, 1, disk("file", "file", img, "xvda", "")+
			networkDisk("xvdb")+
			"<disk type='volume' device='disk'><source pool='pool 1' volume='vol2'/><target dev='xvdc' bus='xen'/></disk>")+
		guest("diskless", 3, 1, "")+
		guest("gone", 4, 1, disk("block", "dev", "/dev/none/such", "xvda", "")))
	ask := func(args ...string) result {
		t.Helper()
		return locateCommand(t, nil, append([]string{"-c", uri, "--toolstack", "virsh"}, args...)...)
	}
	const shared = "xb-locate: mixed: disk xvds: left out: it is shareable\n"
	// In libvirt's order, which sorts each bus.
	lines := "xvda\t" + link + "\nxvdb\t" + volume + "\nxvdc\t" + img + "\n"
	if r := ask("mixed"); r != (result{0, lines, shared}) {
		t.Errorf("mixed: %+v", r)
	}
	if r := ask("-q", "mixed", "--exclude", "xvdc", "--exclude=xvda"); r != (result{stdout: "xvdb\t" + volume + "\n"}) {
		t.Errorf("mixed, two excluded: %+v", r)
	}
	if r := ask("mixed", "--exclude", "xvds"); r != (result{stdout: lines}) {
		t.Errorf("mixed, the shareable one excluded: %+v", r)
	}
	none := result{0, lines, shared + "xb-locate: mixed has no disk sda to exclude\n"}
	if r := ask("mixed", "--exclude", "sda"); r != none {
		t.Errorf("mixed, none excluded: %+v", r)
	}
	all := "xvda\t" + link + "\texcluded\nxvdb\t" + volume + "\t-\nxvdc\t" + img + "\t-\nxvdr\t" + img +
		"\tread-only\nxvds\t" + img + "\tshareable\nhdc\t-\tcdrom\n"
	if r := ask("--all", "mixed", "--exclude", "xvda"); r != (result{0, all, shared}) {
		t.Errorf("mixed, all: %+v", r)
	}
	if r := ask("bad"); r.status != 78 || r.stdout != "" ||
		!strings.HasPrefix(r.stderr, "xb-locate: bad has disks that cannot be copied; --exclude TARGET leaves one out\n"+
			"  xvdb: network disk nbd: not on this host\n"+
			"  xvdc: storage volume pool 1/vol2 cannot be resolved: virsh: failed to get vol 'vol2'") {
		t.Errorf("bad: %+v", r)
	}
	if r := ask("bad", "--exclude", "xvdb", "--exclude", "xvdc"); r != (result{stdout: "xvda\t" + img + "\n"}) {
		t.Errorf("bad, excluded: %+v", r)
	}
	if r := ask("bad", "--all"); r.status != 78 || strings.Count(r.stdout, "\n") != 3 ||
		!strings.Contains(r.stdout, "xvdb\t-\tnetwork disk nbd") {
		t.Errorf("bad, all: %+v", r)
	}
	if r := ask("diskless"); r != (result{0, "", "xb-locate: diskless has no disk to copy\n"}) {
		t.Errorf("diskless: %+v", r)
	}
	missing := "xb-locate: gone: disk xvda: /dev/none/such: no such file or directory\n"
	if r := ask("gone"); r != (result{0, "xvda\t/dev/none/such\n", missing}) {
		t.Errorf("gone: %+v", r)
	}
	r := ask("-v", "bad", "--exclude=xvdb", "--exclude=xvdc")
	if r.stderr != "xb-locate: virsh: bad is running (unknown)\n" {
		t.Errorf("verbose: %+v", r)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	img := image(t)
	uri := node(t, guest("domu1", 1, 3, disk("file", "file", img, "xvda", "")+
		"<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"))
	one := map[string]any{"target": "xvda", "source": img, "device": "disk"}
	for _, c := range []struct {
		args  []string
		disks []any
	}{
		{[]string{"--json"}, []any{one}},
		{[]string{"--json", "--exclude", "xvda"}, []any{}},
		{[]string{"--json", "--all"},
			[]any{one, map[string]any{"target": "hdc", "source": "", "device": "cdrom", "skip": "cdrom"}}},
	} {
		r := locateCommand(t, nil, append(c.args, "-qc", uri, "--toolstack", "virsh",
			"00000000-0000-4000-8000-000000000001")...)
		var got map[string]any
		err := json.Unmarshal([]byte(r.stdout), &got)
		want := map[string]any{"domain": "domu1", "state": "paused (unknown)", "toolstack": "virsh", "disks": c.disks}
		if err != nil || r.status != 0 || r.stderr != "" || !reflect.DeepEqual(got, want) ||
			strings.Count(r.stdout, "\n") != 1 {
			t.Errorf("%v: %+v", c.args, r)
		}
	}
	r := locateCommand(t, strings.NewReader("<domain><name>d</name></domain>"), "-q", "--json", "--xml", "-")
	if r != (result{stdout: `{"domain":"d","disks":[]}` + "\n"}) {
		t.Errorf("--xml: %+v", r)
	}
}

// What libvirt calls shut off, with its disk open by somebody.
func TestDiskOpen(t *testing.T) {
	t.Parallel()
	img := image(t)
	uri := node(t, guest("domu1", 1, 5, disk("file", "file", img, "xvda", "")))
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	holder := exec.Command("sleep", "60")
	holder.Stdin = f
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	ask := func(want result) {
		t.Helper()
		if r := locateCommand(t, nil, "-c", uri, "--toolstack", "virsh", "domu1"); r != want {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
	ask(result{75, "", fmt.Sprintf("xb-locate: domu1 is not active here (virsh: shut off (unknown)), "+
		"but its disk xvda (%s) is in use: process %d (sleep) has it open\n", img, holder.Process.Pid)})
	time.AfterFunc(1500*time.Millisecond, func() { holder.Process.Kill() })
	ask(result{1, "", "xb-locate: domu1 is not active here (virsh: shut off (unknown))\n"})
}

// An image that libvirt knows by another name than the kernel does, and that Xen's
// block script has attached to a loop device for a domain that libvirt doesn't know.
func TestLinkedImageInUse(t *testing.T) {
	t.Parallel()
	img := image(t)
	link := filepath.Join(t.TempDir(), "link.img")
	if err := os.Symlink(img, link); err != nil {
		t.Fatal(err)
	}
	uri := node(t, guest("domu1", 1, 5, disk("file", "file", link, "xvda", "")))
	out, err := exec.Command("losetup", "--find", "--show", img).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	want := result{75, "", "xb-locate: domu1 is not active here (virsh: shut off (unknown)), but its disk xvda (" + link +
		") is in use: backs " + device + "\n"}
	if r := locateCommand(t, nil, "-c", uri, "--toolstack", "virsh", "domu1"); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

func TestXMLFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "<domain type='xen'><name>d</name><devices>" +
		disk("block", "dev", "/dev/VolGroupXX/LogVolDomU1", "xvda", "") + "</devices></domain>\n"
	const line = "xvda\t/dev/VolGroupXX/LogVolDomU1\n"
	uri := "file://localhost" + strings.ReplaceAll(write("good file.xml", good), " ", "%20")
	if r := locateCommand(t, nil, "--xml", uri); r != (result{stdout: line}) {
		t.Errorf("by its URI: %+v", r)
	}
	if r := locateCommand(t, nil, "--xml", write("good-file.xml", good)); r != (result{stdout: line}) {
		t.Errorf("a document of another host: %+v", r)
	}
	if r := locateCommand(t, strings.NewReader(good), "--xml=-"); r != (result{stdout: line}) {
		t.Errorf("standard input: %+v", r)
	}
	for _, c := range []struct {
		file   string
		status int
		want   string
	}{
		{write("empty", ""), 65, "empty: no domain document in it\n"},
		{write("cut", good[:70]), 65, "cut: XML syntax error on line 1: unexpected EOF\n"},
		{write("network", strings.Replace(good, "'block'", "'network'", 1)), 78, "xvda: network disk: not on this host\n"},
		{dir + "/none", 66, "cannot read: open " + dir + "/none: no such file or directory\n"},
		{dir, 74, "cannot read: read " + dir + ": is a directory\n"},
		{"/dev/zero", 65, "/dev/zero: longer than 4 MiB: no domain document\n"},
	} {
		if r := locateCommand(t, nil, "--xml", c.file); r.status != c.status || r.stdout != "" ||
			!strings.HasSuffix(r.stderr, c.want) {
			t.Errorf("%s: %+v, want %d, %q", c.file, r, c.status, c.want)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	env := &cli.Env{Name: "xb-locate", Stdin: strings.NewReader(good), Stdout: full, Stderr: &stderr}
	if status := env.Run(usage, []string{"--xml", "-"}, run); status != 74 {
		t.Errorf("a full disk: %d, %s", status, &stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"a", "b"}, {""}, {" "}, {"a\nb"}, {"a\x1bb"}, {"--xml", "f", "domu1"}, {"--xml", "f", "--toolstack", "xl"},
		{"--toolstack", "xm", "a"}, {"--exclude", "", "a"}, {"--exclude"}, {"-c"}, {"--nosuch", "a"}, {"--json=1", "a"},
	} {
		if r := locateCommand(t, nil, args...); r.status != 64 || r.stdout != "" ||
			!strings.HasSuffix(r.stderr, "try 'xb-locate --help'\n") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := locateCommand(t, nil, "--help"); r != (result{stdout: usage}) {
		t.Errorf("--help: %+v", r)
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	uri := node(t, "")
	for _, c := range []struct{ uri, want string }{
		{uri + ".none", "failed to connect to the hypervisor"},
		{"nonsense://", "cannot tell whether d is here: virsh: failed to connect"},
		{"-x", "cannot tell whether d is here: virsh: "},
	} {
		r := locateCommand(t, nil, "-c", c.uri, "--toolstack", "virsh", "d")
		if r.status != 69 || r.stdout != "" || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: %+v", c.uri, r)
		}
	}
}
