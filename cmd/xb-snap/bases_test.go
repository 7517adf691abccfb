package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// keeper is a host with a disk, of which snapshots are kept.
type keeper struct {
	host
	disk string
	runs int
}

func newKeeper(t *testing.T, mkfs ...string) *keeper {
	k := &keeper{host: newHost(t), disk: filepath.Join(testkit.Mount(t, mkfs...), "a disk.img")}
	testkit.Write(t, k.disk, strings.Repeat("a", 100_000))
	return k
}

// snap takes a snapshot as a run does.
func (k *keeper) snap() string {
	k.Helper()
	r := k.run("create", "--owner", fmt.Sprint(os.Getpid()), k.disk)
	if r.status != 0 {
		k.Fatalf("create: %+v", r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// sent writes a summary, as of an image that was never sent before and was read from a snapshot, and returns that and
// what keep is told of it.
func (k *keeper) sent(size int64, snap string) (image stream.Image, summary string) {
	k.Helper()
	k.runs++
	image = stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: size, Sum: stream.Sum{uint64(k.runs)}}
	summary = filepath.Join(k.T.TempDir(), "summary")
	read, err := blockdev.Identity(snap)
	if err != nil {
		k.Fatal(err)
	}
	testkit.Write(k.T, summary, fmt.Sprintf(`{"command":"xb-delta","image_size":%d,"block_size":4096,"hash":"xxh64","digest":"%s",`+
		`"bytes_sent":1,"source":%q}`, size, image.Digest(), read))
	return image, summary
}

const takenAt = "2026-11-26T23:47:28Z"

// keep takes a snapshot and keeps it, with more options.
func (k *keeper) keep(peer string, more ...string) (snap string, image stream.Image) {
	k.Helper()
	snap = k.snap()
	image, summary := k.sent(100_000, snap)
	k.ok(append([]string{"keep", "--for", peer, "--disk", "web/xvda", "--summary", summary, "--taken", takenAt, snap}, more...)...)
	return snap, image
}

// bases returns what base prints, as "STATUS SNAPSHOT IMAGE".
func (k *keeper) bases(peer string) (all []string) {
	k.Helper()
	r := k.run("base", "--peer", peer, k.disk)
	if r.status != 0 {
		k.Fatalf("base: %+v", r)
	}
	for line := range strings.Lines(r.stdout) {
		b, err := base.Parse([]byte(line))
		if err != nil {
			k.Fatal(err)
		}
		if id, err := snapshot.Identity(b.Snapshot); err != nil || id != b.Identity || b.Peer != peer || b.Disk != "web/xvda" ||
			b.Source != k.disk || b.Taken.Format("2006-01-02T15:04:05Z") != takenAt {
			k.Errorf("%s: %v", line, err)
		}
		all = append(all, fmt.Sprint(b.Status, " ", b.Snapshot, " ", b.Image))
	}
	return all
}

func (k *keeper) want(what string, got []string, want ...string) {
	k.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		k.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (k *keeper) settle(peer string, image stream.Image) {
	k.Helper()
	if err := base.Settle(state.Dir(k.state), "web/xvda", peer, image); err != nil {
		k.Fatal(err)
	}
}

// prune returns what prune printed.
func (k *keeper) prune(args ...string) []string {
	k.Helper()
	r := k.run(append([]string{"prune"}, args...)...)
	if r.status != 0 || r.stderr != "" {
		k.Fatalf("prune %s: %+v", args, r)
	}
	return strings.FieldsFunc(r.stdout, func(c rune) bool { return c == '\n' })
}

func TestKeep(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			k := newKeeper(t, mkfs...)
			k.want("no bases yet", k.bases("dom0b"))
			s1, i1 := k.keep("dom0b")
			k.want("before the answer", k.bases("dom0b"), "pending "+s1+" "+i1.Text())
			k.settle("dom0b", i1)
			k.want("after it", k.bases("dom0b"), "sent "+s1+" "+i1.Text())
			k.want("of another peer", k.bases("dom0c"))

			// The answer of the next run is lost.
			s2, i2 := k.keep("dom0b", "--basis", i1.Text())
			k.want("nobody knows", k.bases("dom0b"), "sent "+s1+" "+i1.Text(), "pending "+s2+" "+i2.Text())
			k.want("all are needed", k.prune("--bases"))
			k.want("plain prune", k.prune())

			// The peer says that it has it, and the third one's answer is lost, too.
			s3, i3 := k.keep("dom0b", "--basis", i2.Text())
			k.want("the first is settled", k.bases("dom0b"), "sent "+s2+" "+i2.Text(), "pending "+s3+" "+i3.Text())
			k.want("the first is replaced", k.prune("--bases"), s1)
			// The peer says that it has not.
			s4, i4 := k.keep("dom0b", "--basis", i2.Text())
			k.want("the third did not arrive", k.bases("dom0b"), "sent "+s2+" "+i2.Text(), "pending "+s4+" "+i4.Text())
			k.want("the third is replaced", k.prune("--bases"), s3)
			k.settle("dom0b", i4)
			k.want("the second is replaced", k.prune("--bases"), s2)

			// A copy of which no base was kept.
			k.settle("dom0b", i1)
			k.want("the peer has something else", k.bases("dom0b"))
			k.want("nothing is needed", k.prune("--bases"), s4)
			k.want("left", strings.Fields(k.files(filepath.Dir(k.disk))), "a", "disk.img")
		})
	}
}

