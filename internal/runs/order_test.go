package runs

import (
	"slices"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// remember makes what is remembered of a disk: its last copy was so long before now, 0 for none, and so many runs have
// failed since.
func (h *host) remember(disk, peer string, age time.Duration, failures int) *Copy {
	h.Helper()
	c := &Copy{Disk: disk, Peer: peer, Source: h.source, Target: "/t", Failures: failures, Attempt: Attempt{Time: now}}
	if age != 0 {
		c.Success = &Success{Time: now.Add(-age)}
		c.Attempt.Time = c.Success.Time
	}
	if failures > 0 {
		c.Attempt = Attempt{Time: now, Step: CopyStep, Status: 75, Words: "it is mounted"}
	}
	h.change(c, func(*Copy) {})
	return c
}

func (h *host) change(c *Copy, change func(*Copy)) {
	h.Helper()
	change(c)
	if err := save(h.dir, c); err != nil {
		h.Fatal(err)
	}
}

func TestOrder(t *testing.T) {
	h := newHost(t)
	h.remember("new/xvda", "dom0b", time.Hour, 0)
	h.remember("old/xvda", "dom0b", 50*time.Hour, 2)
	h.remember("old/xvdb", "dom0b", time.Hour, 0)
	h.remember("half/xvda", "dom0b", time.Hour, 0)
	h.remember("half/xvdb", "dom0b", 0, 1)
	h.remember("away/xvda", "dom0b", 2*time.Hour, 0) // another Dom0 has been away for long
	h.remember("away/xvda", "dom0c", 1000*time.Hour, 40)
	h.remember("bad/xvda", "dom0b", time.Hour, 0)
	h.remember("whole", "", 0, 3)
	testkit.Write(t, fileOf(h.dir, "bad/xvda", "dom0b"), "{")
	got, err := Order(h.dir, []string{"new", "old", "away", "half", "never", "bad", "whole"})
	want := []string{"half", "never", "bad", "whole", "old", "away", "new"}
	if !slices.Equal(got, want) || err != nil {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if got, err := Order(newHost(t).dir, []string{"b", "a"}); !slices.Equal(got, []string{"b", "a"}) || err != nil {
		t.Errorf("nothing remembered: %v, %v", got, err)
	}
}

func TestSince(t *testing.T) {
	h := newHost(t)
	since := func(begun time.Duration) string {
		t.Helper()
		line, err := Since(h.dir, now.Add(-begun), now)
		if err != nil {
			t.Error(err)
		}
		return line
	}
	if line := since(time.Hour); line != "" {
		t.Errorf("nothing was done: %q", line)
	}
	h.remember("web1/xvda", "dom0b", time.Minute, 0)
	h.remember("web1/xvda", "dom0c", 2*time.Minute, 0)
	h.remember("web1/xvdb", "dom0b", time.Minute, 0)
	h.remember("gone/xvda", "dom0b", 500*time.Hour, 0) // not of this run
	h.remember("web1/xvdz", "dom0b", 600*time.Hour, 0) // left out since
	if line, want := since(time.Hour), "1 DomU, 2 disks, 2 Dom0s: 3 copied, 0 failed; 0 tracked, 0 B read; oldest web1 xvda on dom0c, 2 min"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
	h.remember("web3/xvda", "dom0c", 26*time.Hour, 1)
	if line, want := since(time.Hour), "2 DomUs, 3 disks, 2 Dom0s: 3 copied, 1 failed; 0 tracked, 0 B read; oldest web3 xvda on dom0c, 26 h"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
	// A DomU that failed as a whole is as old as its copies are, on that peer or on all.
	h.remember("web4/xvda", "dom0b", 30*time.Hour, 0)
	h.remember("web4/xvda", "dom0c", 40*time.Hour, 0)
	h.remember("web4", "dom0b", 0, 1)
	if line, want := since(time.Hour), "3 DomUs, 3 disks, 2 Dom0s: 3 copied, 2 failed; 0 tracked, 0 B read; oldest web4 xvda on dom0b, 30 h"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
	h.remember("web4", "", 0, 1)
	if line, want := since(time.Hour), "3 DomUs, 3 disks, 2 Dom0s: 3 copied, 3 failed; 0 tracked, 0 B read; oldest web4 xvda on dom0c, 40 h"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
	h.remember("web5/xvda", "dom0b", 0, 1)
	if line, want := since(time.Hour), "4 DomUs, 4 disks, 2 Dom0s: 3 copied, 4 failed; 0 tracked, 0 B read; oldest web5 xvda on dom0b, never copied"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
	// Before the clock was set back.
	h.remember("web6/xvda", "dom0b", -time.Hour, 0)
	if line, want := since(time.Hour), "4 DomUs, 4 disks, 2 Dom0s: 3 copied, 4 failed; 0 tracked, 0 B read; oldest web5 xvda on dom0b, never copied"; line !=
		want {
		t.Errorf("%q, want %q", line, want)
	}
}

// TestLastCopied finds out whose standby it is by what was copied there last: also of a DomU that was renamed.
func TestLastCopied(t *testing.T) {
	h := newHost(t)
	if c := LastCopied(h.dir, "dom0b", "/t"); c != nil {
		t.Errorf("%+v", c)
	}
	for disk, age := range map[string]time.Duration{"domu1/xvda": 2 * time.Hour, "domu2/xvda": time.Hour, "domu3/xvda": 3 * time.Hour} {
		h.remember(disk, "dom0b", age, 0)
	}
	h.remember("domu4/xvda", "dom0b", 0, 1) // it never got there
	h.remember("domu5/xvda", "dom0c", time.Minute, 0)
	if c := LastCopied(h.dir, "dom0b", "/t"); c == nil || c.Disk != "domu2/xvda" {
		t.Errorf("%+v", c)
	}
}
