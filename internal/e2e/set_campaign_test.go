package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// TestSetCampaign is TestCampaign for a DomU of two disks, to which one writer writes in a
// known order. After each fault the check that is made before a failover (both are clean, of
// one whole set) must refuse the pair, or the pair is one instant: that of the set it names.
// A commit that says it is done has made the new one. The next ordinary run must go through.
// XB_CAMPAIGN makes it so many times as many faults.
func TestSetCampaign(t *testing.T) {
	faults := testkit.Rounds(t, 3)
	seed := testkit.Seed(t)
	var pairs [2]atomic.Int64 // that could be used, and that were refused
	t.Cleanup(func() {
		usable, refused := pairs[0].Load(), pairs[1].Load()
		t.Logf("%d pairs were one instant, %d were refused", usable, refused)
		// Few pairs can be refused by chance for the most part.
		if usable == 0 || usable+refused >= 100 && 2*usable < refused {
			t.Error("fewer than a third can be used")
		}
	})
	for i, kind := range [][2]string{{"file", "file"}, {"file", "loop device"}, {"loop device", "loop device"}} {
		t.Run(kind[0]+" and "+kind[1], func(t *testing.T) {
			c := newSetCampaign(t, kind, seed+uint64(i)<<32)
			for i := range faults / 3 {
				if !c.round() {
					t.Fatalf("in round %d of seed %d", i, seed)
				}
			}
			for what, n := range c.outcomes {
				t.Logf("%5d  %s", n, what)
			}
			t.Logf("%d faults: %d pairs of the old instant, %d of the new one, %d refused", faults/3,
				c.pairs["old"], c.pairs["new"], c.pairs["refused"])
			pairs[0].Add(int64(c.pairs["old"] + c.pairs["new"]))
			pairs[1].Add(int64(c.pairs["refused"]))
		})
	}
}

type setCampaign struct {
	*host
	random   *rand.Rand
	writer   *writer
	targets  [2]string     // as xb-patch is told
	files    [2]string     // where their bytes are
	small    bool          // state and second target are on file systems that can be filled
	whole    time.Duration // of a hold that nobody killed
	commit   time.Duration // of such a commit
	sets     map[string]instant
	mend     []func() // what is to be done before the next run
	outcomes map[string]int
	pairs    map[string]int
}

// instant is what a set was made of.
type instant struct {
	taken string
	last  [2]int
}

// storeSize is the room for the second target.
var storeSize = largestDisk(1) + mib

func newSetCampaign(t *testing.T, kind [2]string, seed uint64) *setCampaign {
	h := newHost(t)
	c := &setCampaign{host: h, random: rand.New(rand.NewPCG(seed, 7)), writer: h.newWriter(),
		files: [2]string{"target-0", "target-1"}, whole: 100 * time.Millisecond, commit: 100 * time.Millisecond,
		sets: make(map[string]instant), outcomes: make(map[string]int), pairs: make(map[string]int)}
	if os.Geteuid() == 0 {
		c.small = true
		c.tmpfs("state", fmt.Sprint(stateSize))
		c.state = c.path("state")
		c.env = append(c.env, "XB_STATE_DIR="+c.state)
		c.tmpfs("store", fmt.Sprint(storeSize))
		c.files[1] = "store/target-1"
	}
	for i := range c.targets {
		c.targets[i] = c.files[i]
		if kind[i] != "file" {
			c.must(fmt.Sprintf("truncate -s %d %s", largestDisk(i), c.files[i]))
			c.targets[i] = c.loop(c.files[i])
		} else {
			c.must("touch " + c.files[i])
		}
	}
	c.ordinary()
	return c
}

// round spoils a run, looks at what the check before a failover would use, and has an
// ordinary run make all well.
func (c *setCampaign) round() bool {
	c.Helper()
	old, _ := c.usable()
	c.writer.goOn(c.random.IntN(80))
	set := c.newSet()
	faults := c.faults()
	what, status := faults[c.random.IntN(len(faults))](c, set)
	now, why := c.usable()
	switch {
	case now == "":
		c.pairs["refused"]++
		what += ", refused: " + why
	case now == old:
		c.pairs["old"]++
		what += ", old instant"
	default:
		c.pairs["new"]++
		what += ", new instant"
	}
	if now != "" {
		c.isInstant(what, now)
	}
	if status == 0 && now != set {
		c.Errorf("%s: status 0, and not the new instant", what)
	}
	c.outcomes[what]++
	for _, mend := range c.mend {
		mend()
	}
	c.mend = nil
	if !c.Failed() {
		c.ordinary()
	}
	if c.Failed() {
		c.Errorf("that was: %s", what)
	}
	return !c.Failed()
}

// usable is the check before a failover. It returns the set of the pair, or why there is none.
func (c *setCampaign) usable() (set, why string) {
	c.Helper()
	var taken string
	for i, target := range c.targets {
		r := c.sh("xb-patch --state " + target)
		if r.status != 0 {
			return "", fmt.Sprintf("status %d of --state", r.status)
		}
		var state struct {
			Phase, Set, Taken string
			WholeSet          bool `json:"whole_set"`
		}
		decode(c, r.out, &state)
		switch {
		case state.Phase != "clean":
			return "", state.Phase
		case !state.WholeSet:
			return "", "not whole"
		case i > 0 && (state.Set != set || state.Taken != taken):
			return "", "two sets"
		}
		set, taken = state.Set, state.Taken
	}
	return set, ""
}

