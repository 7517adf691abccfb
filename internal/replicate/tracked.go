package replicate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/base"
	"xen-backup/internal/conf"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/runs"
	"xen-backup/internal/snapshot"
)

// A copy is tracked where this host still has the image that the standby is, in a snapshot which an earlier run kept:
// the base. Then only that is read which has changed since, by the storage's own records. A base is never needed:
// whatever is wrong with one, the disk is compared in full in the same run. What is wrong with the standby is not hidden
// by that.

// The words of TRACK.
const (
	TrackAuto = "auto" // where it costs the guest little
	TrackYes  = "yes"
	TrackNo   = "no"
)

// tracks reports whether bases are used and kept. What is no snapshot can't be one, nor be compared with one.
func (r *run) tracks() bool { return r.Track != TrackNo && r.snapshots }

// offer returns the options that tell a Dom0 which images this host still has.
func (p *preparation) offer(row *Row) (words []string) {
	if !p.tracks() {
		return nil
	}
	bases, why := p.bases(row)
	for _, line := range why {
		p.say(infoLevel, "#### "+row.place()+": "+line)
	}
	for _, b := range bases {
		if !slices.Contains(words, b.Image) {
			words = append(words, "--have", b.Image)
		}
	}
	return words
}

// bases returns those of a disk which certainly still are what they were, the latest last, and why others are not.
func (r *run) bases(row *Row) ([]*base.Record, said) {
	var why said
	bases, err := snapshot.Bases(local(row.Source), row.Dom0, r.State, &why)
	if err != nil {
		why.Warn("no base can be used: %v", err)
	}
	return bases, why
}

// said is what the room of snapshots has to say.
type said []string

func (s *said) Warn(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }
func (s *said) Info(format string, args ...any) { s.Warn(format, args...) }

// reasons are what xb-patch --prepare calls them, in words.
var reasons = map[string]string{
	"first-copy": "it is the first copy",
	"no-base":    "no snapshot is kept here of the image that is there",
	"forced":     "what has diverged may be overwritten",
	"unfinished": "an apply is to be finished first",
}

// whyFull says why a disk will be compared in full, "" if it will not.
func (r *run) whyFull(row *Row) string {
	switch reason := row.answered("reason"); {
	case !r.snapshots:
		return "--final"
	case r.Track == TrackNo:
		return "TRACK=no"
	case row.answered("basis") != "":
		return runs.Doubt(r.State, r.DomU+"/"+row.Disk, row.Dom0)
	default:
		return cmp.Or(reasons[reason], reason)
	}
}

// transfer has the standby become what is read, or be held as that.
func (c *copied) transfer() *ended {
	why, level := c.whyFull(c.row), infoLevel
	var refused *ended
	if why == "" {
		var err error
		if refused, err = c.track(); err == nil {
			return refused
		}
		why = err.Error()
		if !errors.Is(err, errTooMuch) {
			level = warningLevel
		}
	}
	if refused == nil {
		c.sayFull(level, why)
	}
	e := c.ask(c.dom0, c.Stall, nil, c.pipeline()...)
	if refused != nil && e.good() { // else the standby is what was refused, and its words are told
		c.sayFull(level, why)
	}
	return e
}

func (c *copied) sayFull(level, why string) {
	if c.tracks() {
		c.say(level, "#### "+c.row.place()+": compared in full: "+why)
	}
}

// errTooMuch is the cause of a full copy that is quicker.
var errTooMuch = errors.New("more than half of it is listed as changed")

// track copies what has changed since the base. An error says why the disk has to be compared in full: the standby has
// seen but a stream that was cut, or has refused it, and is as it was. Of a refusal it returns both.
func (c *copied) track() (*ended, error) {
	old, err := c.findBase()
	if err == nil {
		err = c.list(old)
	}
	if err != nil {
		return nil, err
	}
	since := []string{"--since", old, "--basis", c.file("base"), "--extents", c.file("extents")}
	e := c.ask(c.dom0, c.Stall, nil, c.delta(append(since, c.sending()...)...), c.patch())
	c.heedSignal(e)
	switch {
	case e.stalled > 0:
	case e.stages[0] != exit.OK && e.stages[1] == exit.BadStream:
		return nil, e.failure()
	case e.stages[1] == exit.NotBasis:
		// It may be right, or the base is not what it was, though nothing tells so: its storage has changed it, or it is of
		// before a failover. Which it is, is seen by who reads all of the target.
		return e, e.failure()
	}
	return e, nil
}

