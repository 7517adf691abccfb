package replicate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
)

// A copy is proved by its sums, and these are of what was listed as changed. What storage has not listed, nobody has read,
// here or there; and no witness tells of a block that has rotted below the standby's device. So from time to time all of
// it is compared.

// isDue reports whether the copy is to be compared with its source. Of a last copy it never is due: a DomU is off meanwhile.
func (c *copied) isDue() bool {
	return c.Verify || !c.Final && runs.IsDue(c.State, c.DomU+"/"+c.row.Disk, c.row.Dom0, c.VerifyEvery, time.Now())
}

// verify compares a standby with what was read for it. It reports whether they were equal.
func (c *copied) verify() bool {
	e := c.compare()
	if differ(e) && c.snapshots { // else it may be the source that has changed
		c.mend(e)
		return false
	}
	return c.recordVerified(e)
}

// compare compares them, block by block.
func (c *copied) compare() *ended {
	return c.ask(c.dom0, c.Stall, nil, c.sign(), c.delta("--check", "--summary", c.file("compared")))
}

// where names the bytes at which the first differences begin that compare has found.
func (c *copied) where() string {
	at, err := runs.ReadFirstChanged(c.file("compared"))
	if err != nil {
		return ""
	}
	return " at " + strings.ReplaceAll(strings.Trim(fmt.Sprint(at), "[]"), " ", ", ")
}

// differ reports whether that was done, and has found a difference.
func differ(e *ended) bool { return slices.Equal(e.stages, []int{exit.OK, exit.No}) }

func (c *copied) recordVerified(e *ended) bool {
	if !c.record(c.reportOf(c.row, runs.Verify), e) {
		return false
	}
	c.say(infoLevel, "#### "+c.row.place()+": verified, "+e.answer.String())
	return true
}

// mend copies all of a standby that differs from what was read for it, out of the same snapshot. If it is what is
// remembered of it there, runs have missed what had changed, and it becomes right. Else somebody has changed it, or its
// storage has: it is refused (80), as it would be by any run, whatever this one was allowed to overwrite before.
//
// That it is known goes first, and the base that this run has kept: its record says that the standby has its image, and it
// has not. If this is cut short, or fails, the next run would find no fault with the standby that is known to have one.
// Those of other peers went by what the storage has told, too: none of their bases is used until all was compared (runs.Doubt).
func (c *copied) mend(found *ended) {
	c.missed = found.answer.String() + c.where()
	report := c.reportOf(c.row, runs.Verify)
	report.Missed = c.missed
	if err := report.RecordMissed(c.State); err != nil {
		c.say(warningLevel, "#### "+c.row.place()+": what was missed is not remembered: "+err.Error())
	}
	c.forgetBases()
	c.say(errLevel, fmt.Sprintf("### ERROR %d: %s, disk %s: %s was compared with its source: they differ: %s; all of it is copied now",
		exit.No, c.about(), c.row.Disk, c.row.place(), c.missed))
	done := c.show()
	c.ended = c.ask(c.dom0, c.Stall, nil, c.sign(), c.delta(c.sending()...), without(c.patch(), []string{"--force-diverged"}))
	done()
	if !c.ended.good() {
		c.recordCopy()
		return
	}
	if c.set != "" && !c.commit() {
		c.recordVerified(found) // what failed for the DomU is forgotten with the next disk that was copied
		return
	}
	// Of what is not as it should be twice nobody says that it is mended.
	if e := c.compare(); !e.good() {
		c.recordVerified(e)
	} else if c.recordCopy() {
		c.say(warningLevel, "#### "+c.row.place()+": mended, and verified. What tells which blocks of "+c.row.Source+
			" have changed has not told of these, or xen-backup has a fault: please report it")
	}
}
