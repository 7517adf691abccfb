package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// setFault spoils a run that copies both disks as one set. It returns what it did and the
// status of the commit, notCommitted if the run had none.
type setFault func(c *setCampaign, set string) (what string, status int)

const notCommitted = -1

func (c *setCampaign) faults() []setFault {
	f := []setFault{killHold, killHold, killCommit, killCommit, killCommit, killCommit, cutHold, damageHeld, damageHeld,
		otherHold, divergeTarget, useTarget, loseTarget, runsAtOnce, commitsAtOnce, commitAgain, oneAlone, firstCopies}
	if c.small {
		f = append(f, fillState, fillStore, limitFiles)
	}
	return f
}

// holdAll has both targets hold the set, and reports whether they do.
func (c *setCampaign) holdAll(set string) bool {
	c.Helper()
	for i := range c.targets {
		if c.pipe(c.holding(i, set, "")...).status != 0 {
			return false
		}
	}
	return true
}

// commitIf commits if all is held; sometimes although it is not, which must be refused.
func (c *setCampaign) commitIf(held bool, set string) (status int) {
	c.Helper()
	if !held && c.random.IntN(2) == 0 {
		return notCommitted
	}
	status = c.sh(c.committing(set)).status
	if !held && status == 0 {
		c.Error("status 0 of a commit of what is not held")
	}
	return status
}

// killHold kills a stage of one hold.
func killHold(c *setCampaign, set string) (string, int) {
	victim, stage := c.random.IntN(2), c.random.IntN(3)
	held := true
	for i := range c.targets {
		r := c.start(nil, c.holding(i, set, "")...)
		if i == victim {
			time.Sleep(c.moment(c.whole))
			r.signal(stage, syscall.SIGKILL)
		}
		held = r.wait()[2] == 0 && held
	}
	return [...]string{"xb-sig", "xb-delta", "xb-patch"}[stage] + " killed", c.commitIf(held, set)
}

// killCommit kills the commit; then what it left may be damaged as well.
func killCommit(c *setCampaign, set string) (string, int) {
	if !c.holdAll(set) {
		c.Fatal("the set is not held")
	}
	what, status := c.killedCommit(set)
	if status != 0 {
		switch c.random.IntN(6) {
		case 0:
			what += ", " + c.damage("sets/*.json", "*.held", "spool/*")
		case 1:
			what += ", " + c.loseOne()
		}
	}
	return what, status
}

// killedCommit kills or ends a commit at any time, or when the set's record exists.
func (c *setCampaign) killedCommit(set string) (what string, status int) {
	c.Helper()
	what = "commit killed"
	r := c.start(nil, c.committing(set))
	done := make(chan int, 1)
	go func() { done <- r.wait()[0] }()
	status = notCommitted
	if c.random.IntN(3) > 0 {
		what = "commit killed after its record"
		for !exists(c.state+"/sets/*.json") && status == notCommitted {
			select {
			case status = <-done:
			case <-time.After(100 * time.Microsecond):
			}
		}
		time.Sleep(c.moment(c.commit / 4))
	} else {
		time.Sleep(c.moment(c.commit))
	}
	r.signal(0, [...]syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM}[c.random.IntN(3)])
	if status == notCommitted {
		status = <-done
	}
	return what, status
}

