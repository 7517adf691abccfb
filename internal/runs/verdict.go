package runs

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/text"
)

// Severity is an exit status of the verdict. They are those of Nagios's plugins.
type Severity int

const (
	Good    Severity = 0
	Old     Severity = 1 // older than it may be
	Failing Severity = 2 // it fails, was never copied, or is twice as old as it may be
	Unknown Severity = 3 // it cannot be told
)

func (s Severity) String() string { return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s] }

// rank tells which of two is worse: what is known to fail is worse than what cannot be told, and that may be anything.
func (s Severity) rank() int { return [...]int{0, 1, 3, 2}[s] }

// Finding is what is to be said of a DomU.
type Finding struct {
	DomU     string   `json:"domu,omitempty"`
	Severity Severity `json:"status"`
	Words    string   `json:"words"`
}

// Verdict tells whether everything is copied that has to be. That all is well is a promise: it needs a copy of each disk
// on each Dom0 that can be understood and is young. Nothing that was not found counts as well.
type Verdict struct {
	Findings []Finding
	list     *List
	maxAge   time.Duration
	domus    int
	judged   int // images
	oldest   time.Time
	which    string // the oldest
}

// Judge holds what is expected against what is remembered.
func Judge(expected []Expected, l *List, maxAge time.Duration) *Verdict {
	v := &Verdict{list: l, maxAge: maxAge, domus: len(expected)}
	if len(expected) == 0 {
		v.say("", Unknown, "no DomU is expected to be copied: are there conf files?")
	}
	for i := range expected {
		v.judge(&expected[i])
	}
	if v.judged == 0 && v.Status() == Good {
		v.say("", Unknown, "no image was found to judge: does DOM0S name this host by the name that it has?")
	}
	slices.SortStableFunc(v.Findings, func(a, b Finding) int { return b.Severity.rank() - a.Severity.rank() })
	return v
}

// Untold is the verdict where nothing can be judged.
func Untold(why error, maxAge time.Duration, now time.Time) *Verdict {
	v := &Verdict{list: &List{Now: now}, maxAge: maxAge}
	v.say("", Unknown, "%v", why)
	return v
}

func (v *Verdict) say(domu string, s Severity, format string, args ...any) {
	v.Findings = append(v.Findings, Finding{domu, s, bounded(fmt.Sprintf(format, args...), maxLine)})
}

func (v *Verdict) judge(e *Expected) {
	switch {
	case e.Here == "yes" && (e.Local == none || len(e.Peers) == 0):
		v.say(e.DomU, Failing, "it runs here, and DOM0S names no other Dom0 for this one to copy it to")
	case e.Here == "yes":
		v.judgeSource(e, e.Disks)
	case e.Local == none:
		v.say(e.DomU, Good, "DOM0S does not name this host: nothing of it is expected here")
	default:
		v.judgeAbsent(e)
	}
	if e.Local == "" {
		v.say(e.DomU, Unknown, "which of DOM0S is this host cannot be told")
	}
	if e.Here == "unknown" {
		v.say(e.DomU, Unknown, "whether it runs here cannot be told: see xb-locate --active %s", e.DomU)
	}
}

// judgeSource judges a DomU by what this host has sent.
func (v *Verdict) judgeSource(e *Expected, disks []string) {
	if len(disks) == 0 {
		disks = v.sentDisks(e)
		v.say(e.DomU, Unknown, "which disks it has cannot be told: see xb-locate %s", e.DomU)
	}
	for _, peer := range e.Peers {
		for _, disk := range disks {
			v.judgeCopy(e.DomU, disk, peer)
		}
		v.judgeSets(e.DomU, disks, peer)
	}
	for _, peer := range append(slices.Clone(e.Peers), "") {
		v.judgeWhole(e.DomU, peer)
	}
}

