package replicate

import (
	"path/filepath"
	"slices"

	"xen-backup/internal/runs"
)

// copied is one disk on its way to one Dom0.
type copied struct {
	*delivery
	row    *Row
	reads  string // the path that is read: of a snapshot, or the source
	ended  *ended // how its copy has
	missed string // of it by runs before, in words
}

// do brings one standby up to date, or has the other side hold the new image for its set. It reports whether that went
// well.
func (c *copied) do() bool {
	if c.dom0.isDead() {
		return c.recordDead()
	}
	c.say(infoLevel, "### sync "+c.DomU+" from "+c.row.Local+" to "+c.row.Dom0+": "+c.row.Source+" to "+c.row.Target)
	done := c.show()
	c.ended = c.transfer()
	done()
	if c.set != "" && c.ended.good() {
		return true // it is kept and recorded when its set is committed
	}
	if c.set == "" {
		c.keep()
	}
	return c.recordCopy()
}

// show shows how far what is sent has come, until done is called.
func (c *copied) show() (done func()) {
	return c.progress.show(&shown{name: c.DomU + " " + c.row.Disk + " to " + c.row.Dom0, place: c.row.place(), file: c.file("progress")})
}

// pipeline is what brings the standby up to date by comparing all of it. All of its programs tell of their progress.
func (c *copied) pipeline() pipeline { return pipeline{c.sign(), c.delta(c.sending()...), c.patch()} }

// sending are the options of an xb-delta whose delta travels.
func (c *copied) sending() []string {
	words := []string{"--progress-file", c.file("progress"), "--summary", c.file("summary")}
	if c.BWLimit != "" {
		words = append(words, "--bwlimit", c.BWLimit)
	}
	return words
}

func (c *copied) sign() []string {
	words := slices.Concat([]string{"xb-sig", "--heartbeat", "--missing-ok"}, c.farBackground(), c.blocks())
	return c.at(c.dom0, append(words, c.row.Target)...)
}

func (c *copied) delta(more ...string) []string {
	words := []string{"xb-delta", "--heartbeat"}
	if c.ReadLimit != "" {
		words = append(words, "--read-limit", c.ReadLimit)
	}
	if c.Background {
		words = append(words, "--background")
	}
	return append(append(words, more...), c.reads)
}

func (c *copied) patch() []string {
	words := slices.Concat([]string{"xb-patch", "--auto"}, c.patchOptions(c.row), c.farBackground())
	if c.set != "" {
		words = append(words, "--hold", c.set)
	}
	words = append(words, c.pointOptions()...)
	if c.row.Owner != none {
		words = append(words, "--owner", c.row.Owner)
	}
	if c.row.Mode != none {
		words = append(words, "--mode", c.row.Mode)
	}
	return c.at(c.dom0, append(words, c.row.Target)...)
}

// pointOptions say of when the image is, and of which times images are to be kept there. An older xb-patch takes only the
// time of a set.
func (c *copied) pointOptions() (words []string) {
	knows := c.row.answered("points") == "yes"
	if c.set != "" || knows {
		words = append(words, "--taken", c.taken())
	}
	if c.Keep != "" && knows {
		words = append(words, "--keep", c.Keep)
	}
	return words
}

// farBackground lets guests of the other side go first, where there are any.
func (c *copied) farBackground() []string {
	if c.Background && c.row.answered("guests") == "yes" {
		return []string{"--background"}
	}
	return nil
}

func (c *copied) recordCopy() bool {
	report := c.reportOf(c.row, runs.CopyStep)
	report.Final, report.Witness, report.Set, report.Missed, report.Verified = c.Final, c.row.witness(), c.set, c.missed, c.missed != ""
	if c.ended.good() {
		report.Sent, report.Unsent = runs.ReadSent(c.file("summary"))
	}
	if c.set == "" { // else all disks are told of together
		c.addState(c.ended, c.row)
	}
	return c.record(report, c.ended)
}

// file names one of the files that a copy needs here.
func (c *copied) file(what string) string {
	return filepath.Join(c.dir, c.row.Dom0+"."+c.row.Disk+"."+what)
}

// finish remembers what came in a set, and compares the copy with its source if that is wanted.
func (c *copied) finish() bool {
	return (c.set == "" || c.recordCopy()) && (!c.isDue() || c.verify())
}
