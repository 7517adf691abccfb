package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/testkit"
)

// The tests run this test program as xb-snap, on file systems of their own.
// scripts/lab/checks has those on logical volumes.
func TestMain(m *testing.M) {
	if os.Getenv("XB_SNAP_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

type result struct {
	status         int
	stdout, stderr string
}

// host is a state directory.
type host struct {
	*testing.T
	state string
	env   []string // settings of its own
}

func newHost(t *testing.T) host { return host{T: t, state: filepath.Join(t.TempDir(), "state")} }

func (h host) command(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = slices.Concat(os.Environ(), []string{"XB_SNAP_TEST=1", "XB_STATE_DIR=" + h.state}, h.env)
	return c
}

func (h host) run(args ...string) result {
	h.Helper()
	c := h.command(args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	c.Run()
	return result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok runs it, demands success and silence, and returns the lines of its answer.
func (h host) ok(args ...string) []string {
	h.Helper()
	r := h.run(args...)
	if r.status != 0 || r.stderr != "" {
		h.Fatalf("xb-snap %s: status %d: %s", strings.Join(args, " "), r.status, r.stderr)
	}
	return strings.Fields(r.stdout)
}

// fails demands a status and a word in the message.
func (h host) fails(status int, word string, args ...string) {
	h.Helper()
	r := h.run(args...)
	said := strings.HasPrefix(r.stderr, "xb-snap: ") && strings.Contains(r.stderr, word)
	if r.status != status || !said || r.stdout != "" {
		h.Errorf("xb-snap %s: want status %d and %q: %+v", strings.Join(args, " "), status, word, r)
	}
}

// files returns all files and records, to see whether anything is left.
func (h host) files(dirs ...string) string {
	h.Helper()
	var all []string
	for _, dir := range append(dirs, filepath.Join(h.state, "snapshots")) {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			h.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
	}
	return strings.Join(all, " ")
}

func TestFiles(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			h, dir := newHost(t), testkit.Mount(t, mkfs...)
			a, b := filepath.Join(dir, "a disk.img"), filepath.Join(dir, strings.Repeat("b", 255))
			link := filepath.Join(h.T.TempDir(), "link")
			testkit.Write(t, a, strings.Repeat("a", 100_000))
			testkit.Write(t, b, "b")
			if err := os.Symlink(b, link); err != nil {
				t.Fatal(err)
			}
			before := h.files(dir)

			r := h.run("create", "--owner", fmt.Sprint(os.Getpid()), "--size=1G", a, link)
			snaps := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
			if r.status != 0 || r.stderr != "" || len(snaps) != 2 {
				t.Fatalf("create: %+v", r)
			}
			for i, pattern := range []string{`^\.a disk\.img\.xb-snap-[a-z2-7]{8}$`, `^\.b{237}\.xb-snap-[a-z2-7]{8}$`} {
				if filepath.Dir(snaps[i]) != dir || !regexp.MustCompile(pattern).MatchString(filepath.Base(snaps[i])) {
					t.Errorf("snapshot %d is called %s", i, snaps[i])
				}
			}
			testkit.Write(t, a, "changed")
			testkit.Write(t, b, "changed")
			if testkit.Read(t, snaps[0]) != strings.Repeat("a", 100_000) || testkit.Read(t, snaps[1]) != "b" {
				t.Error("the snapshots changed with their origins")
			}
			if info, err := os.Stat(snaps[0]); err != nil || info.Mode() != 0o400 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if got := h.run("check", snaps[0]); got.status != 0 || got.stdout != "file of 97.7 KiB\n" {
				t.Errorf("check: %+v", got)
			}
			var listed []snapshot.Snapshot
			if err := json.Unmarshal([]byte(h.run("list", "--json").stdout), &listed); err != nil || len(listed) != 2 ||
				listed[0].Path != snaps[0] || listed[0].Origin != a || listed[1].Origin != b || listed[0].Kind != "file" ||
				listed[0].Size != 100_000 || !listed[0].Valid || listed[0].Dead {
				t.Errorf("list --json: %+v, %v", listed, err)
			}
			want := fmt.Sprintf("%s\t%s\tfile\t1 B\t-\tprocess %d\n", snaps[1], b, os.Getpid())
			if got := h.run("list").stdout; !strings.HasSuffix(got, want) {
				t.Errorf("list: %q, want %q", got, want)
			}
			if pruned := h.ok("prune"); len(pruned) != 0 {
				t.Errorf("prune removed %s", pruned)
			}
			h.fails(64, "same disk", "create", b, link)
			h.ok("remove", snaps[0], snaps[1])
			if after := h.files(dir); after != before {
				t.Errorf("left: %s", after)
			}
			h.fails(66, "no such snapshot", "remove", snaps[0])
			h.fails(66, "no such snapshot", "check", snaps[0])
		})
	}
}

func TestFileURIs(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	testkit.Write(t, filepath.Join(dir, "a disk.img"), "a")
	before := h.files(dir)
	uri := func(path string) string { return "file://" + strings.ReplaceAll(path, " ", "%20") }
	r := h.run("create", "--state-dir", uri(h.state), uri(filepath.Join(dir, "a disk.img")))
	snap := strings.TrimSuffix(r.stdout, "\n")
	if r.status != 0 || r.stderr != "" || testkit.Read(t, snap) != "a" {
		t.Fatalf("%+v", r)
	}
	if r := h.run("check", uri(snap)); r.status != 0 {
		t.Errorf("check: %+v", r)
	}
	if r := h.run("remove", uri(snap)); r.status != 0 || h.files(dir) != before {
		t.Errorf("remove: %+v, left is %s", r, h.files(dir))
	}
	r = h.run("create", "--uri", uri(filepath.Join(dir, "a disk.img")))
	if want := uri(dir) + "/.a%20disk.img.xb-snap-"; r.status != 0 || !strings.HasPrefix(r.stdout, want) {
		t.Errorf("%+v, want %s", r, want)
	}
	r = h.run("remove", "--words", strings.TrimSpace(r.stdout), filepath.Join(dir, "a disk.img"))
	if r.status != 79 || !strings.HasPrefix(r.stderr, "err xb-snap: ") || h.files(dir) != before {
		t.Errorf("remove: %+v, left is %s", r, h.files(dir))
	}
	h.fails(64, "dom0b", "create", "file://dom0b/a")
	h.fails(64, "dom0b", "changes", "--since", "file://dom0b/a", "b")
}

// TestReflinkCauses: not every refusal is the fault of the file system.
func TestReflinkCauses(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	image, bound := filepath.Join(dir, "image"), filepath.Join(t.TempDir(), "bound")
	testkit.Write(t, image, strings.Repeat("image", 100_000))
	testkit.Write(t, bound, "")
	if out, err := exec.Command("mount", "--bind", image, bound).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", bound).Run() })
	h.fails(73, "bind mount", "create", bound)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("prlimit", "--fsize=65536", self, "create", image)
	c.Env = h.command().Env
	var words strings.Builder
	c.Stderr = &words
	c.Run()
	said := words.String()
	if c.ProcessState.ExitCode() != 73 || !strings.Contains(said, "its limit is 65536") ||
		strings.Contains(said, "reflink=1") {
		t.Errorf("%v: %s", c.ProcessState, said)
	}
}

func TestAllOrNothing(t *testing.T) {
	h, dir, plain := newHost(t), testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1"), testkit.Mount(t, "mkfs.ext4", "-q")
	a, b := filepath.Join(dir, "a"), filepath.Join(plain, "b")
	testkit.Write(t, a, "a")
	testkit.Write(t, b, "b")
	before := h.files(dir, plain)
	h.fails(73, "reflink", "create", a, b)
	h.fails(73, "reflink", "create", "--dry-run", a, b)
	if paths := h.ok("create", "--dry-run", a); len(paths) != 0 {
		t.Errorf("a dry run printed %s", paths)
	}
	h.fails(66, "no such", "create", a, filepath.Join(dir, "nothing"))
	h.fails(66, "neither", "create", a, dir)
	odd := filepath.Join(dir, "two\nlines")
	testkit.Write(t, odd, "x")
	h.fails(78, "such a name", "create", a, odd)
	os.Remove(odd)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := h.command("create", a)
	c.Stdout = full
	if c.Run(); c.ProcessState.ExitCode() != 74 {
		t.Errorf("stdout full: %v", c.ProcessState)
	}
	// Somebody else's file of the name is not ours to remove: there is none yet,
	// so the record is the step that fails.
	if err := os.Remove(filepath.Join(h.state, "snapshots")); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, filepath.Join(h.state, "snapshots"), "")
	h.fails(73, "state directory", "create", a)
	os.Remove(filepath.Join(h.state, "snapshots"))
	if after := h.files(dir, plain); after != before {
		t.Errorf("left: %s", after)
	}
}