// sentDisks returns the disks of a DomU that are remembered.
func (v *Verdict) sentDisks(e *Expected) (disks []string) {
	add := func(disk, peer string) {
		domu, name, _ := strings.Cut(disk, "/")
		if domu == e.DomU && name != "" && slices.Contains(e.Peers, peer) && !slices.Contains(disks, name) {
			disks = append(disks, name)
		}
	}
	for _, c := range v.list.Copies {
		add(c.Disk, c.Peer)
	}
	for _, d := range v.list.Damaged {
		add(d.Disk, d.Peer)
	}
	return disks
}

// find returns what is remembered; nil and false if that cannot be understood.
func (v *Verdict) find(disk, peer string) (c *Copy, readable bool) {
	for _, d := range v.list.Damaged {
		if d.Disk == disk && (d.Peer == peer || d.Peer == "") {
			return nil, false
		}
	}
	for _, c := range v.list.Copies {
		if c.Disk == disk && c.Peer == peer {
			return c, true
		}
	}
	return nil, true
}

func (v *Verdict) judgeCopy(domu, disk, peer string) {
	c, readable := v.find(domu+"/"+disk, peer)
	where := disk + " on " + peer
	switch {
	case !readable:
		v.say(domu, Unknown, "%s: what is remembered of it cannot be read; the next run makes it new", where)
	case c == nil:
		v.say(domu, Failing, "%s was never copied", where)
	case c.Success == nil:
		v.say(domu, Failing, "%s was never copied%s", where, c.sinceThen())
	case c.Attempt.Failed():
		v.say(domu, Failing, "%s is %s old%s", where, v.list.age(c.of()), c.sinceThen())
	case v.isFuture(c.Success.Time):
		v.say(domu, Unknown, "%s was copied in the future, at %s: is the clock right?", where, c.Success.Time.Format(timeForm))
	default:
		v.judgeAge(domu, where, c.of())
	}
	if c != nil && c.Success != nil {
		v.judgeMissed(domu, where, c)
	}
}

// judgeMissed tells what runs had missed, or may have.
func (v *Verdict) judgeMissed(domu, where string, c *Copy) {
	missed, doubt := c.missed(v.list.Now), c.doubt(v.list.Copies)
	switch {
	case c.Missed != nil && c.Missed.Unmended:
		v.say(domu, Failing, "%s: %s", where, missed)
		return
	case missed != "":
		v.say(domu, Old, "%s: %s", where, missed)
	}
	if doubt != "" {
		v.say(domu, Old, "%s: %s: the next run does that", where, doubt)
	}
}

// sinceThen tells what has failed since the last success.
func (c *Copy) sinceThen() string {
	if c.Failures == 0 {
		return ""
	}
	words := ", and " + count(c.Failures, "run") + " failed since"
	if c.Attempt.Words != "" {
		words += ": " + c.Attempt.Words
	}
	return words
}

func (v *Verdict) isFuture(t time.Time) bool { return t.Sub(v.list.Now) > skew }

// judgeAge judges an image that is what it should be.
func (v *Verdict) judgeAge(domu, where string, of time.Time) {
	age := v.list.Now.Sub(of)
	v.judged++
	if v.oldest.IsZero() || of.Before(v.oldest) {
		v.oldest, v.which = of, domu+" "+where
	}
	switch {
	case v.isFuture(of):
		v.say(domu, Unknown, "%s is of the future, of %s: is the clock right?", where, of.UTC().Format(timeForm))
	case age > 2*v.maxAge:
		v.say(domu, Failing, "%s is %s old, more than twice %s", where, text.FormatAge(age), text.FormatAge(v.maxAge))
	case age >= v.maxAge:
		v.say(domu, Old, "%s is %s old", where, text.FormatAge(age))
	}
}

