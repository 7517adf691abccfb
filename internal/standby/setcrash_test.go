package standby

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// The tables of what several disks do together.
const (
	aCommit      = "The commit of a set"
	aSetRecovery = "The recovery of a set"
)

var setKinds = [][]string{{file, loopDevice}, {loopDevice, largerFile, file}, {missingFile, loopDevice}}

// TestCrashOfSets is TestCrash of several disks at once. Of the kinds of targets, each row tries one; a campaign tries all.
func TestCrashOfSets(t *testing.T) {
	whole := testkit.Rounds(t, 1) > 1
	for _, table := range readTables(t) {
		if table.name != aCommit && table.name != aSetRecovery {
			continue
		}
		t.Run(table.name, func(t *testing.T) {
			table.checkNames(t)
			for k, kinds := range setKinds {
				t.Run(strings.Join(kinds, ", "), func(t *testing.T) {
					for i, row := range table.rows {
						if whole || i%len(setKinds) == k {
							t.Run(row.after, func(t *testing.T) { crashTogether(t, table.name, kinds, row, i) })
						}
					}
				})
			}
		})
	}
}

// crashTogether kills one run, looks at what is left, and takes the cure at one of the disks.
func crashTogether(t *testing.T, run string, kinds []string, want row, n int) {
	m := newMachine(t, want.after, kinds...)
	m.hold(setA)
	one := m.disks[n%len(m.disks)]
	if run == aSetRecovery {
		befores := []string{"changed", "half recorded", "recorded", halfWritten}
		m.kill(doomed{Run: aCommit, After: befores[n%len(befores)]}, one)
		m.wantUnfinished("applying")
	}
	var before []*state.Record
	for _, s := range m.disks {
		before = append(before, s.record())
	}
	m.kill(doomed{Run: run, After: want.after}, one)

	for i, s := range m.disks {
		switch want.target {
		case "old", "new":
			s.wantTarget(row{target: want.target})
		}
		switch want.state {
		case "before", "clean":
			s.wantState(want.state, before[i])
		}
	}
	if want.state == "applying" || want.state == "part" {
		m.wantUnfinished(want.state)
	}
	if spools := m.spools(); want.spool == "whole" && spools != len(m.disks) || want.spool == "none" && spools != 0 {
		t.Errorf("%d spools of %d disks, want %s", spools, len(m.disks), want.spool)
	}
	err := m.commit(setA)
	if status := exit.StatusOf(err); status != want.next {
		t.Errorf("the next commit ends with %d, want %d: %v", status, want.next, err)
	}
	if want.next == exit.Unfinished {
		if _, err := Recover(one.user, one.options); err != nil {
			t.Errorf("--recover: %v", err)
		}
	}
	m.wantNewSet(setA)
	for _, s := range m.disks {
		if d, err := Recover(s.user, s.options); d != nil || err != nil {
			t.Errorf("--recover of what is done: %v, %v", d, err)
		}
	}
}

// wantUnfinished demands that no disk passes for whole: each is applying, or, in part, has come to its end, and says that
// the set has not.
func (m *machine) wantUnfinished(want string) {
	m.Helper()
	clean := 0
	for _, s := range m.disks {
		is := s.memory()
		if is.WholeSet == nil || *is.WholeSet || is.Set != setA {
			s.Errorf("%s: it passes for whole: %+v", s.options.Disk, is)
		}
		if is.Phase == state.Clean {
			clean++
			s.wantTarget(row{target: "new"})
			continue
		}
		if is.Phase != state.Applying {
			s.Errorf("%s: the state is %s", s.options.Disk, is.Phase)
		}
		if err := s.hold(setA, s.source()); exit.StatusOf(err) != exit.Unfinished || !strings.Contains(err.Error(), "--recover") {
			s.Errorf("%s: a delta is refused by %v", s.options.Disk, err)
		}
	}
	if (want == "part") != (clean > 0) {
		m.Errorf("%d of %d disks are clean", clean, len(m.disks))
	}
}

func (m *machine) spools() int {
	found, err := filepath.Glob(filepath.Join(m.options.StateDir, "spool", "*.delta"))
	m.must(err)
	return len(found)
}

func (m *machine) kill(d doomed, one *scene) {
	m.Helper()
	d.Options, d.Targets = m.options, m.targets()
	d.Options.Target = one.options.Target
	if one.old == nil {
		d.Options.Create = true
	}
	one.kill(d)
}

// dieTogether is die of a commit or the recovery of a set.
func (d doomed) dieTogether() error {
	user := &quiet{deadly: d.After == halfWritten}
	var c *commit
	steps := committing
	if d.Run == aCommit {
		c = newCommit(user, d.Options, setA)
		for _, path := range d.Targets {
			o := d.Options
			o.Target, o.Create = path, true
			t, err := find(user, o)
			if err != nil {
				return err
			}
			c.add(t)
		}
		c.todo = c.members
	} else {
		t, err := find(user, d.Options)
		if err != nil {
			return err
		}
		changed, err := t.device.ChangeOf()
		if err != nil || changed == nil {
			return fmt.Errorf("there is no change: %w", err)
		}
		c, steps = reopenCommit(t, changed), recovering
	}
	half, isHalf := strings.CutPrefix(d.After, "half ")
	if !isHalf || d.After == halfWritten {
		return walkTo(c, steps, d.After)
	}
	i := slices.Index(names(steps), half)
	for _, s := range steps[:i] {
		if err := s.do(c); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	c.todo = c.todo[:1]
	return walkTo(c, steps[i:], half)
}