func TestPrune(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.btrfs", "-q")
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "a")
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	theirs := h.ok("create", "--owner", fmt.Sprint(sleeper.Process.Pid), a)[0]
	gone := h.ok("create", "--owner", fmt.Sprint(sleeper.Process.Pid), a)[0]
	mine := h.ok("create", a)[0] // its parent: this test
	kept := h.ok("create", "--owner", "none", a)[0]
	if pruned := h.ok("prune"); len(pruned) != 0 {
		t.Errorf("pruned %s, whose owner lives", pruned)
	}
	sleeper.Process.Kill()
	if err := unix.Waitid(unix.P_PID, sleeper.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil { // a zombie
		t.Fatal(err)
	}
	os.Remove(gone)
	if pruned := h.ok("prune"); len(pruned) != 1 || pruned[0] != theirs {
		t.Errorf("pruned %s, want %s", pruned, theirs)
	}
	sleeper.Wait()
	if pruned := h.ok("prune"); len(pruned) != 0 {
		t.Errorf("pruned %s", pruned)
	}
	if got := strings.Count(h.files(), ".json"); got != 2 {
		t.Errorf("%d records, want 2", got)
	}
	h.fails(64, "not running", "create", "--owner", fmt.Sprint(sleeper.Process.Pid), a)

	// Another boot: the number may be somebody else's now.
	for _, record := range strings.Fields(h.files()) {
		path := filepath.Join(h.state, "snapshots", record)
		text := testkit.Read(t, path)
		testkit.Write(t, path, regexp.MustCompile(`\.[0-9a-f]{8}"`).ReplaceAllString(text, `.00000000"`))
	}
	if pruned := h.ok("prune"); len(pruned) != 1 || pruned[0] != mine {
		t.Errorf("pruned %s after a reboot, want %s", pruned, mine)
	}
	h.ok("remove", kept)
}

