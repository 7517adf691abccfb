// A rule for points in time can only lose those that it does not keep: of each span of time the first stays, whatever
// comes after it.

package state

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"xen-backup/internal/text"
)

// Keep says which points in time of a standby stay, by when the image came to this host. That is by this host's clock, and
// of each hour, day or week the first one stays: whoever sends images, however many, replaces none.
type Keep struct {
	last  int // so many of the latest; 0: as tiers say
	every time.Duration
	tiers []tier
}

// tier keeps one in each interval for a time.
type tier struct{ span, every time.Duration }

// maxKept bounds what a rule may keep of a standby: each is a device or file, and is looked at in every run.
const maxKept = 1000

// maxStep is by how much a clock that was not wrong may be put back.
const maxStep = time.Hour

const (
	hour = time.Hour
	day  = 24 * hour
	week = 7 * day
)

var intervals = map[string]time.Duration{"hourly": hour, "daily": day, "weekly": week}

// ParseKeep reads a rule: "24h:hourly 7d:daily 4w:weekly", or how many of the latest, or "no" for none. Where blanks
// mean something else there may be a + in their place.
func ParseKeep(s string) (*Keep, error) {
	words := strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == '\t' || c == '+' })
	if len(words) == 1 && !strings.Contains(words[0], ":") {
		if words[0] == "no" {
			return &Keep{}, nil
		}
		n, err := strconv.ParseUint(words[0], 10, 16)
		if err != nil || n > maxKept {
			return nil, badKeep(s)
		}
		return &Keep{last: int(n)}, nil
	}
	k, kept := &Keep{}, int64(0)
	for _, word := range words {
		span, every, _ := strings.Cut(word, ":")
		t := tier{every: intervals[every]}
		var err error
		if t.every == 0 {
			t.every, err = text.ParseAge(every)
		}
		if err == nil {
			t.span, err = text.ParseAge(span)
		}
		if err != nil || t.every < time.Minute || t.span < t.every {
			return nil, badKeep(s)
		}
		k.tiers, kept = append(k.tiers, t), kept+int64(t.span/t.every)
	}
	switch {
	case len(words) == 0:
		return nil, badKeep(s)
	case kept > maxKept:
		return nil, fmt.Errorf("%q would keep %d points, and more than %d are too many", s, kept, maxKept)
	}
	return k, nil
}

func badKeep(s string) error {
	return fmt.Errorf("%q does not say what to keep: want as \"24h:hourly 7d:daily 4w:weekly\", a number, or no", s)
}

// String returns the rule as one word, which ParseKeep reads.
func (k *Keep) String() string {
	if len(k.tiers) == 0 {
		return strconv.Itoa(k.last)
	}
	var words []string
	for _, t := range k.tiers {
		every := fmt.Sprintf("%ds", t.every/time.Second)
		for name, interval := range intervals {
			if interval == t.every {
				every = name
			}
		}
		words = append(words, fmt.Sprintf("%ds:%s", t.span/time.Second, every))
	}
	return strings.Join(words, "+")
}

func (k *Keep) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *Keep) UnmarshalText(text []byte) error {
	read, err := ParseKeep(string(text))
	if err == nil {
		*k = *read
	}
	return err
}

// AtMostHourly returns the rule for those who may send as often as they like and are not trusted: a number is of the
// latest then, no two of one hour, so that nobody can replace them all at once.
func (k *Keep) AtMostHourly() *Keep { return &Keep{k.last, hour, k.tiers} }

// Keeps reports of each time, in their order, whether its image stays.
func (k *Keep) Keeps(times []time.Time, now time.Time) []bool {
	order := make([]int, len(times))
	for i := range order {
		order[i] = i
	}
	// What came while the clock was ahead would be the latest until then. So it is taken for the oldest.
	ahead := func(i int) bool { return times[i].Sub(now) > maxStep }
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case ahead(a) && !ahead(b):
			return -1
		case ahead(b) && !ahead(a):
			return 1
		}
		return times[a].Compare(times[b])
	})
	keeps := make([]bool, len(times))
	for _, t := range k.tiers {
		for _, i := range firsts(order, times, t.every) {
			keeps[i] = keeps[i] || now.Sub(times[i]) <= t.span
		}
	}
	latest := firsts(order, times, k.every)
	for _, i := range latest[max(0, len(latest)-k.last):] {
		keeps[i] = true
	}
	return keeps
}

// AllKeep reports of each time whether its image stays by all of the rules.
func AllKeep(rules []*Keep, times []time.Time, now time.Time) []bool {
	stays := make([]bool, len(times))
	for n, rule := range rules {
		for i, keeps := range rule.Keeps(times, now) {
			stays[i] = keeps && (n == 0 || stays[i])
		}
	}
	return stays
}

// firsts returns the first of each interval: of the hours and days of UTC, of weeks from Monday on.
func firsts(order []int, times []time.Time, every time.Duration) (list []int) {
	const monday = 3 * day // 1970 began with a Thursday
	before := int64(-1)
	for _, i := range order {
		if every > 0 {
			interval := (times[i].Unix() + int64(monday/time.Second)) / int64(every/time.Second)
			if interval == before {
				continue
			}
			before = interval
		}
		list = append(list, i)
	}
	return list
}