// TestKeptForSeveral: a base stays as long as one peer has its image.
func TestKeptForSeveral(t *testing.T) {
	k := newKeeper(t, "mkfs.btrfs", "-q")
	snap, image := k.keep("dom0b")
	_, summary := k.sent(100_000, snap)
	k.ok("keep", "--for", "root@dom0c", "--disk", "web/xvda", "--summary", summary, "--taken", takenAt, snap)
	k.settle("dom0b", image)
	list := k.run("list")
	if !strings.HasSuffix(list.stdout, "\tbase of dom0b, root@dom0c\n") {
		t.Errorf("list: %+v", list)
	}
	var shown []struct {
		Peers   []string
		Owner   string
		Extents int
	}
	if err := json.Unmarshal([]byte(k.run("list", "--json").stdout), &shown); err != nil || len(shown) != 1 ||
		strings.Join(shown[0].Peers, " ") != "dom0b root@dom0c" || shown[0].Owner != "base:dom0b" || shown[0].Extents < 1 {
		t.Errorf("list --json: %+v, %v", shown, err)
	}
	k.want("both stay", k.prune("--bases", "--peers", "dom0b root@dom0c"))
	k.want("of another DomU", k.prune("--bases", "--peers", "", "--domus", "db mail"))
	k.want("one leaves", k.prune("--bases", "--peers", "root@dom0c"))
	k.want("the first has none", k.bases("dom0b"))
	if got := k.bases("root@dom0c"); len(got) != 1 {
		t.Errorf("the second has %s", got)
	}
	k.ok("remove", "--unless-kept", snap)
	k.want("the other leaves", k.prune("--bases", "--peers", "", "--domus", "web"), snap)
	k.want("left", strings.Fields(k.files(filepath.Dir(k.disk))), "a", "disk.img")
}