// findBase writes down the record of the base that the other side has chosen, and returns its path.
func (c *copied) findBase() (path string, err error) {
	bases, why := c.bases(c.row)
	for _, b := range slices.Backward(bases) {
		if b.Image == c.row.answered("basis") {
			text, err := json.Marshal(b)
			if err == nil {
				err = os.WriteFile(c.file("base"), text, 0o600)
			}
			return b.Snapshot, err
		}
	}
	return "", errors.New(cmp.Or(strings.Join(why, "; "), "the base is gone"))
}

// list writes down what has changed since the base, unless it is so much that a full copy is quicker.
func (c *copied) list(old string) error {
	out, err := os.Create(c.file("extents"))
	if err != nil {
		return err
	}
	e := c.programs.watchInto(c.Stall, nil, out, pipeline{{"xb-snap", "changes", "--state-dir", string(c.State), "--since", old, c.reads}})
	if c.heedSignal(e); !e.good() {
		return e.failure()
	}
	listed, err := total(c.file("extents"))
	if err != nil {
		return err
	}
	if size, err := strconv.ParseInt(c.row.Size, 10, 64); err == nil && listed > size/2 {
		return fmt.Errorf("%w: %d of %d bytes", errTooMuch, listed, size)
	}
	return nil
}

// total returns the length of all extents in a file, which has to have the whole list.
func total(file string) (int64, error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	list := extent.NewReader(in)
	for {
		if _, _, err := list.Next(); err == io.EOF {
			return list.Bytes(), nil
		} else if err != nil {
			return 0, err
		}
	}
}

// keepLimit is how long it may take to keep a base: LVM is at work, and other disks come first.
const keepLimit = 5 * time.Minute

// keep has the snapshot that was sent stay as the base of the next copy. It is called before the other side can have the
// new image for good, or when nobody knows whether it has. A base that is not kept costs a full copy, and no more.
func (c *copied) keep() {
	if c.Track == TrackNo {
		c.forgetBases()
	}
	if !c.tracks() || c.Snapshots == nil {
		return
	}
	basis := c.row.answered("basis")
	sent, err := runs.ReadSent(c.file("summary"))
	if err != nil || sent.Tracked && sent.Image.Text() == basis { // of one image the base that is there is as good
		return
	}
	words := []string{"xb-snap", "keep", "--words", "--state-dir", string(c.State), "--for", c.row.Dom0, "--disk", c.DomU + "/" + c.row.Disk,
		"--summary", c.file("summary"), "--taken", c.taken()}
	if c.Track == TrackAuto {
		words = append(words, "--auto")
	}
	if basis != "" {
		words = append(words, "--basis", basis)
	}
	e := c.programs.watch(keepLimit, nil, pipeline{append(words, c.reads)})
	c.heedSignal(e)
	level := warningLevel
	if e.stages[0] == exit.Usage { // it can be no base where it is
		level = infoLevel
	}
	for _, line := range e.said.list {
		c.sayAsTold(level, "#### "+c.row.place()+": ", strings.TrimPrefix(line, errLevel+" "))
	}
}

// forgetBases lets go what nobody wants any more.
func (c *copied) forgetBases() {
	if err := base.Drop(c.State, c.DomU+"/"+c.row.Disk, c.row.Dom0); err != nil {
		c.say(warningLevel, "#### "+c.row.place()+": bases are not forgotten: "+err.Error())
	}
}

// forgetOthers lets go the bases of disks that the DomU has no more, or of which no copies are wanted any more, by no
// conf file.
func (d *delivery) forgetOthers() {
	var disks []string
	for _, row := range d.rows {
		disks = append(disks, d.DomU+"/"+row.Disk)
	}
	for _, disk := range d.Exclude {
		if conf.IsCopied(d.Run, d.DomU, d.dom0.name, disk) {
			disks = append(disks, d.DomU+"/"+disk)
		}
	}
	if err := base.DropOthers(d.State, d.DomU, d.dom0.name, disks); err != nil {
		d.say(warningLevel, "### "+d.about()+": bases of other disks are not forgotten: "+err.Error())
	}
}
