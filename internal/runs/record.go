package runs

import (
	"errors"
	"fmt"
	"time"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// Record remembers a step of a run, and returns what is to be logged of it and the status that tells how it ended: 0 if
// all is well. What cannot be remembered is no success.
func (r *Report) Record(dir state.Dir) (lines []Line, status int) {
	if err := checkNames(r.disk(), r.Peer); err != nil {
		return []Line{r.errorLine(exit.Usage, err.Error())}, exit.Usage
	}
	status = r.causeOf()
	now := time.Now().UTC().Truncate(time.Second)
	if status == exit.OK {
		return r.recordSuccess(dir, now)
	}
	line, words := r.failed(status)
	lines = append([]Line{line}, r.lines(errorLevel)...)
	if r.DryRun {
		return lines, status
	}
	err := r.change(dir, func(c *Copy) {
		c.fail(Attempt{now, r.Step, status, words})
		if r.Missed == "" {
			return
		}
		c.Failures = max(1, c.Failures-1) // this run was counted when it was found
		if status == exit.NotBasis {      // somebody has changed the standby, or its storage has
			c.Missed = nil
		}
	})
	if err != nil {
		lines = append(lines, r.cannotRemember(err))
	}
	return lines, status
}

func (r *Report) disk() string {
	if r.Disk == "" {
		return r.DomU
	}
	return r.DomU + "/" + r.Disk
}

func (r *Report) cannotRemember(err error) Line {
	what := "what became of it"
	if r.Disk != "" {
		what = "what " + r.Peer + " has of " + r.Source
	}
	return r.errorLine(exit.StatusOf(err), "cannot remember "+what+": "+err.Error())
}

// recordSuccess remembers a copy, or that one was verified. Of other steps there is nothing to remember.
func (r *Report) recordSuccess(dir state.Dir, now time.Time) (lines []Line, status int) {
	var err error
	var mended bool
	lines = r.lines(warningLevel)
	if r.DryRun {
		return lines, exit.OK
	}
	switch r.Step {
	case CopyStep:
		mended, err = r.recordCopy(dir, now)
	case Verify:
		r.Verified = true
		err = r.change(dir, func(c *Copy) { mended = c.verify(r.of(now), now) })
	}
	if err != nil {
		return append(lines, r.cannotRemember(err)), exit.StatusOf(err)
	}
	if r.Step == CopyStep {
		lines = append(lines, newLine(infoLevel, fmt.Sprintf("#### %s: %d bytes changed, %d sent, %d read",
			r.place(), r.Sent.Changed, r.Sent.Bytes, r.Sent.BytesRead)))
	}
	if r.Verified {
		lines = append(lines, newLine(infoLevel, "#### "+r.place()+": verified"))
	}
	if mended {
		lines = append(lines, newLine(warningLevel, "#### "+r.place()+": what runs had missed is mended"))
	}
	return lines, exit.OK
}

// RecordMissed remembers that a standby is not what it should be, before it is tried to mend it: that may be cut short.
func (r *Report) RecordMissed(dir state.Dir) error {
	now := time.Now().UTC().Truncate(time.Second)
	return r.change(dir, func(c *Copy) {
		words := bounded(r.Missed, maxRemembered)
		c.Missed = &Missed{Time: now, Of: r.of(now), Unmended: true, Words: words}
		c.fail(Attempt{now, Verify, exit.No, "it is not what it should be: " + words})
	})
}

// of returns of when the source is that was read.
func (r *Report) of(now time.Time) time.Time {
	if r.Taken.IsZero() {
		return now
	}
	return r.Taken.UTC().Truncate(time.Second)
}

// recordCopy remembers a copy that was made, and reports whether it mended what was found before. What the state of its
// source cannot be told is no copy.
func (r *Report) recordCopy(dir state.Dir, now time.Time) (mended bool, err error) {
	if err := r.saveSent(dir); err != nil {
		words := bounded(r.cannotRemember(err).Text, maxRemembered)
		return false, errors.Join(err, r.change(dir, func(c *Copy) { c.fail(Attempt{now, r.Step, exit.StatusOf(err), words}) }))
	}
	if err := r.change(dir, func(c *Copy) { mended = c.succeed(r, now) }); err != nil {
		return false, err
	}
	// What it had before it has no more, also where this fails: then no base fits, and the next run reads all.
	if err := base.Settle(dir, r.disk(), r.Peer, r.Sent.Image); err != nil {
		return mended, err
	}
	return mended, r.endOfFailures(dir)
}

// saveSent has both hosts know their last common image when the roles change.
func (r *Report) saveSent(dir state.Dir) error {
	if r.Sent == nil {
		return r.Unsent
	}
	identity, err := identityOf(r.Source)
	if err != nil {
		return err
	}
	return dir.Device(identity, r.Source).SaveSent(r.Peer, r.Sent.Image)
}

func identityOf(path string) (string, error) {
	if err := blockdev.Check(path); err != nil {
		return "", err
	}
	return blockdev.Identity(path)
}

// success is what is remembered of a copy that was made.
func (r *Report) success(now time.Time) *Success {
	s := &Success{Time: now, Taken: r.Taken, Seconds: r.Sent.Seconds, Read: r.Sent.BytesRead, Changed: r.Sent.Changed,
		Sent: r.Sent.Bytes, Tracked: r.Sent.Tracked, Set: r.Set, Final: r.Final, Size: r.Sent.Image.Size}
	if s.Witness = r.Witness; r.Final && s.Witness == "" {
		s.Witness = Witness(r.Source, s.Size)
	}
	return s
}

// Witness returns that of the first size bytes of a source, as blockdev does, "" if it has none.
func Witness(source string, size int64) string {
	file, err := blockdev.Open(source)
	if err != nil {
		return ""
	}
	defer file.Close()
	return file.Witness(size)
}

// change changes what is remembered, while no other recorder does. What cannot be understood any more is replaced: it
// tells nobody anything, and must not keep this run from being remembered.
func (r *Report) change(dir state.Dir, change func(*Copy)) error {
	release, err := pairs(dir).Lock(patience)
	if err != nil {
		return err
	}
	defer release()
	c, err := load(dir, r.disk(), r.Peer)
	if err != nil && exit.StatusOf(err) != exit.Config {
		return err
	}
	if c == nil {
		c = &Copy{Disk: r.disk(), Peer: r.Peer, Source: r.Source, Target: r.Target}
	}
	change(c)
	return save(dir, c)
}

// endOfFailures forgets what had failed for the whole DomU, now that one of its disks was copied.
func (r *Report) endOfFailures(dir state.Dir) error {
	release, err := pairs(dir).Lock(patience)
	if err != nil {
		return err
	}
	defer release()
	if err := pairs(dir).Remove(r.DomU, named(r.Peer)); err != nil {
		return err
	}
	return pairs(dir).Remove(r.DomU, all)
}

func (c *Copy) fail(a Attempt) {
	c.Attempt = a
	c.Failures++
}

// succeed reports whether what was found before is mended by that.
func (c *Copy) succeed(r *Report, now time.Time) (mended bool) {
	c.Source, c.Target, c.Success, c.Failures = r.Source, r.Target, r.success(now), 0
	c.Attempt = Attempt{Time: now, Step: CopyStep}
	if c.Since.IsZero() {
		c.Since = now
	}
	if r.Verified {
		c.Verified = now
	}
	if !r.Sent.Tracked {
		mended = c.compared(r.of(now), now)
	}
	if r.Missed == "" {
		c.proved(r.Verified)
		return mended
	}
	c.Missed = &Missed{Time: now, Of: r.of(now), Unproved: true, Words: bounded(r.Missed, maxRemembered)}
	return false // who has found it tells
}

// compared remembers that all of it is what its source was then, and reports whether it was known not to be.
func (c *Copy) compared(of, now time.Time) (mended bool) {
	c.Compared = of
	if mended = c.Missed != nil && c.Missed.Unmended; mended {
		c.Missed.Time, c.Missed.Unmended, c.Missed.Unproved = now, false, true
	}
	return mended
}

// proved remembers that a comparison has found nothing, if there was one.
func (c *Copy) proved(verified bool) {
	if verified && c.Missed != nil {
		c.Missed.Unproved = false
	}
}

func (c *Copy) verify(of, now time.Time) (mended bool) {
	c.Verified = now
	mended = c.compared(of, now)
	c.proved(true)
	if c.Attempt.Step == Verify { // that it differed is over; a copy that failed is not
		c.Failures = 0
		c.Attempt = Attempt{Time: now, Step: Verify}
	}
	if c.Attempt.Time.IsZero() { // nothing was known of it
		c.Attempt = Attempt{Time: now, Step: Verify}
	}
	return mended
}