// judgeSets finds disks that may not be of one instant on a peer.
func (v *Verdict) judgeSets(domu string, disks []string, peer string) {
	var sets []string
	for _, disk := range disks {
		if c, _ := v.find(domu+"/"+disk, peer); c != nil && c.Success != nil && !slices.Contains(sets, c.Success.Set) {
			sets = append(sets, c.Success.Set)
		}
	}
	if len(sets) > 1 {
		v.say(domu, Unknown, "whether its disks on %s are of one moment cannot be told, for they are remembered of several runs: "+
			"xen-backup.sh %s copies them together", peer, domu)
	}
}

// judgeWhole judges what failed for the whole DomU.
func (v *Verdict) judgeWhole(domu, peer string) {
	c, readable := v.find(domu, peer)
	switch {
	case !readable:
		v.say(domu, Unknown, "what is remembered of its failures cannot be read")
	case c != nil && c.Attempt.Failed():
		v.say(domu, Failing, "%s failed in a row: %s", count(c.Failures, "run"), c.Attempt.Words)
	}
}

// judgeAbsent judges a DomU that does not run here by the newer of what this host has got and what it has sent. Who has
// neither is no host of it, or DOMU is mistyped.
func (v *Verdict) judgeAbsent(e *Expected) {
	var sent, got time.Time
	for _, c := range v.list.Copies {
		if c.DomU() == e.DomU && c.Success != nil && c.Success.Time.After(sent) {
			sent = c.Success.Time
		}
	}
	held := false
	for i := range v.list.Holdings {
		h := &v.list.Holdings[i]
		if domu, _, _ := strings.Cut(h.Disk, "/"); h.Disk != "" && domu == e.DomU {
			held = true
			if h.Record != nil && h.Record.Time.After(got) {
				got = h.Record.Time
			}
		}
		if h.Disk == "" && h.Err != nil {
			v.say(e.DomU, Unknown, "whether it is of it cannot be told: %v", h.Err)
		}
	}
	switch {
	case sent.After(got):
		v.judgeShutOff(e)
	case held:
		v.judgeStandby(e)
	default:
		v.say(e.DomU, Failing, "it does not run here and was never copied here: is DOMU right, and does it run anywhere?")
	}
}

// Status returns the worst.
func (v *Verdict) Status() Severity {
	worst := Good
	for _, f := range v.Findings {
		if f.Severity.rank() > worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}

// Line says it all in one line.
func (v *Verdict) Line() string {
	status := v.Status()
	if status == Good {
		return fmt.Sprintf("OK: %s, %s, all younger than %s; oldest %s, %s", count(v.domus, "DomU"), count(v.judged, "image"),
			text.FormatAge(v.maxAge), v.which, v.list.age(v.oldest))
	}
	line := status.String() + ": " + v.Findings[0].text()
	others := 0
	for _, f := range v.Findings[1:] {
		if f.Severity != Good {
			others++
		}
	}
	if others > 0 {
		line += fmt.Sprintf(" (and %d more)", others)
	}
	return strings.ReplaceAll(line, "|", "/") // what is behind it would be figures to Nagios
}

func (f Finding) text() string {
	if f.DomU == "" {
		return f.Words
	}
	return f.DomU + ": " + f.Words
}

// Text returns the verdict for people, the worst first, and the tables.
func (v *Verdict) Text() string {
	var b strings.Builder
	fmt.Fprintln(&b, v.Line())
	for _, f := range v.Findings {
		fmt.Fprintf(&b, "%-8s  %s\n", f.Severity, f.text())
	}
	if tables := v.list.Text(); tables != "" {
		b.WriteString("\n" + tables)
	}
	return b.String()
}

// JSON returns it with all that is remembered.
func (v *Verdict) JSON() (string, error) {
	return encode(struct {
		Status   Severity  `json:"status"`
		Line     string    `json:"line"`
		MaxAge   int64     `json:"max_age_seconds"`
		Findings []Finding `json:"findings"`
		listJSON
	}{v.Status(), v.Line(), int64(v.maxAge / time.Second), append([]Finding{}, v.Findings...), v.list.json()})
}
