package replicate

import (
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/text"
)

// report begins that of a step of the whole DomU towards a Dom0.
func (r *run) report(d *dom0, step runs.Step) *runs.Report {
	return &runs.Report{DomU: r.DomU, Peer: d.name, Step: step, Taken: r.Taken, DryRun: r.DryRun}
}

// reportOf begins that of a step with one disk.
func (r *run) reportOf(row *Row, step runs.Step) *runs.Report {
	report := r.report(r.dom0(row.Dom0), step)
	report.Disk, report.Source, report.Target = row.Disk, local(row.Source), local(row.Target)
	report.Last, _ = time.Parse(time.RFC3339, row.answered("last")) // else it is not known
	return report
}

// local returns the path that a row means.
func local(path string) string {
	if p, err := text.Path(path); err == nil {
		return p
	}
	return path
}

// record remembers how a step ended, logs what there is to say of it, and reports whether it went well.
func (r *run) record(report *runs.Report, e *ended) bool {
	r.heedSignal(e)
	words := e.said.String()
	if !e.good() {
		words += "\n" + e.answer.String() // where a login shell speaks
	}
	report.Stages, report.Stalled = e.stages, int(e.stalled.Seconds())
	if err := report.ReadWords(strings.NewReader(words)); err != nil {
		r.say(errLevel, "### ERROR: "+r.about()+": "+err.Error())
		return false
	}
	lines, status := report.Record(r.State)
	for _, line := range lines {
		r.say(line.Level, line.Text)
	}
	return status == exit.OK
}

// heedSignal does not return if a signal to all programs of the run is ending it: what that has broken is no failure.
func (r *run) heedSignal(e *ended) {
	if !e.good() && e.stalled == 0 {
		time.Sleep(signalDelay)
	}
	durable.Wait()
}

// signalDelay is how much later than another program of its group this one may hear of a signal.
const signalDelay = 100 * time.Millisecond
