package e2e

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// fault makes one thing go wrong in a run of c.stages. It returns what that was and
// the status of xb-patch.
type fault func(c *campaign) (what string, status int)

// faults are drawn from for each round; kills count most.
func (c *campaign) faults() []fault {
	f := []fault{kill, kill, kill, cutLink, alterLink, twoAtOnce, loseSpool, jumpClock}
	if c.small {
		f = append(f, fullState, fileLimit)
	}
	return f
}

func (c *campaign) stages() []string {
	return []string{"xb-sig " + c.target, "xb-delta source", "xb-patch -q " + c.target}
}

// kill kills one stage at a moment of the whole run, or of the apply alone, which
// is short.
func kill(c *campaign) (string, int) {
	stage, when := c.random.IntN(3), "at any time"
	begin := time.Now()
	r := c.start(nil, c.stages()...)
	done := make(chan []int, 1)
	if c.random.IntN(2) == 0 {
		stage, when = 2, "in the apply"
		go func() { done <- r.wait() }()
		for end := false; !end && !c.applying(); {
			select {
			case statuses := <-done:
				done <- statuses
				end = true
			case <-time.After(200 * time.Microsecond):
			}
		}
		time.Sleep(c.moment(c.whole / 4))
	} else {
		time.Sleep(c.moment(c.whole))
		go func() { done <- r.wait() }()
	}
	r.signal(stage, syscall.SIGKILL)
	statuses := <-done
	if fmt.Sprint(statuses) == "[0 0 0]" {
		c.whole = time.Since(begin)
	}
	return [...]string{"xb-sig", "xb-delta", "xb-patch"}[stage] + " killed " + when, statuses[2]
}

// moment is a random time up to limit.
func (c *campaign) moment(limit time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(limit) + 1))
}

// cutLink ends one of the two streams early, without any stage knowing.
func cutLink(c *campaign) (string, int) {
	stages, at := c.stages(), c.random.IntN(2)
	stages[at] += fmt.Sprintf(" | head -c %d", c.random.IntN(c.streamSize(at)))
	return "link cut", c.pipe(stages...).status
}

// alterLink replaces a byte of one of the two streams.
func alterLink(c *campaign) (string, int) {
	stages, at := c.stages(), c.random.IntN(2)
	stages[at] += fmt.Sprintf(` | { head -c %d; head -c 1 | tr '\000-\377' '\001-\377\000'; cat; }`,
		c.random.IntN(c.streamSize(at)))
	return "byte altered", c.pipe(stages...).status
}

// streamSize is about how long the signature or the delta is.
func (c *campaign) streamSize(at int) int {
	return [...]int{10_000, 1_500_000}[at]
}

// twoAtOnce starts a second run on the target beside the first.
func twoAtOnce(c *campaign) (string, int) {
	first, second := c.start(nil, c.stages()...), c.start(nil, c.stages()...)
	return "two at once", min(first.wait()[2], second.wait()[2])
}

// loseSpool removes the spools in the middle of the run, and may kill xb-patch then.
func loseSpool(c *campaign) (string, int) {
	r := c.start(nil, c.stages()...)
	time.Sleep(c.moment(c.whole))
	os.RemoveAll(c.state + "/spool")
	what := "spool removed"
	if c.random.IntN(2) == 0 {
		r.signal(2, syscall.SIGKILL)
		what += ", xb-patch killed"
	}
	return what, r.wait()[2]
}

// jumpClock has the last run lie in another century.
func jumpClock(c *campaign) (string, int) {
	year := [...]string{"1970", "2099"}[c.random.IntN(2)]
	c.must(`sed -i 's/"time": "....-/"time": "` + year + `-/' ` + c.state + "/*.json 2>/dev/null || true")
	return "clock jumped", c.pipe(c.stages()...).status
}

// fullState leaves only a little room for the state and the spool.
func fullState(c *campaign) (string, int) {
	c.must(fmt.Sprintf("head -c %d /dev/zero >%s/filler 2>/dev/null || true", stateSize-c.random.IntN(3*mib), c.state))
	status := c.pipe(c.stages()...).status
	c.must("rm " + c.state + "/filler")
	return "no room for the state", status
}

// fileLimit lets no file grow, nor be written, beyond a random size: a write is cut
// short there, and the next one fails.
func fileLimit(c *campaign) (string, int) {
	stages := c.stages()
	stages[2] = fmt.Sprintf("( ulimit -f %d; %s )", 2*(1+c.random.IntN(6*1024)), stages[2])
	return "short write", c.pipe(stages...).status
}
