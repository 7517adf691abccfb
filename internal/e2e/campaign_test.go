package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// TestCampaign makes random things go wrong at random moments (see faults) and
// demands each time what makes a standby one: the target holds the old image or the
// new one, or its state says that an apply is unfinished and --recover makes it the
// new one; and a run that says it is done has made the new one. After each fault an
// ordinary run must go through. XB_CAMPAIGN makes it so many times as many faults;
// XB_CAMPAIGN_SEED makes it another campaign.
func TestCampaign(t *testing.T) {
	faults := testkit.Rounds(t, 10)
	seed := testkit.Seed(t)
	for _, kind := range []string{"file", "loop device"} {
		t.Run(kind, func(t *testing.T) {
			c := newCampaign(t, kind, seed)
			for i := range faults / 2 {
				if !c.round(i) {
					t.Fatalf("in round %d of seed %d", i, seed)
				}
			}
			total := 0
			for what, n := range c.outcomes {
				t.Logf("%5d  %s", n, what)
				total += n
			}
			t.Logf("%d faults on a %s, no mix: %d outcomes", faults/2, kind, total)
		})
	}
}

// stateSize is the room for state and spool, in bytes.
const stateSize = 20 * mib

type campaign struct {
	*host
	random   *rand.Rand
	target   string
	device   bool
	small    bool          // the state is on a file system that can be filled
	whole    time.Duration // of a run that nobody killed
	outcomes map[string]int
}

func newCampaign(t *testing.T, kind string, seed uint64) *campaign {
	c := &campaign{host: newHost(t), random: rand.New(rand.NewPCG(seed, uint64(len(kind)))), target: "target",
		device: kind != "file", whole: 100 * time.Millisecond, outcomes: make(map[string]int)}
	c.sparse("source", 6*mib, seed)
	c.image("target", 6*mib, seed+1)
	if os.Geteuid() == 0 {
		c.small = true
		c.tmpfs("state", fmt.Sprint(stateSize))
		c.state = c.path("state")
		c.env = append(c.env, "XB_STATE_DIR="+c.state)
	}
	if c.device {
		c.target = c.loop("target")
	}
	return c
}

// round changes the source, spoils a run, and looks at what is left.
func (c *campaign) round(i int) bool {
	c.Helper()
	old := c.content()
	if !c.device && c.random.IntN(3) == 0 {
		c.sparse("source", 1+c.random.Int64N(8*mib), c.random.Uint64())
	} else {
		c.change("source", 1+c.random.IntN(400), c.random.Uint64())
	}
	faults := c.faults()
	what, status := faults[c.random.IntN(len(faults))](c)
	if status == 0 && c.content() != c.source() {
		c.Errorf("%s: status 0, and not the new image", what)
	}
	var state struct{ Phase string }
	decode(c, c.must("xb-patch --state "+c.target), &state)
	switch now := c.content(); {
	case state.Phase == "applying" && !exists(c.state+"/spool/*"):
		// Nothing can finish it; that must be said, and a full copy be possible.
		what += ", flagged, copied anew"
		c.sh("xb-patch --recover "+c.target).fails(c, unfinished, "--abandon-apply")
		c.must("xb-patch --abandon-apply " + c.target)
		c.sync("source", c.target, "-q --in-place").silent(c)
	case state.Phase == "applying":
		what += ", recovered"
		c.sh("xb-sig "+c.target+" >/dev/null").fails(c, unfinished, "--recover")
		c.recover()
		if c.content() != c.source() {
			c.Errorf("%s: not the new image after --recover", what)
		}
	case now == old:
		what += ", old image"
	case now == c.source():
		what += ", new image"
	default:
		c.Errorf("%s: phase %s and neither the old image nor the new one", what, state.Phase)
	}
	c.outcomes[what]++
	c.sync("source", c.target, "-q").silent(c)
	if c.content() != c.source() {
		c.Errorf("%s: the run after that did not make the new image", what)
	}
	if exists(c.state+"/spool/*") || exists(c.state+"/.*.json.*") {
		c.Errorf("%s: the run after that did not clean up", what)
	}
	return !c.Failed()
}

func (c *campaign) source() [32]byte { return c.digest("source") }

// content is what the target holds; of a loop device, what is in its file.
func (c *campaign) content() [32]byte {
	c.Helper()
	if c.device {
		c.must("blockdev --flushbufs " + c.target)
	}
	return c.digest("target")
}

// recover runs --recover, which may be killed as well.
func (c *campaign) recover() {
	c.Helper()
	for c.random.IntN(2) == 0 {
		r := c.start(nil, "xb-patch --recover "+c.target)
		time.Sleep(time.Duration(c.random.Int64N(int64(c.whole) + 1)))
		r.signal(0, syscall.SIGKILL)
		r.wait()
		c.outcomes["--recover killed"]++
	}
	c.must("xb-patch --recover " + c.target)
}
