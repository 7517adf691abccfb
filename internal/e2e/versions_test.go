package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// older is the commit before the target decided how it is written to.
const older = "5c440ba"

// olderBin builds the commands of that commit.
func olderBin(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("git", "-C", root, "cat-file", "-e", older+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("this clone lacks the commit %s: %v %s", older, err, out)
	}
	dir := t.TempDir()
	script := `set -e; cd "$1"; mkdir src bin; git -C "$2" archive "$3" | tar -x -C src; cd src; go build -o ../bin ./cmd/...`
	build := exec.Command("sh", "-c", script, "sh", dir, root, older)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir + "/bin"
}

// TestLongVersions has hosts work together of which only one is updated.
func TestLongVersions(t *testing.T) {
	h := newHost(t)
	old := olderBin(t)
	older := func(target, options string) result { // the pipeline of an older wrapper, onto this program
		t.Helper()
		return h.pipe("xb-sig "+target, old+"/xb-delta source", "xb-patch "+options+" "+target)
	}
	h.image("source", 4*mib, 1)
	h.must("cp source target && cp source named && head -c 4096 /dev/urandom | dd of=source conv=notrunc status=none")

	// An older source names no disk: a state that names none takes its delta, another one says who is to be updated.
	older("target", "-q --peer dom0a").silent(t)
	h.change("source", 2, 3)
	older("target", "-q --peer dom0a").silent(t)
	h.sameBytes("source", "target")
	h.auto("source", "named", "-q").silent(t)
	h.change("source", 2, 4)
	check := h.untouched("named")
	older("named", "--peer dom0a").fails(t, notBasis, "is older than this one", "update it on dom0a")
	check()

	// The verbs of an older wrapper.
	h.must("xb-patch --state named")
	older("named", "-q --peer dom0a --disk domu1/xvda --spool .").silent(t)
	h.sameBytes("source", "named")
	h.pipe("xb-sig --missing-ok made", old+"/xb-delta source", "xb-patch --in-place --create --peer dom0a --disk domu1/xvdb made").silent(t)
	h.sameBytes("source", "made")

	// A far side that is too old says so, and does nothing.
	for _, mode := range []string{"--prepare --size 4M", "--auto"} {
		r := h.sh(old + "/xb-patch " + mode + " --peer dom0a --disk domu1/xvda target </dev/null")
		r.fails(t, 64)
		if r.out != "" {
			t.Errorf("%s prints %q", mode, r.out)
		}
	}
}

// TestLongOlderReadsState has the older program find the states that this one leaves: it must refuse what it always did.
func TestLongOlderReadsState(t *testing.T) {
	h := newHost(t)
	old := olderBin(t)
	h.image("source", 24*mib, 1)
	state := func(target string) (s struct {
		Phase   string
		Created bool
	}) {
		t.Helper()
		if err := json.Unmarshal([]byte(h.must("xb-patch --state "+target)), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	oldPhase := func(target string) string {
		t.Helper()
		var s struct{ Phase string }
		decode(h, h.must(old+"/xb-patch --state "+target), &s)
		return s.Phase
	}
	copyBy := func(target, options string) result {
		t.Helper()
		return h.pipe(old+"/xb-sig "+target, old+"/xb-delta source",
			old+"/xb-patch -q --peer dom0a --disk domu1/xvda "+options+" "+target)
	}

	// Incomplete, and created: an ordinary first copy that was cut.
	h.sh("xb-sig --missing-ok made | xb-delta source | head -c 20000000 | xb-patch -q --auto --peer dom0a --disk domu1/xvda made")
	if s := state("made"); s.Phase != "incomplete" || !s.Created || oldPhase("made") != "incomplete" {
		t.Fatalf("it is %+v, and %s to the older program", s, oldPhase("made"))
	}
	h.pipe(old+"/xb-sig made", old+"/xb-delta source",
		old+"/xb-patch -q --peer dom0a --disk domu2/xvda --in-place made").fails(t, notBasis, "standby of domu1/xvda")
	copyBy("made", "--in-place").silent(t)
	h.sameBytes("source", "made")
	if s := state("made"); s.Phase != "clean" || s.Created {
		t.Errorf("it is %+v", s)
	}

	// Clean: its basis is taken, and what was changed since is not overwritten.
	h.must("cp source target")
	h.auto("source", "target", "-q").silent(t)
	h.change("source", 3, 2)
	copyBy("target", "--in-place").fails(t, notBasis)
	copyBy("target", "").silent(t)
	h.sameBytes("source", "target")
	h.change("source", 3, 3)
	h.auto("source", "target", "-q").silent(t)
	h.must("printf mine | dd of=target conv=notrunc status=none")
	check := h.untouched("target")
	copyBy("target", "").fails(t, notBasis, "diverged")
	check()

	// Held: nothing of it is seen, and the next delta takes its place.
	h.must("cp source target")
	h.change("source", 3, 4)
	h.auto("source", "target", fmt.Sprintf("--hold %s --taken 2026-11-26T23:47:28Z", setName)).silent(t)
	if got := oldPhase("target"); got != "clean" {
		t.Errorf("what is held makes it %s", got)
	}
	copyBy("target", "").silent(t)
	h.sameBytes("source", "target")

	// Applying: everything waits for the recovery, which the older program can do.
	h.change("source", 3000, 5)
	h.must("xb-sig target | xb-delta source >delta")
	h.killInApply("target", "delta")
	copyBy("target", "").fails(t, unfinished, "--recover")
	h.must(old + "/xb-patch --recover target")
	h.sameBytes("source", "target")
	h.prepared("source", "target", "").fails(t, 0)
}

const setName = "abcdefghijklmnopqrstuvwxyz"