// A file system that is not mounted hides its snapshots: they are not gone.
func TestNotMounted(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.btrfs", "-q")
	a := filepath.Join(dir, "a")
	testkit.Write(t, a, "a")
	snap := h.ok("create", "--owner", "none", a)[0]
	record := filepath.Join(h.state, "snapshots", h.files())
	testkit.Write(t, record, strings.Replace(testkit.Read(t, record), `"none"`, `"1.1.00000000"`, 1))
	away := dir + ".away"
	if err := os.Mkdir(away, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--move", dir, away).CombinedOutput(); err != nil {
		t.Skipf("cannot move a mount: %s", out)
	}
	h.fails(74, "mount their file system", "prune")
	if out, err := exec.Command("mount", "--move", away, dir).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if pruned := h.ok("prune"); len(pruned) != 1 || pruned[0] != snap {
		t.Errorf("pruned %s, want %s", pruned, snap)
	}
}

func TestRemovesOnlyItsOwn(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	a, lookalike := filepath.Join(dir, "a"), filepath.Join(dir, ".a.xb-snap-abcdefgh")
	testkit.Write(t, a, "a")
	testkit.Write(t, lookalike, "precious")
	h.fails(79, "not made by xb-snap", "remove", a)
	h.fails(79, "not made by xb-snap", "remove", lookalike)
	h.fails(64, "not a snapshot", "check", lookalike)
	snap := h.ok("create", a)[0]
	// A record that names another file, and one that can't be read, do no harm.
	testkit.Write(t, filepath.Join(h.state, "snapshots", "aaaaaaaa-0.json"), `{"snapshot":"`+a+`","owner":"1.1.00000000"}`)
	testkit.Write(t, filepath.Join(h.state, "snapshots", "aaaaaaaa-1.json"), `{"snapsh`)
	if r := h.run("prune"); r.status != 0 || r.stdout != "" || strings.Count(r.stderr, "aaaaaaaa-") != 2 {
		t.Errorf("prune: %+v", r)
	}
	if r := h.run("list"); r.status != 0 || !strings.HasPrefix(r.stdout, snap+"\t") {
		t.Errorf("list: %+v", r)
	}
	h.ok("remove", snap)
	if testkit.Read(t, a) != "a" || testkit.Read(t, lookalike) != "precious" {
		t.Error("harm done")
	}
}

