package runs

import (
	"fmt"
	"time"

	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Since says in one line what was done since a time, "" if it is nothing.
func Since(dir state.Dir, since, now time.Time) (line string, err error) {
	copies, damaged, err := everything(dir, nil)
	if err != nil {
		return "", err
	}
	s := newSince(copies, since, now)
	domus, disks, peers := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	copied, failures, tracked, read := 0, 0, 0, int64(0)
	for _, c := range copies {
		if !s.touched(c) {
			continue
		}
		domus[c.DomU()] = true
		if c.Name() != "" {
			disks[c.Disk] = true
		}
		if c.Peer != "" {
			peers[c.Peer] = true
		}
		if c.Attempt.Failed() {
			failures++
		} else {
			copied++
		}
		if c.Success != nil && s.holds(c.Success.Time) {
			read += c.Success.Read
			if c.Success.Tracked {
				tracked++
			}
		}
	}
	if len(domus) == 0 {
		return "", nil
	}
	line = fmt.Sprintf("%s, %s, %s: %d copied, %d failed", count(len(domus), "DomU"), count(len(disks), "disk"),
		count(len(peers), "Dom0"), copied, failures)
	if copied > 0 {
		line += fmt.Sprintf("; %d tracked, %s read", tracked, text.FormatSize(read))
	}
	if oldest := s.oldest(copies); oldest != nil {
		line += "; oldest " + oldest.DomU() + " " + oldest.Name() + " on " + oldest.Peer + ", " + oldest.age(now)
	}
	if len(damaged) > 0 {
		line += "; what is remembered of " + count(len(damaged), "other") + " cannot be read"
	}
	return line, nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// since is what a run has to do with.
type since struct {
	time, now time.Time
	lost      map[[2]string]bool // DomUs that failed as a whole, with the peer, "" for all
}

func newSince(copies []*Copy, begun, now time.Time) *since {
	s := &since{begun, now, make(map[[2]string]bool)}
	for _, c := range copies {
		if c.Name() == "" && s.touched(c) {
			s.lost[[2]string{c.DomU(), c.Peer}] = true
		}
	}
	return s
}

// touched reports whether anything was tried since. What is remembered has no fractions of seconds. What was tried in the
// future was tried before the clock was set back.
func (s *since) touched(c *Copy) bool { return s.holds(c.Attempt.Time) }

func (s *since) holds(t time.Time) bool {
	return !t.Before(s.time.Truncate(time.Second)) && !t.After(s.now)
}

// oldest returns the oldest of the copies that were tried, or would have been if their DomU had not failed.
func (s *since) oldest(copies []*Copy) (oldest *Copy) {
	for _, c := range copies {
		tried := s.touched(c) || s.lost[[2]string{c.DomU(), c.Peer}] || s.lost[[2]string{c.DomU(), ""}]
		if c.Name() == "" || !tried {
			continue
		}
		if oldest == nil || c.of().Before(oldest.of()) {
			oldest = c
		}
	}
	return oldest
}

// of returns of when the copy is; the zero time if there is none.
func (c *Copy) of() time.Time {
	if c.Success == nil {
		return time.Time{}
	}
	return c.Success.Of()
}

// age says how old the copy is.
func (c *Copy) age(now time.Time) string {
	if c.Success == nil {
		return "never copied"
	}
	return text.FormatAge(max(0, now.Sub(c.of())))
}