// TestReplaced: whoever removes what a run has left removes what its bases have replaced, of the same disk.
func TestReplaced(t *testing.T) {
	k := newKeeper(t, "mkfs.btrfs", "-q")
	s1, i1 := k.keep("dom0b")
	k.settle("dom0b", i1)
	s2, i2 := k.keep("dom0b", "--basis", i1.Text())
	k.ok("remove", "--unless-kept", s2)
	k.want("nobody knows", k.bases("dom0b"), "sent "+s1+" "+i1.Text(), "pending "+s2+" "+i2.Text())
	another := k.disk + ".other"
	testkit.Write(k.T, another, "b")
	of := k.disk
	k.disk = another
	s3 := k.snap()
	k.settle("dom0b", i2)
	k.ok("remove", "--unless-kept", s3)
	k.disk = of
	k.ok("check", s1)
	k.ok("remove", "--unless-kept", k.snap())
	k.fails(66, "no such snapshot", "remove", s1)
	k.want("the later one", k.bases("dom0b"), "sent "+s2+" "+i2.Text())
}

// TestPrunePlan: each DomU has peers of its own. Of whom the plan knows nothing, nothing is removed.
func TestPrunePlan(t *testing.T) {
	k := newKeeper(t, "mkfs.btrfs", "-q")
	plan := filepath.Join(k.T.TempDir(), "plan")
	prune := func(lines ...string) []string {
		t.Helper()
		testkit.Write(k.T, plan, strings.Join(lines, ""))
		return k.prune("--plan", plan)
	}
	line := func(domu, peers string) string { return "1\t" + domu + "\tyes\tunknown\t" + peers + "\t-\n" }
	base, _ := k.keep("dom0b")
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	leftover := k.run("create", "--owner", fmt.Sprint(sleeper.Process.Pid), k.disk).stdout
	sleeper.Process.Kill()
	sleeper.Wait()
	k.want("leftovers", prune(), strings.TrimSuffix(leftover, "\n"))
	if leftover == "" {
		t.Error("there was none")
	}
	k.want("another DomU", prune(line("db", "dom0c")))
	k.want("a mistake", prune(line("web", "-")))
	k.want("several conf files", prune(line("web", "dom0c dom0d"), line("db", "dom0c"), line("web", "dom0b")))
	k.want("the peer has left", prune(line("db", "dom0b"), line("web", "dom0c dom0d")), base)
	k.fails(66, "", "prune", "--plan", plan+"x")
	k.fails(64, "exclude each other", "prune", "--bases", "--plan", plan)
	testkit.Write(k.T, plan, "web dom0b\n")
	k.fails(65, "is not what xb-locate --plan prints", "prune", "--plan", plan)
	testkit.Write(k.T, plan, "")
	base, _ = k.keep("dom0b")
	testkit.Write(k.T, filepath.Join(k.state, "bases", "web%2Fxvda", "dom0b.json"), "{}")
	if r := k.run("prune", "--plan", plan); r.status != 0 || r.stdout != "" || !strings.Contains(r.stderr, "cannot be used") {
		t.Errorf("a damaged record: %+v", r)
	}
	k.ok("remove", base)
}

// TestBaseIsNoBase: what is not certainly what it was is not offered, and why is said.
func TestBaseIsNoBase(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(k *keeper, snap string) error
		words string
	}{
		"removed by hand":   {func(k *keeper, snap string) error { k.ok("remove", snap); return nil }, "no such snapshot"},
		"given up":          {func(k *keeper, snap string) error { return os.Truncate(snap, 0) }, "the guest needs the room"},
		"written to":        {func(k *keeper, snap string) error { return os.WriteFile(snap, []byte("b"), 0) }, "is not what it was"},
		"of the same name":  {func(k *keeper, snap string) error { return os.Rename(k.snap(), snap) }, "is not what it was"},
		"an origin instead": {func(k *keeper, snap string) error { return other(k) }, "it is of what was called"},
	} {
		t.Run(what, func(t *testing.T) {
			k := newKeeper(t, "mkfs.xfs", "-q", "-m", "reflink=1")
			snap, image := k.keep("dom0b")
			k.settle("dom0b", image)
			if err := c.spoil(k, snap); err != nil {
				t.Fatal(err)
			}
			r := k.run("base", "--peer", "dom0b", k.disk)
			if r.status != 0 || r.stdout != "" || !strings.Contains(r.stderr, c.words) {
				t.Errorf("base: %+v, want %q", r, c.words)
			}
		})
	}
}

