package standby

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// promote asks for the promotion of the disks, by a document of that set.
func (m *machine) promote(set string, apart bool, disks ...*scene) error {
	m.Helper()
	document := filepath.Join(m.TempDir(), "domu1.xml")
	text := "<domain type='kvm'><name>domu1</name></domain>\n"
	if set != "" {
		text = "<!-- xen-backup: set " + set + ", taken 2026-11-26T23:47:28Z -->\n" + text
	}
	m.must(os.WriteFile(document, []byte(text), 0o600))
	var named []Disk
	for _, s := range disks {
		named = append(named, Disk{s.options.Disk, s.options.Target})
	}
	p, err := Promote(new(quiet), m.options, Start{Document: document, Disks: named, Apart: apart, Locked: true})
	if err != nil {
		return err
	}
	if rows := p.Rows(); strings.Count(rows, "\n") != len(disks) || !strings.Contains(rows, "\tdom0a\t2026-11-26T23:47:28Z\t") {
		m.Errorf("rows: %q", rows)
	}
	return p.Close()
}

// Only a whole DomU is promoted: its disks of one moment, and that of the document.
func TestPromote(t *testing.T) {
	m := newMachine(t, "", file, loopDevice)
	m.must(m.promote(setB, false, m.disks...))
	first, second := m.disks[0], m.disks[1]

	testkit.WantStatus(t, "another document", m.promote(setA, false, m.disks...), exit.No)
	testkit.WantStatus(t, "a document of no set", m.promote("", false, m.disks...), exit.No)
	m.must(m.promote(setA, true, m.disks...))
	testkit.WantStatus(t, "without a disk", m.promote(setB, true, first), exit.NoInput)

	strange := *first
	strange.options.Disk = "domu2/xvda"
	testkit.WantStatus(t, "another one's disk", m.promote(setB, true, &strange, second), exit.NotBasis)
	unknown := *first
	unknown.options.Target = filepath.Join(t.TempDir(), "unknown")
	m.must(os.WriteFile(unknown.options.Target, first.old, 0o600))
	none := m.promote(setB, true, &unknown, second)
	testkit.WantStatus(t, "no standby", none, exit.NotBasis)
	if !strings.Contains(none.Error(), "remembers no copy") {
		t.Error(none)
	}
	unknown.options.Target += "-none"
	testkit.WantStatus(t, "no such file", m.promote(setB, true, &unknown, second), exit.NoInput)

	// A disk that was copied alone later.
	s := first.options
	_, err := Patch(first.user, s, first.deltaTo(first.source()))
	m.must(err)
	testkit.WantStatus(t, "disks of different times", m.promote(setB, false, m.disks...), exit.No)
	m.must(m.promote(setB, true, second, first))
}

// What is not whole is not promoted, whatever may be its time.
func TestPromoteMix(t *testing.T) {
	m := newMachine(t, "", file, file)
	device := func(s *scene) *target {
		target, err := find(s.user, s.options)
		m.must(err)
		return target
	}
	first := device(m.disks[0])
	before := m.disks[0].record()
	for phase, want := range map[state.Phase]int{state.Incomplete: exit.NotBasis, state.Applying: exit.Unfinished} {
		r := *before
		r.Phase, r.Spool = phase, first.device.SpoolFile("")
		m.must(first.device.Save(&r))
		testkit.WantStatus(t, string(phase), m.promote(setB, true, m.disks...), want)
	}
	m.must(first.device.Save(before))
	m.must(m.promote(setB, false, m.disks...))

	f, err := os.OpenFile(m.disks[1].options.Target, os.O_WRONLY, 0)
	m.must(err)
	_, err = f.WriteAt([]byte("x"), 5000)
	m.must(err)
	m.must(f.Close())
	testkit.WantStatus(t, "after a write", m.promote(setB, true, m.disks...), exit.NotBasis)
}

// Until a promotion is closed no run gets at the disks.
func TestPromoteKeepsRunsAway(t *testing.T) {
	m := newMachine(t, "", file)
	s := m.disks[0]
	document := filepath.Join(t.TempDir(), "domu1.cfg")
	m.must(os.WriteFile(document, []byte("# xen-backup: set "+setB+", taken 2026-11-26T23:47:28Z\nname = 'domu1'\n"), 0o600))
	disks := []Disk{{s.options.Disk, s.options.Target}}
	p, err := Promote(new(quiet), m.options, Start{Document: document, Disks: disks, Locked: true})
	m.must(err)
	_, err = Patch(s.user, s.options, s.deltaTo(s.source()))
	testkit.WantStatus(t, "a run meanwhile", err, exit.Busy)
	m.must(p.Close())
	_, err = Patch(s.user, s.options, s.deltaTo(s.source()))
	m.must(err)
}
