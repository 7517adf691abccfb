package replicate

import (
	"crypto/rand"
	"os"
	"strings"
	"sync"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
)

// Copy brings all Dom0s of the rows up to date, which Prepare has returned.
func Copy(o Options, rows []*Row, user User) error {
	var dir string
	clear, err := durable.Create(func() (remove func(), err error) {
		dir, err = os.MkdirTemp(o.Run, "copy.")
		return func() { os.RemoveAll(dir) }, err
	})
	if err != nil {
		return exit.Fail(exit.CantCreate, "%w", err)
	}
	defer clear()
	defer os.RemoveAll(dir)
	r, release, err := newRun(o, user)
	if err != nil {
		return err
	}
	defer release()
	if !r.snapshots {
		r.Jobs = 1 // what is no snapshot must have but one reader
	}
	all, err := r.deliveries(byDom0(rows), dir)
	if err != nil {
		return err
	}
	p := startProgress(r)
	defer p.end(user)
	good := each(all, r.Jobs, func(d *delivery) bool { d.progress = p; return d.do() })
	return partial(len(good) < len(all))
}

// delivery brings one Dom0 up to date: every disk, and when all are there the document by which the DomU starts from
// them. The disks of a DomU of several become the new ones together, or none does; and those of a last copy when it is sure
// that it is one.
type delivery struct {
	*run
	dom0     *dom0
	rows     []*Row
	disks    []*copied
	share    int    // of the copies at once
	set      string // that all disks are of; "": there is one, and it becomes new by itself
	dir      string // for files
	progress *progress
	dead     sync.Once // that it cannot be reached is told once
}

func (r *run) deliveries(all [][]*Row, dir string) (list []*delivery, err error) {
	reads, err := r.reads(all[0])
	if err != nil {
		return nil, err
	}
	for _, rows := range all {
		d := &delivery{run: r, dom0: r.dom0(rows[0].Dom0), rows: rows, share: r.share(len(all)), dir: dir}
		if len(rows) > 1 || r.Final {
			d.set = strings.ToLower(rand.Text())
		}
		for _, row := range rows {
			c := &copied{delivery: d, row: row, reads: row.Source}
			if path := reads[row.Disk]; path != "" {
				c.reads = path
			}
			d.disks = append(d.disks, c)
		}
		list = append(list, d)
	}
	return list, nil
}

// reads returns what is read in place of the sources.
func (r *run) reads(rows []*Row) (map[string]string, error) {
	if r.Snapshots == nil {
		return nil, nil
	}
	if len(r.Snapshots) != len(rows) {
		return nil, exit.Fail(exit.Usage, "%d snapshots of %d disks", len(r.Snapshots), len(rows))
	}
	reads := make(map[string]string)
	for i, row := range rows {
		reads[row.Disk] = r.Snapshots[i]
	}
	return reads, nil
}

// sessions is how many copies may go to one Dom0 at once: each takes two sessions, and sshd gives ten to a connection.
const sessions = 5

// share returns how many copies to one of so many Dom0s may go at once.
func (r *run) share(dom0s int) int {
	if r.BWLimit != "" {
		return 1 // the limit is that of one copy
	}
	return max(1, min(r.Jobs/dom0s, sessions/max(1, r.AtOnce)))
}

// do reports whether all went well.
func (d *delivery) do() bool {
	good := each(d.disks, d.share, (*copied).do)
	if d.set != "" && len(good) == len(d.disks) {
		good = d.areLast(false)
	}
	if lost := without(d.disks, good); len(lost) > 0 {
		d.tellHeld(good)
		d.tellWhen(d.dom0, d.rows, names(lost))
		return false
	}
	if d.set != "" {
		for _, c := range d.disks {
			c.keep()
		}
		if !d.commit() {
			d.tellWhen(d.dom0, d.rows, nil)
			return false
		}
	}
	d.forgetOthers() // and not before: what is a disk's base may have been kept when it had another name
	finished := each(d.disks, 1, (*copied).finish)
	stored := d.store()
	last := d.areLast(true)
	return stored && len(finished) == len(d.disks) && len(last) == len(d.disks)
}

func names(disks []*copied) (names []string) {
	for _, c := range disks {
		names = append(names, c.row.Disk)
	}
	return names
}

// tellHeld tells what the other side has got for a set that does not come about.
func (d *delivery) tellHeld(got []*copied) {
	if len(got) > 0 {
		d.say(warningLevel, "### "+d.about()+": what "+d.dom0.name+" has got of "+strings.Join(names(got), ", ")+
			" is not used without the other disks: the next run replaces it")
	}
}

func (d *delivery) recordDead() bool {
	d.dead.Do(func() { d.run.recordDead(d.dom0) })
	return false
}

func (r *run) taken() string { return r.Taken.UTC().Format("2006-01-02T15:04:05Z") }

// commit makes the images that are held there for the set the new ones.
func (d *delivery) commit() bool {
	list, words := []string{}, []string{"xb-patch", "--commit", d.set, "--peer", d.rows[0].Local, "--heartbeat"}
	for _, row := range d.rows {
		list, words = append(list, row.Disk), append(words, row.Target)
	}
	d.say(infoLevel, "### commit "+d.DomU+" on "+d.dom0.name+": "+strings.Join(list, " ")+", of "+d.taken())
	e := d.ask(d.dom0, d.Stall, nil, d.at(d.dom0, words...))
	report := d.report(d.dom0, runs.Commit)
	report.Set = d.set
	return d.record(report, e)
}

// store brings the document.
func (d *delivery) store() bool {
	if info, err := os.Stat(d.Bundle); d.Bundle == "" || err == nil && info.Size() == 0 {
		return true
	}
	in, err := os.Open(d.Bundle)
	if err != nil {
		return d.record(d.report(d.dom0, runs.Document), &ended{stages: []int{exit.IOError}, said: lines{list: []string{err.Error()}}})
	}
	e := d.ask(d.dom0, documentLimit, in, d.at(d.dom0, d.storing()...))
	if !e.good() {
		return d.record(d.report(d.dom0, runs.Document), e)
	}
	for _, line := range e.said.list {
		d.sayAsTold(warningLevel, "## remote Dom0 "+d.dom0.name+": ", line)
	}
	return true
}

// storing are the words that have the other side keep the document, with the names that the disks have there.
func (d *delivery) storing() []string {
	words := []string{"xb-locate", "--store", d.DomU, "--words"}
	for _, row := range d.rows {
		if row.Target != row.Source {
			words = append(words, "--map", row.Source+"="+row.Target)
		}
	}
	if d.set != "" {
		words = append(words, "--set", d.set, "--taken", d.taken())
	}
	for _, disk := range d.Exclude {
		words = append(words, "--drop", disk)
	}
	return words
}

// sayAsTold logs a line of a program, with the level that it begins with.
func (r *run) sayAsTold(level, prefix, line string) {
	first, rest, _ := strings.Cut(line, " ")
	if first == errLevel || first == warningLevel || first == infoLevel {
		level, line = first, rest
	}
	if line = strings.TrimRight(line, "\r"); line != "" {
		r.say(level, prefix+line)
	}
}

// addState has a copy that stood still tell what has become of its standby, and what finishes it.
func (r *run) addState(e *ended, row *Row) {
	d := r.dom0(row.Dom0)
	if e.stalled == 0 || d.isDead() {
		return
	}
	state := r.whenOf(d, row)
	if strings.Contains(state, " applying") {
		state += ": what has begun to be applied goes on there, or the next run finishes it, or on " + d.name +
			": xb-patch --recover " + row.Target
	}
	e.said.add("the standby " + state)
}
