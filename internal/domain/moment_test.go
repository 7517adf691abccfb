package domain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// TestMoment: what was kept for a moment stays what it was, whatever is stored later, and of another moment it is the
// document that was stored last.
func TestMoment(t *testing.T) {
	dir := state.Dir(t.TempDir())
	s := &Store{dir: storeDir(dir), hasSecret: func(Secret) (bool, error) { return true, nil }}
	uefi := t.TempDir()
	if err := os.Mkdir(uefi+"/nvram", 0o700); err != nil {
		t.Fatal(err)
	}
	store := func(variables, document string) {
		t.Helper()
		testkit.Write(t, uefi+"/nvram/web_VARS.fd", variables)
		whole, _ := bundle(t, document)
		if variables == "" {
			whole = []byte(document)
		}
		if err := s.Keep("web", strings.NewReader(string(whole)), new(warnings)); err != nil {
			t.Fatal(err)
		}
	}
	m := Moment{"web", time.Date(2026, 11, 26, 2, 0, 0, 5, time.FixedZone("", 3600))}
	if err := m.KeepDocument(dir); err != nil || testkit.Names(t, string(dir)) != "" {
		t.Errorf("nothing was stored, and %v", err)
	}
	first := uefiGuest(uefi)
	store("first", first)
	if path, own := m.Document(dir); own || path != s.dir+"/web" {
		t.Errorf("before there is one: %s, %v", path, own)
	}
	// What a kill has left is replaced.
	at := filepath.Join(s.dir, "at", "web@2026-11-26T01:00:00Z")
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, at+".files.tar", "half")
	if err := m.KeepDocument(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{filepath.Dir(at): 0o700 | os.ModeDir, at + ".xml": 0o600, at + ".files.tar": 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	kept := testkit.Read(t, at+".xml") + testkit.Read(t, at+".files.tar")
	store("second", strings.Replace(first, "<os>", "<memory>1</memory><os>", 1))
	store("", "name = 'web'\nmemory = 3\n# end of the configuration\n")
	if err := m.KeepDocument(dir); err != nil || testkit.Read(t, at+".xml")+testkit.Read(t, at+".files.tar") != kept {
		t.Errorf("it has become another one: %v", err)
	}
	for _, name := range []string{"at/web@2026-11-26T01:00:00Z", "../xml/at/web@2026-11-26T01:00:00Z"} {
		if err := s.Keep(name, strings.NewReader(first), new(warnings)); exit.StatusOf(err) != exit.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}

	out := filepath.Join(t.TempDir(), "web")
	var own bool
	if s.Moment, own = m.Document(dir); !own || s.Moment != at {
		t.Errorf("it is %s, %v", s.Moment, own)
	}
	if _, err := s.Release("web", out, true, new(warnings)); err != nil || testkit.Read(t, out+".xml") != testkit.Read(t, at+".xml") ||
		!strings.Contains(testkit.Read(t, out+".files.tar"), "first") {
		t.Errorf("released: %v", err)
	}
	other := Moment{"web", m.Of.Add(time.Hour)}
	if err := other.KeepDocument(dir); err != nil {
		t.Fatal(err)
	}
	if d, err := other.Domain(dir); err != nil || testkit.Names(t, filepath.Dir(at)) !=
		"web@2026-11-26T01:00:00Z.files.tar web@2026-11-26T01:00:00Z.xml web@2026-11-26T02:00:00Z.cfg" || d.Name != "web" {
		t.Errorf("%v, there is %s", err, testkit.Names(t, filepath.Dir(at)))
	}

	for _, name := range []string{"strange", "a@b", ".web@2026-11-26T01:00:00Z.xml.123"} {
		testkit.Write(t, filepath.Join(filepath.Dir(at), name), "")
	}
	var asked []string
	err := DropDocuments(dir, func(moment string, since time.Time) bool {
		asked = append(asked, moment)
		return moment == m.String() && time.Since(since) < time.Hour
	})
	if left := testkit.Names(t, filepath.Dir(at)); err != nil || len(asked) != 4 || left != "a@b strange web@2026-11-26T02:00:00Z.cfg" {
		t.Errorf("%v, asked of %q, there is %s", err, asked, left)
	}
}

// Whoever has trusted two documents trusts both, for the earlier one may be that of a point in time.
func TestTrustOfEarlier(t *testing.T) {
	s := &Store{dir: t.TempDir(), hasSecret: func(Secret) (bool, error) { return true, nil }}
	release := func(emulator string, trust bool) int {
		t.Helper()
		text := "<domain type='kvm'><name>d</name><devices><emulator>" + emulator + "</emulator></devices></domain>"
		if err := s.Keep("d", strings.NewReader(text), new(warnings)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Release("d", filepath.Join(t.TempDir(), "d"), trust, new(warnings))
		return exit.StatusOf(err)
	}
	for i, step := range []struct {
		emulator string
		trust    bool
		status   int
	}{{"/a", true, 0}, {"/b", false, exit.Refused}, {"/b", true, 0}, {"/a", false, 0}, {"/b", false, 0}, {"/c", false, exit.Refused}} {
		if status := release(step.emulator, step.trust); status != step.status {
			t.Errorf("step %d: %s has status %d, want %d", i, step.emulator, status, step.status)
		}
	}
	if trusted := testkit.Read(t, filepath.Join(s.dir, "d.trusted")); strings.Count(trusted, "\n") != 2 {
		t.Errorf("trusted is\n%s", trusted)
	}
}