// other puts another file in the place of the disk.
func other(k *keeper) error {
	if err := os.Rename(k.disk, k.disk+".old"); err != nil {
		return err
	}
	return os.WriteFile(k.disk, []byte(strings.Repeat("b", 100_000)), 0o600)
}

// TestKeepRefuses what is no run's snapshot, or not what was sent.
func TestKeepRefuses(t *testing.T) {
	k := newKeeper(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	own := strings.TrimSuffix(k.run("create", "--owner", "none", k.disk).stdout, "\n")
	snap := k.snap()
	_, summary := k.sent(100_000, snap)
	keep := func(snap string, more ...string) []string {
		return append([]string{"keep", "--for", "dom0b", "--disk", "web/xvda", "--summary", summary, "--taken", takenAt, snap}, more...)
	}
	k.fails(64, "somebody's own", keep(own)...)
	k.fails(79, "not made by xb-snap", keep(k.disk)...)
	k.fails(66, "no such snapshot", keep(own+"x")...)
	k.fails(64, "bad name", keep(snap, "--for", "../x")...)
	k.fails(64, "is not DOMU/DISK", keep(snap, "--disk", "web")...)
	k.fails(64, "keep needs", "keep", "--for", "dom0b", snap)
	k.fails(64, "--domus says", "prune", "--bases", "--domus", "web")
	k.fails(64, "are for prune --bases", "prune", "--peers", "dom0b")
	k.fails(64, "base needs", "base", k.disk)
	k.fails(64, "go together", "guard", "--bases")
	k.fails(64, "exclude each other", "guard", "--bases", "--once", "--owner", "1")
	k.fails(64, "is for bases", "guard", "--pool-limit", "80")
	k.fails(64, "no number of percent", "guard", "--bases", "--once", "--pool-limit", "100")
	k.fails(66, "", keep(snap, "--summary", filepath.Join(k.T.TempDir(), "none"))...)
	_, another := k.sent(100_001, snap)
	k.fails(65, "100001", keep(snap, "--summary", another)...)
	text := testkit.Read(t, summary)
	testkit.Write(t, another, text[:strings.Index(text, `,"source"`)]+"}") // as of an xb-delta that read a pipe
	k.fails(65, "does not tell what was read", keep(snap, "--summary", another)...)
	if err := os.WriteFile(snap, []byte("b"), 0); err != nil {
		t.Fatal(err)
	}
	k.fails(82, "no snapshot any more", keep(snap)...)
	if err := os.Truncate(snap, 0); err != nil {
		t.Fatal(err)
	}
	k.fails(82, "lost its content", keep(snap)...)
	k.want("bases", k.bases("dom0b"))
	k.want("the user's own stays", k.prune("--bases", "--peers", ""))
	if _, err := os.Stat(own); err != nil {
		t.Error(err)
	}
}

// TestDamagedRecord: what names snapshots nobody can read, so none of them is removed; the next base replaces it.
func TestDamagedRecord(t *testing.T) {
	k := newKeeper(t, "mkfs.btrfs", "-q")
	s1, _ := k.keep("dom0b")
	file := filepath.Join(k.state, "bases", "web%2Fxvda", "dom0b.json")
	text := testkit.Read(t, file)
	testkit.Write(t, file, strings.Replace(text, `"pending"`, `"sent"`, 1))
	k.fails(78, "cannot be used", "prune", "--bases")
	if r := k.run("base", "--peer", "dom0b", k.disk); r.status != 0 || r.stdout != "" || !strings.Contains(r.stderr, "cannot be used") {
		t.Errorf("base: %+v", r)
	}
	s2, i2 := k.keep("dom0b")
	k.want("the next one", k.bases("dom0b"), "pending "+s2+" "+i2.Text())
	k.want("the old one", k.prune("--bases"), s1)
}