// isInstant demands that the pair is the instant of a set.
func (c *setCampaign) isInstant(what, set string) {
	c.Helper()
	var last [2]int
	for i := range c.targets {
		if c.targets[i] != c.files[i] {
			c.must("blockdev --flushbufs " + c.targets[i])
		}
		n, err := lastNumber(i, c.read(c.files[i]))
		if err != nil {
			c.Errorf("%s: %v", what, err)
		}
		last[i] = n
	}
	if ahead := last[0] - last[1]; ahead != 0 && ahead != 1 {
		c.Errorf("%s: no instant: the last numbers are %d", what, last)
	}
	if want := c.sets[set]; want.last != last {
		c.Errorf("%s: the set's numbers are %d, those of the pair %d", what, want.last, last)
	}
}

// newSet takes snapshots of both disks.
func (c *setCampaign) newSet() string {
	c.Helper()
	name := make([]byte, 26)
	for i := range name {
		name[i] = "abcdefghijklmnopqrstuvwxyz234567"[c.random.IntN(32)]
	}
	taken := time.Unix(1_700_000_000+int64(len(c.sets)), 0).UTC().Format(time.RFC3339)
	c.sets[string(name)] = instant{taken, c.writer.snapshot()}
	return string(name)
}

// holding is the pipeline that has a target hold its part of a set.
func (c *setCampaign) holding(i int, set, options string) []string {
	return []string{"xb-sig " + c.targets[i], "xb-delta " + snapshotName(i),
		fmt.Sprintf("xb-patch -q --hold %s --taken %s --peer dom0a --disk domu1/xvd%c %s %s",
			set, c.sets[set].taken, 'a'+i, options, c.targets[i])}
}

func (c *setCampaign) committing(set string) string {
	return fmt.Sprintf("xb-patch -q --commit %s --peer dom0a %s %s", set, c.targets[0], c.targets[1])
}

// ordinary is what a run does that nothing happens to: it finishes what is unfinished, or gives
// up what cannot be; then it copies both disks.
func (c *setCampaign) ordinary() {
	c.Helper()
	c.writer.goOn(c.random.IntN(3))
	set := c.newSet()
	for _, target := range c.targets {
		c.moveAway(target)
	}
	for _, target := range c.targets {
		if c.phase(target) == "applying" {
			c.recover(target)
		}
	}
	for i, target := range c.targets {
		options := ""
		if phase := c.phase(target); phase == "incomplete" || phase == "none" {
			options = "--in-place"
		}
		begin := time.Now()
		c.pipe(c.holding(i, set, options)...).silent(c)
		c.whole = time.Since(begin)
	}
	begin := time.Now()
	c.sh(c.committing(set)).silent(c)
	c.commit = time.Since(begin)
	if now, why := c.usable(); now != set {
		c.Errorf("after an ordinary run the check says %q %s", now, why)
	} else {
		c.isInstant("an ordinary run", set)
	}
	for _, left := range []string{"/spool/*", "/sets/*", "/*.held", "/.*.json.*"} {
		if exists(c.state + left) {
			c.Errorf("after an ordinary run there is %s: %s", left, c.must("ls "+c.state+"/*"))
		}
	}
}

// moveAway does what is to be done about files that are damaged, and says so.
func (c *setCampaign) moveAway(target string) {
	c.Helper()
	for r := c.sh("xb-patch --state " + target); r.status == badConfig; r = c.sh("xb-patch --state " + target) {
		m := damaged.FindStringSubmatch(r.err)
		if m == nil {
			c.Fatalf("status %d: %s", r.status, r.err)
		}
		c.outcomes[filepath.Base(filepath.Dir(m[1]))+"/*"+filepath.Ext(m[1])+" moved away"]++
		c.must("rm '" + m[1] + "'")
	}
}

var damaged = regexp.MustCompile(`(?m)^xb-patch: (\S*) cannot be used: .*\n.* move it away`)

// recover runs --recover, which may be killed as well, or run twice at once. What it cannot
// finish is given up.
func (c *setCampaign) recover(target string) {
	c.Helper()
	for c.random.IntN(2) == 0 {
		r := c.start(nil, "xb-patch --recover "+target)
		if c.random.IntN(2) == 0 {
			c.outcomes["--recover twice at once"]++
			second := c.start(nil, "xb-patch --recover "+c.targets[c.random.IntN(2)])
			second.wait()
			r.wait()
			continue
		}
		time.Sleep(c.moment(c.commit))
		r.signal(0, syscall.SIGKILL)
		r.wait()
		c.outcomes["--recover killed"]++
	}
	r := c.sh("xb-patch -q --recover " + target)
	if r.status == 0 {
		return
	}
	for _, target := range c.targets {
		if c.phase(target) == "applying" {
			c.outcomes[fmt.Sprintf("given up after status %d of --recover", r.status)]++
			c.must("xb-patch -q --abandon-apply " + target)
		}
	}
}

// moment is a random time up to limit.
func (c *setCampaign) moment(limit time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(limit) + 1))
}
