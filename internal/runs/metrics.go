package runs

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
)

// metric is one of Prometheus's text format.
type metric struct {
	name, help string
	samples    []string
}

func (m *metric) add(labels string, value float64) {
	m.samples = append(m.samples, fmt.Sprintf("%s{%s} %s\n", m.name, labels, number(value)))
}

// number writes whole numbers as such: 1.7e+09 is right, too, but nobody can read it.
func number(v float64) string {
	if v == float64(int64(v)) {
		return fmt.Sprint(int64(v))
	}
	return fmt.Sprint(v)
}

// labels are in the order of names and values.
func labels(pairs ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, pairs[i], escape.Replace(strings.ToValidUTF8(pairs[i+1], "\uFFFD")))
	}
	return b.String()
}

// metrics are those of a list, in the order in which they are written.
type metrics struct {
	success, duration, read, changed, sent, failures, attempt, phase, verified metric
}

func newMetrics() *metrics {
	one := func(name, help string) metric { return metric{name: "xen_backup_" + name, help: help} }
	return &metrics{
		success:  one("last_success_timestamp_seconds", "When the image of the last good copy was frozen; 0 if there is none."),
		duration: one("duration_seconds", "How long the last good copy took."),
		read:     one("bytes_read", "Bytes of the source that the last good copy has read."),
		changed:  one("bytes_changed", "Bytes that had changed at the last good copy."),
		sent:     one("bytes_sent", "Bytes that the last good copy has sent."),
		failures: one("failures_in_a_row", "Runs that have failed since the last good copy; without a disk, for the whole DomU."),
		attempt:  one("last_attempt_timestamp_seconds", "When the last run ended, good or failed."),
		phase:    one("phase", "What a standby is: 1 for the phase that it is in."),
		verified: one("verified_timestamp_seconds", "When a copy was last compared with its source."),
	}
}

func (m *metrics) addCopy(c *Copy) {
	l := labels("domu", c.DomU(), "disk", c.Name(), "peer", c.Peer, "role", "source")
	m.failures.add(l, float64(c.Failures))
	m.attempt.add(l, epoch(c.Attempt.Time))
	if c.Name() == "" {
		return
	}
	m.success.add(l, epoch(c.of()))
	if s := c.Success; s != nil {
		m.duration.add(l, s.Seconds)
		m.read.add(l, float64(s.Read))
		m.changed.add(l, float64(s.Changed))
		m.sent.add(l, float64(s.Sent))
	}
	if !c.Verified.IsZero() {
		m.verified.add(l, epoch(c.Verified))
	}
}

// phases are those in which a standby can be; unreadable is none of a state's.
var phases = []string{string(state.Clean), string(state.Applying), string(state.Incomplete), "unreadable"}

func (m *metrics) addHolding(h *standby.Holding) {
	domu, name, _ := strings.Cut(h.Disk, "/")
	phase, peer := "unreadable", ""
	if h.Record != nil && h.Err == nil {
		phase, peer = string(h.Record.Phase), h.Record.Peer
	}
	l := labels("domu", domu, "disk", name, "peer", peer, "role", "standby")
	for _, one := range phases {
		is := 0.0
		if one == phase {
			is = 1
		}
		m.phase.add(l+","+labels("phase", one), is)
	}
	if h.Record != nil {
		m.success.add(l, epoch(h.Of()))
	}
}

func epoch(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// Metrics returns the list in Prometheus's text format. Of two places of one disk the newer counts, for one series has
// one value; what cannot be told to be any DomU's has a series, too.
func (l *List) Metrics() string {
	m := newMetrics()
	for _, c := range l.Copies {
		m.addCopy(c)
	}
	unreadable := false
	for i := range l.Holdings {
		h := &l.Holdings[i]
		switch {
		case h.Disk == "" && h.Err == nil: // by hand, of nobody's disk
		case h.Disk == "" && unreadable:
		case h.Disk == "" || h == newest(l.Holdings, h.Disk):
			unreadable = unreadable || h.Disk == ""
			m.addHolding(h)
		}
	}
	var b strings.Builder
	for _, one := range []*metric{&m.success, &m.duration, &m.read, &m.changed, &m.sent, &m.failures, &m.attempt, &m.phase,
		&m.verified} {
		if len(one.samples) > 0 {
			slices.Sort(one.samples)
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s", one.name, one.help, one.name, strings.Join(one.samples, ""))
		}
	}
	return b.String()
}

// WriteMetrics writes them to a file, which is whole at any time and which everybody may read.
func (l *List) WriteMetrics(path string) error {
	p, err := durable.CreatePending(path)
	if err != nil {
		return err
	}
	defer p.Discard()
	_, err = p.WriteString(l.Metrics())
	if err == nil {
		err = p.Chmod(0o644)
	}
	if err != nil {
		return exit.Fail(exit.CantCreate, "cannot write %s: %w", path, exit.Cause(err))
	}
	return p.Commit()
}
