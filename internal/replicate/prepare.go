package replicate

import (
	"slices"
	"strings"
	"sync/atomic"

	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/text"
)

// Prepare asks all Dom0s of the rows whether the DomU is active there, too, and has them look at its standbys, and finish
// what was interrupted there. It returns the rows of those where every disk may be copied, with the answers.
func Prepare(o Options, rows []*Row, user User) (ready []*Row, err error) {
	r, release, err := newRun(o, user)
	if err != nil {
		return nil, err
	}
	defer release()
	if o.Final {
		r.snapshots = witness(rows)
	}
	all := byDom0(rows)
	var twice atomic.Bool
	good := each(all, len(all), func(rows []*Row) bool {
		p := &preparation{run: r, dom0: r.dom0(rows[0].Dom0), rows: rows}
		defer func() { // of nothing that may be copied while it is active there
			if p.twice {
				twice.Store(true)
			}
		}()
		return p.do()
	})
	if twice.Load() {
		return nil, exit.Answer(exit.Elsewhere)
	}
	for _, rows := range good {
		if r.isWanted(rows[0].Dom0) {
			ready = append(ready, rows...)
		}
	}
	return ready, partial(len(good) < len(all))
}

func (r *run) isWanted(dom0 string) bool { return r.To == "" || r.To == dom0 }

// preparation is that of one Dom0.
type preparation struct {
	*run
	dom0  *dom0
	rows  []*Row
	twice bool // the DomU is active there, too
}

// do reports whether all is well. Of a Dom0 that nobody wants to copy to, only that the DomU is active there is not.
func (p *preparation) do() bool {
	wanted := p.isWanted(p.dom0.name)
	if p.dom0.isDead() {
		return !wanted || p.recordDead(p.dom0)
	}
	e := p.ask(p.dom0, askLimit, nil, p.at(p.dom0, append(append([]string{"xb-locate", "--active"}, p.toolstack()...), p.DomU)...))
	if e.good() {
		e.stages[0] = activeStatus(e.answer.String())
	}
	if p.twice = e.stages[0] == exit.Elsewhere; p.twice {
		e.answer.list = nil // it has been said
	}
	switch {
	case !wanted && !p.twice:
		return true
	case !e.good():
		return p.record(p.report(p.dom0, runs.Ask), e)
	}
	return p.prepareDisks()
}

func (r *run) toolstack() []string {
	if r.Toolstack == "" {
		return nil
	}
	return []string{"--toolstack", r.Toolstack}
}

// activeStatus returns what an answer means. A shell that does nothing, or says more, is none of ours.
func activeStatus(answer string) int {
	switch strings.TrimRight(answer, "\n") {
	case "no":
		return exit.OK
	case "yes":
		return exit.Elsewhere
	}
	return exit.NotOurs
}

// recordDead records that a Dom0 cannot be reached.
func (r *run) recordDead(d *dom0) bool {
	const noConnection = 255 // as ssh says
	e := &ended{stages: []int{noConnection}}
	e.said.add(d.whyDead())
	return r.record(r.report(d, runs.Connect), e)
}

// prepareDisks prepares one standby after the other, and reports whether all can be copied to.
func (p *preparation) prepareDisks() bool {
	var lost []string
	for _, row := range p.rows {
		if !p.prepareDisk(row) {
			lost = append(lost, row.Disk)
		}
		if p.dom0.isDead() {
			break
		}
	}
	if len(lost) > 0 {
		p.tellWhen(p.dom0, p.rows, lost)
	}
	return len(lost) == 0
}

var answerForm = text.Pattern(`^(full|tracked)( [!-~]+)*$`)

func (p *preparation) prepareDisk(row *Row) bool {
	words := slices.Concat([]string{"xb-patch", "--prepare"}, p.patchOptions(row), []string{"--size", row.Size}, p.blocks(),
		p.offer(row))
	if p.DryRun {
		words = append(words, "--dry-run")
	}
	e := p.ask(p.dom0, p.Stall, nil, p.at(p.dom0, append(words, row.Target)...))
	for _, line := range e.answer.list {
		if answerForm().MatchString(line) {
			row.Answer = line
		}
	}
	if row.answered("finished") == "yes" {
		p.say(infoLevel, "### remote Dom0 "+row.Dom0+": finished the interrupted apply on "+row.Target)
	}
	if e.good() && row.Answer == "" {
		e.stages[0] = exit.NotOurs
	}
	well := p.record(p.reportOfPrepare(row, e), e)
	if p.DryRun && row.Answer != "" {
		p.say(infoLevel, "### would sync "+p.DomU+" from "+row.Local+" to "+row.Dom0+": "+row.Source+" to "+row.Target)
		how := "tracked"
		if why := p.whyFull(row); why != "" {
			how = "full: " + why
		}
		p.say(infoLevel, "#### "+row.place()+": "+how)
	}
	return well
}

// reportOfPrepare is that of a standby that was prepared, or refused: if for what this host has last copied there is of
// another DomU, it is the conf file that is wrong.
func (p *preparation) reportOfPrepare(row *Row, e *ended) *runs.Report {
	if status := e.stages[0]; status == exit.Busy || status == exit.NotBasis {
		if other := runs.LastCopied(p.State, row.Dom0, local(row.Target)); other != nil && other.DomU() != p.DomU {
			e.stages[0] = exit.Config
			e.said.list = slices.Insert(e.said.list, 0, row.Source+" would overwrite "+row.Dom0+":"+row.Target+" of "+
				other.DomU()+" "+other.Source)
			return p.report(p.dom0, runs.Other)
		}
	}
	return p.reportOf(row, runs.Prepare)
}

// blocks are the options that say how images are compared.
func (r *run) blocks() []string { return []string{"-b", r.BlockSize, "--hash", r.Hash} }

// patchOptions are those of whatever xb-patch does with one standby.
func (r *run) patchOptions(row *Row) []string {
	words := []string{"--heartbeat", "--peer", row.Local, "--disk", r.DomU + "/" + row.Disk, "--sector-size", row.Sector}
	words = append(words, r.toolstack()...)
	if r.CreateLV != "" {
		words = append(words, "--create-lv", r.CreateLV)
	}
	if r.FirstCopy != "" {
		words = append(words, "--first-copy", r.FirstCopy)
	}
	if r.Force {
		words = append(words, "--force-diverged")
	}
	if row.UUID != none {
		words = append(words, "--uuid", row.UUID)
	}
	return words
}

// tellWhen tells, of a Dom0 that keeps an older standby of several disks, or none, of when that is.
func (r *run) tellWhen(d *dom0, rows []*Row, lost []string) {
	if len(rows) == 1 || r.DryRun {
		return
	}
	words := ""
	if len(lost) > 0 {
		words = "failed: " + strings.Join(lost, " ") + "; "
	}
	r.say(errLevel, "### "+r.about()+": "+words+"its standby on "+d.name+" "+r.whenOf(d, rows...))
}

// whenOf asks a Dom0 of when its standbys are.
func (r *run) whenOf(d *dom0, rows ...*Row) string {
	if !d.isDead() {
		list := []string{"xb-patch", "--list", "--when"}
		for _, row := range rows {
			list = append(list, r.DomU+"/"+row.Disk)
		}
		if e := r.ask(d, askLimit, nil, r.at(d, list...)); e.good() {
			return e.answer.String()
		}
	}
	return "cannot be asked of when it is"
}
