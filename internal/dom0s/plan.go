package dom0s

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"xen-backup/internal/exit"
)

// Order is what is asked of a DomU.
type Order struct {
	Dom0s   []string // all that keep its disks, this host among them
	Local   string   // this host's name, if its addresses do not tell
	Rules   []string // of MAP: DOM0:A=B
	Sources []string // its disks on this host
}

// Plan is what there is to do: for each other Dom0 its disks' names there, in the order of Sources.
type Plan struct {
	Local   string
	Remotes []string
	Targets map[string][]string
}

// Words takes what is no error.
type Words interface {
	Warn(format string, args ...any)
}

// rule is one of MAP: the disk that is called from on its Dom0 is called to there.
type rule struct{ text, dom0, from, to string }

// ruleForm allows no character that means something to a shell.
var ruleForm = func() *regexp.Regexp {
	const path = `(/[A-Za-z0-9_/.+:@-]+|file:///[A-Za-z0-9_/.%-]+)`
	return regexp.MustCompile(`^([A-Za-z0-9_.:@-]+?):` + path + `=` + path + `$`)
}()

// Make finds out which Dom0 is this host, and the names of all standbys.
func (o Order) Make(ctx context.Context, words Words) (*Plan, error) {
	rules, err := parse(o.Rules)
	if err != nil {
		return nil, err
	}
	p, err := o.find(Here(ctx, o.Dom0s, o.Local))
	if err != nil {
		return nil, err
	}
	for _, dom0 := range p.Remotes {
		if p.Targets[dom0], err = targets(rules, p.Local, dom0, o.Sources); err != nil {
			return nil, err
		}
	}
	if len(o.Sources) > 0 {
		o.complain(rules, p, words)
	}
	return p, nil
}

func parse(texts []string) (rules []rule, err error) {
	for _, text := range texts {
		m := ruleForm.FindStringSubmatch(text)
		if m == nil {
			return nil, exit.Fail(exit.Config, "bad rule in MAP: %s", text)
		}
		rules = append(rules, rule{text, m[1], m[2], m[3]})
	}
	return rules, nil
}

// find tells this host from the others. There must be one, and others.
func (o Order) find(here map[string]Answer) (*Plan, error) {
	p, unknown := &Plan{Targets: map[string][]string{}}, ""
	for _, dom0 := range o.Dom0s {
		switch {
		case here[dom0] == Yes && p.Local != "" && p.Local != dom0:
			return nil, exit.Fail(exit.Config, "DOM0S: both %s and %s lead to this host; is its /etc/hosts a copy of another one's?",
				p.Local, dom0)
		case here[dom0] == Yes:
			p.Local = dom0
		case !slices.Contains(p.Remotes, dom0):
			p.Remotes = append(p.Remotes, dom0)
			if here[dom0] == Unknown {
				unknown = dom0
			}
		}
	}
	all := strings.Join(o.Dom0s, " ")
	switch {
	case p.Local == "" && unknown != "":
		return nil, exit.Fail(exit.Unavailable, "cannot tell which of DOM0S is this host: %s cannot be resolved", unknown)
	case p.Local == "":
		return nil, exit.Fail(exit.Config,
			"it is this host's to copy, and DOM0S does not name this host (if it does, set LOCAL_DOM0): %s", all)
	case len(p.Remotes) == 0:
		return nil, exit.Fail(exit.Config, "DOM0S names no Dom0 but this one: %s", all)
	}
	return p, nil
}

// targets returns what a Dom0 calls the disks. No two may meet there.
func targets(rules []rule, local, dom0 string, sources []string) ([]string, error) {
	var list []string
	for _, source := range sources {
		name := target(rules, local, dom0, source)
		if i := slices.Index(list, name); i >= 0 {
			return nil, exit.Fail(exit.Config, "%s would overwrite %s:%s of %s", source, dom0, name, sources[i])
		}
		list = append(list, name)
	}
	return list, nil
}

// target returns the standby of a disk. A rule names a disk on a Dom0; so where the DomU runs
// there, its copies have the disk's own name, or that of their rule.
func target(rules []rule, local, dom0, source string) string {
	name := source
	for _, r := range rules {
		switch {
		case r.dom0 == dom0 && r.from == source:
			return r.to
		case r.dom0 == local && r.to == source:
			name = r.from
		}
	}
	for _, r := range rules {
		if name != source && r.dom0 == dom0 && r.from == name {
			return r.to
		}
	}
	return name
}

// complain tells of the rules that no disk of the DomU comes under: its standby is elsewhere
// then. A name that it has, or had, on another Dom0 is in no way wrong.
func (o Order) complain(rules []rule, p *Plan, words Words) {
	for _, r := range rules {
		elsewhere := func(other rule) bool { return other.to == r.from || other.dom0 == p.Local && other.from == r.from }
		switch {
		case !slices.Contains(o.Dom0s, r.dom0):
			words.Warn("MAP names %s, which is not in DOM0S: %s", r.dom0, r.text)
		case slices.Contains(p.Remotes, r.dom0) && !slices.Contains(o.Sources, r.from) && !slices.ContainsFunc(rules, elsewhere):
			words.Warn("MAP names %s, which is no disk that is copied (%s): %s", r.from, strings.Join(o.Sources, " "), r.text)
		}
	}
}
