package domain

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// TestKeep: there is one document of a domain, and one that is refused does not take its place.
func TestKeep(t *testing.T) {
	const xml, cfg = "<domain type='xen'><name>d</name></domain>", "name = 'd'\n# end of the configuration\n"
	s := &Store{dir: filepath.Join(t.TempDir(), "a", "xml")}
	uefi := t.TempDir()
	if err := os.MkdirAll(uefi+"/nvram", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(uefi+"/nvram/web_VARS.fd", []byte("variables"), 0o600); err != nil {
		t.Fatal(err)
	}
	withFiles, _ := bundle(t, uefiGuest(uefi))
	for _, c := range []struct {
		name, document string
		status         int
		left           string
	}{
		{"d", xml, 0, "d.xml"},
		{"d", cfg, 0, "d.cfg"},
		{"d", cfg[:9], exit.BadStream, "d.cfg"},
		{"d", "", exit.BadStream, "d.cfg"},
		{"e", xml, exit.BadStream, "d.cfg"},
		{".d", xml, exit.Usage, "d.cfg"},
		{"../d", xml, exit.Usage, "d.cfg"},
		{"d ", xml, exit.Usage, "d.cfg"},
		{"d", xml, 0, "d.xml"},
		{"web", string(withFiles), 0, "d.xml web.files.tar web.xml"},
		{"web", string(withFiles[:len(withFiles)/2]), exit.BadStream, "d.xml web.files.tar web.xml"},
		{"web", strings.ReplaceAll(xml, "d</", "web</"), 0, "d.xml web.xml"},
	} {
		err := s.Keep(c.name, strings.NewReader(c.document), new(warnings))
		if exit.StatusOf(err) != c.status || testkit.Names(t, s.dir) != c.left {
			t.Errorf("%.40q as %q: %v, there is %s", c.document, c.name, err, testkit.Names(t, s.dir))
		}
	}
	before, err := os.ReadFile(filepath.Join(s.dir, "d.xml"))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := s.Keep("d", iotest.ErrReader(broken), new(warnings)); !errors.Is(err, broken) {
		t.Errorf("no input: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(s.dir, "d.xml")); err != nil || string(after) != string(before) {
		t.Errorf("%v: %s", err, after)
	}
}

// TestKeepFits: what was left out is told to who asks, and to who reads the document later.
func TestKeepFits(t *testing.T) {
	here := filepath.Join(t.TempDir(), "here.img")
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{dir: t.TempDir(), Places: Places{"/there": here, "/stranger": "/x"}, Dropped: []string{"xvdb"}}
	const document = "<domain type='xen'><name>d</name><devices>" +
		"<disk type='file' device='disk'><source file='/there'/><target dev='xvda'/></disk>" +
		"<disk type='file' device='disk'><source file='/b'/><target dev='xvdb'/></disk></devices></domain>"
	words := new(warnings)
	err := s.Keep("d", strings.NewReader(document), words)
	if err != nil || len(*words) != 1 || !strings.Contains((*words)[0], "d: /stranger") {
		t.Errorf("%q, %v", *words, err)
	}
	kept, err := os.ReadFile(filepath.Join(s.dir, "d.xml"))
	if err != nil || !strings.Contains(string(kept), "file='"+here+"'") || strings.Contains(string(kept), "'/b'") ||
		!strings.Contains(string(kept), "disk xvdb: it is excluded") {
		t.Errorf("%v: %s", err, kept)
	}
	for path, want := range map[string]os.FileMode{s.dir: 0o700 | os.ModeDir, filepath.Join(s.dir, "d.xml"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}