// damage spoils one of the files in the state directory that match one of the patterns.
func (c *setCampaign) damage(patterns ...string) string {
	c.Helper()
	pattern := patterns[c.random.IntN(len(patterns))]
	names, _ := filepath.Glob(filepath.Join(c.state, pattern))
	if len(names) == 0 {
		return "no " + pattern
	}
	name := names[c.random.IntN(len(names))]
	text, err := os.ReadFile(name)
	if err != nil {
		c.Fatal(err)
	}
	how := [...]string{"removed", "cut", "altered"}[c.random.IntN(3)]
	switch {
	case how == "removed":
		err = os.Remove(name)
	case how == "cut" || len(text) == 0:
		err = os.Truncate(name, int64(c.random.IntN(len(text)+1)))
	default:
		text[c.random.IntN(len(text))] ^= 1 << c.random.IntN(8)
		err = os.WriteFile(name, text, 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
	return pattern + " " + how
}

// loseOne has one target, if that is a file, be missing until the next run.
func (c *setCampaign) loseOne() string {
	i := c.random.IntN(2)
	if c.targets[i] != c.files[i] {
		return "none missing"
	}
	c.must(fmt.Sprintf("mv %s %[1]s.lost", c.files[i]))
	c.mend = append(c.mend, func() { c.must(fmt.Sprintf("mv %s.lost %[1]s", c.files[i])) })
	if c.random.IntN(2) == 0 { // nor can it be recovered without it
		c.sh("xb-patch --recover " + c.targets[1-i])
	}
	return "a target missing"
}

// cutHold ends or alters a stream of one hold early.
func cutHold(c *setCampaign, set string) (string, int) {
	victim, at := c.random.IntN(2), c.random.IntN(2)
	what, cut := "link cut", fmt.Sprintf(" | head -c %d", c.random.IntN([...]int{3000, 500_000}[at]))
	if c.random.IntN(2) == 0 {
		what, cut = "byte altered", cut[2:]
		cut = fmt.Sprintf(` | { %s; head -c 1 | tr '\000-\377' '\001-\377\000'; cat; }`, cut)
	}
	held := true
	for i := range c.targets {
		stages := c.holding(i, set, "")
		if i == victim {
			stages[at] += cut
		}
		held = c.pipe(stages...).status == 0 && held
	}
	return what, c.commitIf(held, set)
}

// damageHeld spoils what is held before the commit.
func damageHeld(c *setCampaign, set string) (string, int) {
	held := c.holdAll(set)
	what := "held, " + c.damage("*.held", "spool/*")
	if c.random.IntN(3) == 0 {
		what = "held, " + c.damage("*.held", "spool/*")
	}
	return what, c.commitIf(held, set)
}

// otherHold has another source hold its own image of one target, before the commit.
func otherHold(c *setCampaign, set string) (string, int) {
	c.holdAll(set)
	c.writer.goOn(1 + c.random.IntN(20))
	i, other := c.random.IntN(2), c.newSet()
	c.pipe(c.holding(i, other, "")...)
	status := c.sh(c.committing(set)).status
	if status == 0 {
		c.Error("status 0 of the commit of a set of which another source took a part away")
	}
	if c.random.IntN(2) == 0 {
		if c.sh(c.committing(other)).status == 0 {
			c.Error("status 0 of a commit of half a set")
		}
	}
	return "another source's hold", notCommitted
}

// divergeTarget writes to the second target before one of the holds or before the commit.
func divergeTarget(c *setCampaign, set string) (string, int) {
	when := c.random.IntN(3)
	at := c.random.Int64N(int64(slots[1]) * slotSize)
	var old byte
	held := true
	for i := range 3 {
		if i == when {
			old = c.poke(1, at, nil)
		}
		if i < 2 {
			held = c.pipe(c.holding(i, set, "")...).status == 0 && held
		}
	}
	status := c.commitIf(held, set)
	if status == 0 {
		c.Error("status 0 although a target has diverged")
	}
	c.poke(1, at, &old)
	return "diverged", notCommitted
}

// poke changes a byte of a target, or makes it what it was.
func (c *setCampaign) poke(i int, at int64, to *byte) (old byte) {
	c.Helper()
	defer noForks()()
	path := c.targets[i]
	if !filepath.IsAbs(path) {
		path = c.path(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		c.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	old = b[0]
	if b[0] ^= 0xff; to != nil {
		b[0] = *to
	}
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		c.Fatal(err)
	}
	return old
}

// useTarget has somebody use the second target at the second hold or at the commit.
func useTarget(c *setCampaign, set string) (string, int) {
	if !c.small {
		return killHold(c, set)
	}
	var dev string
	user := func() { dev = c.loop(c.targets[1]) }
	early := c.random.IntN(2) == 0
	if early {
		user()
	}
	held := c.holdAll(set)
	if !early {
		user()
	}
	status := c.commitIf(held, set)
	if status == 0 {
		c.Error("status 0 although a target is in use")
	}
	c.must("losetup --detach " + dev)
	if held && c.random.IntN(2) == 0 {
		return "in use, and then free", c.sh(c.committing(set)).status
	}
	return "in use", status
}

// loseTarget has one be missing at the commit.
func loseTarget(c *setCampaign, set string) (string, int) {
	held := c.holdAll(set)
	what := c.loseOne()
	status := c.commitIf(held, set)
	for _, mend := range c.mend {
		mend()
	}
	c.mend = nil
	if c.random.IntN(2) == 0 {
		return what + ", and then there", c.sh(c.committing(set)).status
	}
	return what, status
}

// runsAtOnce has two sources copy at the same time.
func runsAtOnce(c *setCampaign, set string) (string, int) {
	run := func(set string, commit bool) []*running {
		r := []*running{c.start(nil, c.holding(0, set, "")...), c.start(nil, c.holding(1, set, "")...)}
		if commit {
			r = append(r, c.start(nil, c.committing(set)))
		}
		return r
	}
	c.holdAll(set)
	other := c.newSet()
	for _, r := range append(run(other, c.random.IntN(2) == 0), c.start(nil, c.committing(set))) {
		r.wait()
	}
	c.sh(c.committing(other))
	return "two runs at once", notCommitted
}

// commitsAtOnce has the same set be committed twice at the same time.
func commitsAtOnce(c *setCampaign, set string) (string, int) {
	c.holdAll(set)
	first, second := c.start(nil, c.committing(set)), c.start(nil, c.committing(set))
	what := "two commits at once"
	if c.random.IntN(2) == 0 {
		time.Sleep(c.moment(c.commit))
		first.signal(0, syscall.SIGKILL)
		what += ", one killed"
	}
	return what, min(first.wait()[0], second.wait()[0])
}

// commitAgain repeats a commit whose acknowledgement was lost, and one of a set of old.
func commitAgain(c *setCampaign, set string) (string, int) {
	old, _ := c.usable()
	c.holdAll(set)
	status := c.sh(c.committing(set)).status
	if again := c.sh(c.committing(set)).status; again != status {
		c.Errorf("status %d of a commit, and %d when it is repeated", status, again)
	}
	if c.sh(c.committing(old)).status == 0 {
		c.Error("status 0 of the commit of an old set")
	}
	return "committed again", status
}

// oneAlone copies one of the disks as if it were alone.
func oneAlone(c *setCampaign, set string) (string, int) {
	i := c.random.IntN(2)
	stages := c.holding(i, set, "")
	stages[2] = fmt.Sprintf("xb-patch -q --peer dom0a --disk domu1/xvd%c %s", 'a'+i, c.targets[i])
	held := c.random.IntN(2) == 0 && c.holdAll(set)
	status := c.pipe(stages...).status
	if status != 0 {
		c.Errorf("status %d of a copy of one disk", status)
	}
	if now, _ := c.usable(); now != "" {
		c.Error("the check takes a pair of which one disk was copied alone")
	}
	return "one disk alone", c.commitIf(held, set)
}

// firstCopies forgets both targets, and copies each anew, in place or not; a copy may be
// killed, or the commit.
func firstCopies(c *setCampaign, set string) (string, int) {
	c.must("rm -rf " + c.state + "/*")
	victim := c.random.IntN(6)
	held := true
	for i := range c.targets {
		r := c.start(nil, c.holding(i, set, [...]string{"", "--in-place"}[c.random.IntN(2)])...)
		if i == victim {
			time.Sleep(c.moment(c.whole))
			r.signal(c.random.IntN(3), syscall.SIGKILL)
		}
		held = r.wait()[2] == 0 && held
	}
	if !held || c.random.IntN(2) == 0 {
		return "first copies", c.commitIf(held, set)
	}
	what, status := c.killedCommit(set)
	return "first copies, " + what, status
}

// fillState leaves only a little room for states and spools, from some moment on.
func fillState(c *setCampaign, set string) (string, int) {
	fill := func() {
		c.must(fmt.Sprintf("head -c %d /dev/zero >%s/filler 2>/dev/null || true", stateSize-c.random.IntN(3*mib), c.state))
	}
	if c.random.IntN(2) == 0 {
		fill()
	}
	held := c.holdAll(set)
	if !exists(c.state + "/filler") {
		c.must(fmt.Sprintf("head -c %d /dev/zero >%s/filler 2>/dev/null || true", stateSize, c.state)) // to the last byte
	}
	status := c.commitIf(held, set)
	c.must("rm " + c.state + "/filler")
	return "no room for the state", status
}

// fillStore leaves only a little room for the second target.
func fillStore(c *setCampaign, set string) (string, int) {
	held := c.holdAll(set)
	c.must("head -c 100M /dev/zero >store/filler 2>/dev/null; true")
	c.must(fmt.Sprintf("truncate -s -%d store/filler", c.random.IntN(256*kib)))
	status := c.commitIf(held, set)
	c.must("rm store/filler")
	return "no room for the second target", status
}

// limitFiles lets the commit write no file beyond a random size.
func limitFiles(c *setCampaign, set string) (string, int) {
	c.holdAll(set)
	return "short write", c.sh(fmt.Sprintf("ulimit -f %d; %s", 2*c.random.IntN(7*1024), c.committing(set))).status
}
