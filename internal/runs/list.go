package runs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// List is what is remembered on this host, as the source of copies and as the host of standbys.
type List struct {
	Now      time.Time
	Copies   []*Copy
	Damaged  []Damaged
	Holdings []standby.Holding

	dir       state.Dir
	points    map[string][]*snapshot.Snapshot // in time, of the standbys: by their disk, the oldest first
	pointsErr error                           // there may be more
}

// Look reads all that is remembered of these DomUs, or of all if none is named.
func Look(dir state.Dir, domus []string, now time.Time) (*List, error) {
	copies, damaged, err := everything(dir, domus)
	if err != nil {
		return nil, err
	}
	// What cannot be read may be of any of them.
	holdings, err := standby.Holdings(dir, func(disk string) bool { return disk == "" || wanted(domus, disk) })
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(copies, func(a, b *Copy) int {
		return cmp.Or(strings.Compare(a.Disk, b.Disk), strings.Compare(a.Peer, b.Peer))
	})
	slices.SortStableFunc(holdings, func(a, b standby.Holding) int { return strings.Compare(a.Disk, b.Disk) })
	if len(domus) > 0 {
		holdings = slices.DeleteFunc(holdings, func(h standby.Holding) bool { return h.Disk == "" && h.Err == nil })
	}
	l := &List{Now: now, Copies: copies, Damaged: damaged, Holdings: holdings, dir: dir}
	if len(holdings) > 0 {
		l.findPoints()
	}
	return l, nil
}

// findPoints finds the points of all standbys.
func (l *List) findPoints() {
	var lost []error
	all, err := snapshot.Points(l.dir, func(format string, args ...any) { lost = append(lost, fmt.Errorf(format, args...)) })
	l.pointsErr = errors.Join(append(lost, err)...)
	l.points = make(map[string][]*snapshot.Snapshot)
	for _, s := range all {
		if s.Valid {
			l.points[s.Point.Disk] = append(l.points[s.Point.Disk], s)
		}
	}
}

// none stands in a table for what is not known.
const none = "-"

// Text returns the tables for people; "" if nothing is remembered.
func (l *List) Text() string {
	var b strings.Builder
	l.writeCopies(&b)
	if b.Len() > 0 && len(l.Holdings) > 0 {
		b.WriteByte('\n')
	}
	l.writeHoldings(&b)
	for _, d := range l.Damaged {
		fmt.Fprintf(&b, "%s\n", bounded(d.Err.Error(), maxLine))
	}
	for _, h := range l.Holdings {
		if h.Err != nil {
			fmt.Fprintf(&b, "%s\n", bounded(h.Err.Error(), maxLine))
		}
	}
	if l.pointsErr != nil {
		fmt.Fprintf(&b, "there may be more points in time: %s\n", bounded(l.pointsErr.Error(), maxLine))
	}
	return b.String()
}

func table(b *strings.Builder) *tabwriter.Writer { return tabwriter.NewWriter(b, 0, 8, 2, ' ', 0) }

// row writes one row, of which no word has what parts columns.
func row(w *tabwriter.Writer, words ...string) {
	for i := range words {
		words[i] = cmp.Or(bounded(words[i], maxRemembered), none)
	}
	fmt.Fprintln(w, strings.Join(words, "\t"))
}

func (l *List) writeCopies(b *strings.Builder) {
	if len(l.Copies) == 0 {
		return
	}
	w := table(b)
	row(w, "DOMU", "DISK", "TO", "AGE", "TOOK", "READ", "CHANGED", "SENT", "VERIFIED", "FAILED", "LAST WORDS")
	for _, c := range l.Copies {
		age, took, read, changed, sent := none, none, none, none, none
		if s := c.Success; s != nil {
			age, took = l.age(s.Of()), text.FormatAge(time.Duration(s.Seconds*float64(time.Second)))
			read, changed, sent = text.FormatSize(s.Read), text.FormatSize(s.Changed), text.FormatSize(s.Sent)
		} else if c.Name() != "" {
			age = "never"
		}
		row(w, c.DomU(), c.Name(), c.Peer, age, took, read, changed, sent, l.age(c.Verified), fmt.Sprint(c.Failures),
			cmp.Or(c.Attempt.Words, c.missed(l.Now)))
	}
	w.Flush()
}

func (l *List) writeHoldings(b *strings.Builder) {
	if len(l.Holdings) == 0 {
		return
	}
	w := table(b)
	row(w, "DOMU", "DISK", "FROM", "AGE", "PHASE", "SET", "DOCUMENT", "DEVICE", "NOTE")
	for _, h := range l.Holdings {
		domu, name, _ := strings.Cut(h.Disk, "/")
		if h.Record == nil {
			row(w, domu, name, none, none, "unreadable", none, none, none, "")
			continue
		}
		row(w, domu, name, h.Record.Peer, l.age(h.Of()), string(h.Record.Phase), setWord(&h), documentWord(&h), h.Record.Device,
			l.note(&h))
	}
	w.Flush()
}

// setWord tells whether the disks of a DomU are of one set.
func setWord(h *standby.Holding) string {
	switch {
	case h.WholeSet == nil:
		return none
	case *h.WholeSet:
		return "whole, " + h.Record.Set.Taken.UTC().Format(timeForm)
	}
	return "in part"
}

// documentWord tells whether the stored document of a DomU is of the set of its disks.
func documentWord(h *standby.Holding) string {
	switch {
	case h.Record.Set == nil:
		return none
	case h.DocumentSet == h.Record.Set.ID:
		return "of this set"
	}
	return "of another"
}

