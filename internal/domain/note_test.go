package domain

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
)

func TestChanged(t *testing.T) {
	before := Note{"domu1", "1", "7", []notedDisk{{"xvda", "/a", "A"}, {"xvdb", "/b", "B"}}}
	for _, c := range []struct {
		change func(n *Note)
		want   string // the first words; "" for no change
	}{
		{func(*Note) {}, ""},
		{func(n *Note) { slices.Reverse(n.Disks) }, ""},
		{func(n *Note) { n.UUID = "2" }, "it is another domain (UUID 2, was 1)"},
		{func(n *Note) { n.Domain = "other" }, "it is another domain"},
		{func(n *Note) { n.ID = "8" }, "it was started again (id 8, was 7)"},
		{func(n *Note) { n.Disks = n.Disks[:1] }, "its disk xvdb is gone"},
		{func(n *Note) { n.Disks[1].Source = "/c" }, "its disk xvdb is /c, and was /b"},
		{func(n *Note) { n.Disks[0].Is = "C" }, "its disk xvda, /a, is another one under that name"},
		{func(n *Note) { n.Disks = append(n.Disks, notedDisk{"xvdc", "/c", "C"}) }, "it has a new disk xvdc, /c"},
	} {
		now := before
		now.Disks = slices.Clone(before.Disks)
		c.change(&now)
		if got := before.changed(&now); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%+v: %q, want %q", now, got, c.want)
		}
	}
}

func TestNoteKept(t *testing.T) {
	d, img := listed(t)
	path := filepath.Join(t.TempDir(), "note")
	l := &List{Disks: []Entry{{Target: "xvda", Source: img}, {Target: "xvdb", Source: img, Skip: "shareable"}}, of: d}
	if err := l.Note(path); err != nil {
		t.Fatal(err)
	}
	n, err := ReadNote(path)
	if err != nil || n.Domain != "domu1" || n.UUID != "1" || n.ID != "7" || len(n.Disks) != 1 || n.Disks[0].Is == "" {
		t.Fatalf("%+v, %v", n, err)
	}
	if again, err := newNote(d, l.Disks); err != nil || n.changed(again) != "" {
		t.Errorf("%+v, %v", again, err)
	}
	l.Disks = append(l.Disks, Entry{Target: "xvdc", Source: img + ".none"})
	if err := l.Note(path + "2"); err == nil {
		t.Error("a note of a disk that is not there")
	}
	if _, err := ReadNote(path + "2"); exit.StatusOf(err) != exit.NoInput {
		t.Errorf("no note: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadNote(path); exit.StatusOf(err) != exit.BadStream {
		t.Errorf("a cut note: %v", err)
	}
}
