package runs

import (
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"xen-backup/internal/state"
)

// IsDue reports whether a standby is to be compared in full with what was copied to it, as is done once in each span of
// so long, 0 for never. Its spans begin at moments that its names tell: so not all of a host's are due in one night, and
// which are on which does not depend on when they were copied first. Of what was found wrong nothing is taken on trust
// until it was found right.
func IsDue(dir state.Dir, disk, peer string, every time.Duration, now time.Time) bool {
	if every <= 0 {
		return false
	}
	c, err := load(dir, disk, peer)
	return err != nil || c != nil && c.isDue(every, now)
}

func (c *Copy) isDue(every time.Duration, now time.Time) bool {
	last := c.Verified
	switch m := c.Missed; {
	case m != nil && (m.Unmended || m.Unproved || last.Before(m.Time)):
		return true
	case last.IsZero():
		last = c.Since // of all that was there before there was this question not everything is due at once
	}
	return last.After(now.Add(skew)) || c.span(last, every) < c.span(now, every)
}

// span numbers the spans of a disk and peer.
func (c *Copy) span(t time.Time, every time.Duration) int64 {
	long := int64(every / time.Second)
	return (t.Unix() + int64(xxhash.Sum64String(c.Disk+" "+c.Peer)%uint64(long))) / long
}

// tellMissed is how long it is told that something had been missed.
const tellMissed = 7 * 24 * time.Hour

// missed says so; "" if it is long ago, or was never.
func (c *Copy) missed(now time.Time) string {
	switch m := c.Missed; {
	case m != nil && m.Unmended:
		return "it was compared in full at " + m.Time.UTC().Format(timeForm) + " and is not what it should be: " + m.Words +
			"; it is not mended yet: the next run compares it in full"
	case m == nil || now.Sub(m.Time) >= tellMissed:
		return ""
	}
	return "what had changed was missed by runs before it was compared in full and mended at " +
		c.Missed.Time.UTC().Format(timeForm) + ": " + c.Missed.Words
}

// Doubt says why no base of a disk and a peer is to be trusted: runs have missed what had changed, of this standby or of
// another one, for which they went by the same records of the storage, and all of this one was not compared since. "" is
// no doubt.
func Doubt(dir state.Dir, disk, peer string) string {
	domu, _, _ := strings.Cut(disk, "/")
	copies, _, _ := everything(dir, []string{domu}) // of what cannot be read nobody knows anything
	for _, c := range copies {
		if c.Disk == disk && c.Peer == peer {
			return c.doubt(copies)
		}
	}
	return ""
}

func (c *Copy) doubt(copies []*Copy) string {
	if c.Missed != nil && c.Missed.Unmended {
		return "runs had missed what had changed, and it is not mended yet"
	}
	for _, other := range copies {
		if other.Disk == c.Disk && other.Peer != c.Peer && other.Missed != nil && c.Compared.Before(other.Missed.of()) {
			return "it may lack what runs had missed on " + other.Peer + ", and was not compared in full since"
		}
	}
	return ""
}

func (m *Missed) of() time.Time {
	if m.Of.IsZero() {
		return m.Time
	}
	return m.Of
}