// note tells what has become of an image since it was copied, and which earlier ones are kept.
func (l *List) note(h *standby.Holding) string {
	var words []string
	switch {
	case h.Missing:
		words = append(words, "missing")
	case h.Changed != nil && *h.Changed:
		words = append(words, "changed since")
	}
	if p := l.pointsOf(h); p != nil {
		points := "points"
		if p.Count == 1 {
			points = "point"
		}
		words = append(words, fmt.Sprintf("%d %s, %s to %s", p.Count, points, p.Oldest.Format(timeForm), p.Latest.Format(timeForm)))
	} else if h.Record.NoPoint != "" {
		words = append(words, "no points: "+h.Record.NoPoint)
	}
	return strings.Join(words, ", ")
}

// pointsOf returns which points a standby has; nil if none.
func (l *List) pointsOf(h *standby.Holding) *pointsJSON {
	points := l.points[h.Disk]
	if h.Disk == "" || len(points) == 0 {
		return nil
	}
	p := &pointsJSON{len(points), points[0].Point.Taken.UTC(), points[0].Point.Taken.UTC()}
	for _, s := range points {
		if taken := s.Point.Taken.UTC(); taken.Before(p.Oldest) {
			p.Oldest = taken
		} else if taken.After(p.Latest) {
			p.Latest = taken
		}
	}
	return p
}

// age returns an age as a word.
func (l *List) age(of time.Time) string {
	switch age := l.Now.Sub(of); {
	case of.IsZero():
		return none
	case age < -skew:
		return "in " + text.FormatAge(-age)
	default:
		return text.FormatAge(max(0, age))
	}
}

// skew is how far the clocks of two hosts may be apart.
const skew = 5 * time.Minute

// The forms of --json.
type (
	listJSON struct {
		Time    time.Time     `json:"time"`
		Source  []copyJSON    `json:"source"`
		Standby []holdingJSON `json:"standby"`
		Damaged []string      `json:"damaged,omitempty"`
	}
	copyJSON struct {
		DomU        string    `json:"domu"`
		Disk        string    `json:"disk,omitempty"`
		Peer        string    `json:"peer,omitempty"`
		Source      string    `json:"source,omitempty"`
		Target      string    `json:"target,omitempty"`
		LastSuccess time.Time `json:"last_success,omitzero"`
		Age         *int64    `json:"age_seconds,omitempty"`
		*Success
		Verified    time.Time `json:"verified,omitzero"`
		Missed      *Missed   `json:"missed,omitempty"`
		LastAttempt time.Time `json:"last_attempt"`
		Status      int       `json:"status"`
		Words       string    `json:"words,omitempty"`
		Failures    int       `json:"failures_in_a_row"`
	}
	holdingJSON struct {
		DomU        string    `json:"domu,omitempty"`
		Disk        string    `json:"disk,omitempty"`
		Peer        string    `json:"peer,omitempty"`
		Phase       string    `json:"phase,omitempty"`
		Device      string    `json:"device,omitempty"`
		LastSuccess time.Time `json:"last_success,omitzero"`
		Age         *int64    `json:"age_seconds,omitempty"`
		Set         string    `json:"set,omitempty"`
		WholeSet    *bool     `json:"whole_set,omitempty"`
		DocumentSet string    `json:"document_set,omitempty"`
		Changed     *bool     `json:"changed_since,omitempty"`
		Missing     bool      `json:"missing,omitempty"`
		Trouble     string    `json:"trouble,omitempty"`

		Points  *pointsJSON `json:"points,omitempty"`
		NoPoint string      `json:"no_point,omitempty"`
	}
	pointsJSON struct {
		Count  int       `json:"count"`
		Oldest time.Time `json:"oldest"`
		Latest time.Time `json:"latest"`
	}
)

func (l *List) seconds(of time.Time) *int64 {
	if of.IsZero() {
		return nil
	}
	age := int64(l.Now.Sub(of) / time.Second)
	return &age
}

func (l *List) json() listJSON {
	j := listJSON{Time: l.Now.UTC().Truncate(time.Second), Source: []copyJSON{}, Standby: []holdingJSON{}}
	for _, c := range l.Copies {
		j.Source = append(j.Source, copyJSON{DomU: c.DomU(), Disk: c.Name(), Peer: c.Peer, Source: c.Source, Target: c.Target,
			LastSuccess: c.of(), Age: l.seconds(c.of()), Success: c.Success, Verified: c.Verified, Missed: c.Missed, LastAttempt: c.Attempt.Time,
			Status: c.Attempt.Status, Words: c.Attempt.Words, Failures: c.Failures})
	}
	for _, h := range l.Holdings {
		domu, name, _ := strings.Cut(h.Disk, "/")
		one := holdingJSON{DomU: domu, Disk: name, Missing: h.Missing, WholeSet: h.WholeSet, DocumentSet: h.DocumentSet,
			Changed: h.Changed, Points: l.pointsOf(&h)}
		if r := h.Record; r != nil {
			one.Peer, one.Phase, one.Device, one.LastSuccess, one.Age = r.Peer, string(r.Phase), r.Device, h.Of(), l.seconds(h.Of())
			one.NoPoint = r.NoPoint
			if r.Set != nil {
				one.Set = r.Set.ID
			}
		}
		if h.Err != nil {
			one.Trouble = h.Err.Error()
		}
		j.Standby = append(j.Standby, one)
	}
	for _, d := range l.Damaged {
		j.Damaged = append(j.Damaged, d.Err.Error())
	}
	if l.pointsErr != nil {
		j.Damaged = append(j.Damaged, l.pointsErr.Error())
	}
	return j
}

// JSON returns all of it as one JSON object.
func (l *List) JSON() (string, error) { return encode(l.json()) }

func encode(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", exit.Fail(exit.Internal, "list: %w", err)
	}
	return string(text) + "\n", nil
}