func TestUsage(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{
		{}, {"snap"}, {"--nonsense"},
		{"create"}, {"create", "--size", "0", "/dev/null"}, {"create", "--size", "x", "/dev/null"},
		{"create", "--owner", "0", "/dev/null"}, {"create", "--owner", "nobody", "/dev/null"},
		{"create", "--since", "a", "b"},
		{"remove"}, {"list", "x"}, {"prune", "x"}, {"check"}, {"check", "a", "b"},
		{"guard", "x"}, {"guard", "--owner", "none"}, {"guard", "--owner", "4194999"},
		{"changes", "a"}, {"changes", "--since", "a"}, {"changes", "--since", "a", "b", "c"},
		{"changes", "--since", "/etc/passwd", "/etc/passwd"},
	} {
		h.fails(64, "try 'xb-snap --help'", args...)
	}
	for _, args := range [][]string{{"--help"}, {"create", "-h"}, {"-q", "list", "--help"}} {
		if r := h.run(args...); r.status != 0 || r.stdout != usage || r.stderr != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	h.fails(66, "no such", "changes", "--since", "/dev/nothing", "/dev/nothing")
	h.fails(66, "no such", "remove", "/dev/nothing/there")
	h.fails(66, "no such", "remove", "/nothing/there")
}

// Where the guests' writes would find no room, there is no snapshot.
func TestRoomToCreate(t *testing.T) {
	h, dir := newHost(t), testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	free := func() int64 {
		t.Helper()
		room, err := blockdev.FileRoom(dir)
		if err != nil {
			t.Fatal(err)
		}
		return room.Margin()
	}
	image := func(name string, size int64) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if out, err := exec.Command("fallocate", "-l", fmt.Sprint(size), path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return path
	}
	// Two images take a quarter each of what is free, and a part and a half stay free.
	part := free() / 4
	a, b := image("a", part), image("b", part)
	sparse := filepath.Join(dir, "sparse")
	testkit.Write(t, sparse, "data")
	if err := os.Truncate(sparse, 1<<40); err != nil {
		t.Fatal(err)
	}
	const words = " free: 256.0 MiB are for the guests"
	image("c", free()-part-part/2)
	h.fails(73, words, "create", a, b)
	h.fails(73, "make room", "create", "--size", fmt.Sprint(part), a, b)
	h.ok("remove", h.ok("create", "--owner", "none", "--size", fmt.Sprint(part/2), a, b)[0])
	h.ok("remove", h.ok("list")[0])

	first := h.ok("create", "--owner", "none", a, sparse)
	h.fails(73, words, "create", b)
	second := h.ok("create", "--owner", "none", a) // costs nothing more
	if err := os.Truncate(first[0], 0); err != nil {
		t.Fatal(err)
	}
	h.fails(73, words, "create", b)
	if err := os.Truncate(second[0], 0); err != nil {
		t.Fatal(err)
	}
	h.ok("create", "--owner", "none", b) // those that were given up count no more
	image("d", free()+1<<20)
	h.fails(73, words, "create", sparse)
	if left := strings.Count(h.files(), ".json"); left != 4 {
		t.Errorf("%d records, want 4", left)
	}
}
