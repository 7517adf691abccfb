package standby

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// aConsent is a run of Discard that is killed once it is done.
const aConsent = "A consent"

// newDiverged makes a standby that somebody has written to since.
func newDiverged(t *testing.T, kind, after string) *scene {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	s := newScene(t, kind, after)
	s.options.Peer, s.options.Disk, s.options.Toolstack = "dom0a", "domu1/xvda", "virsh"
	s.synced()
	s.scribble()
	return s
}

func (s *scene) discard() *state.Consent {
	s.Helper()
	c, err := Discard(s.user, s.options, "root")
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// wantRefused demands that the next run is refused as one of what has diverged, in these words, and that the consent is
// there afterwards, or is not.
func (s *scene) wantRefused(consented bool, words ...string) {
	s.Helper()
	before := s.content()
	err := s.patch()
	testkit.WantStatus(s, "the delta", err, exit.NotBasis)
	for _, w := range append(words, "has diverged") {
		if err != nil && !strings.Contains(err.Error(), w) {
			s.Errorf("the refusal %v\ndoes not say %q", err, w)
		}
	}
	if !slices.Equal(before, s.content()) {
		s.Error("it was written to")
	}
	s.wantConsent(consented)
}

func (s *scene) consentFile() string {
	t, err := find(s.user, s.options)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSuffix(t.device.SpoolFile(s.options.StateDir), ".delta") + ".consent"
}

func (s *scene) wantConsent(want bool) {
	s.Helper()
	if _, err := os.Stat(s.consentFile()); (err == nil) != want {
		s.Errorf("there is a consent: %v, want %v", err == nil, want)
	}
}

// editConsent changes the file of a consent.
func (s *scene) editConsent(change func(*state.Consent)) {
	var c state.Consent
	if err := json.Unmarshal([]byte(testkit.Read(s, s.consentFile())), &c); err != nil {
		s.Fatal(err)
	}
	change(&c)
	text, err := json.Marshal(c)
	if err != nil {
		s.Fatal(err)
	}
	testkit.Write(s, s.consentFile(), string(text))
}

// TestConsent lets one delta pass, and no other.
func TestConsent(t *testing.T) {
	for _, kind := range []string{file, loopDevice} {
		t.Run(kind, func(t *testing.T) {
			s := newDiverged(t, kind, "")
			s.wantRefused(false, "--force-diverged", "xb-patch --discard-changes "+s.options.Target)
			if shown := s.memory().Consent; shown != nil {
				t.Errorf("--state shows %+v", shown)
			}
			c := s.discard()
			if c.Image != digestOf(t, s.signed()) || c.Peer != "dom0a" || c.Disk != "domu1/xvda" {
				t.Errorf("the consent is %+v", c)
			}
			if shown := s.memory().Consent; shown == nil || shown.Digest != c.Image.Digest() || shown.Until != c.Given.Add(24*time.Hour) {
				t.Errorf("--state shows %+v", shown)
			}
			if info, err := os.Stat(s.consentFile()); err != nil || info.Mode() != 0o600 {
				t.Errorf("its file has the mode %v", info.Mode())
			}

			other := *s
			other.options.Peer = "dom0b"
			other.wantRefused(true, "it is for an image from dom0a", "--peer dom0b")
			if _, err := DryRun(s.user, s.options, s.deltaTo(s.source())); err != nil {
				t.Errorf("a dry run: %v", err)
			}
			s.wantConsent(true)
			if err := s.patch(); err != nil {
				t.Fatal(err)
			}
			s.wantNew()
			s.wantConsent(false)
			s.scribble()
			s.wantRefused(false)
		})
	}
}

// TestConsentIsNotFor what it was not given for.
func TestConsentIsNotFor(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(s *scene)
		stays bool
		words string
	}{
		"other content": {func(s *scene) { s.write(777, "again") }, true, "it is to lose "},
		"another disk": {func(s *scene) {
			s.editConsent(func(c *state.Consent) { c.Disk = "domu1/xvdb" })
		}, true, "it is for an image of domu1/xvdb"},
		"a day later": {func(s *scene) {
			s.editConsent(func(c *state.Consent) { c.Given, c.Boot = c.Given.Add(-24*time.Hour-time.Second), "" })
		}, false, "it was good for a day"},
		"a clock set back beyond it": {func(s *scene) {
			s.editConsent(func(c *state.Consent) { c.Given = c.Given.Add(time.Hour) })
		}, false, "it is from the future"},
		"a clock set back meanwhile": {func(s *scene) {
			s.editConsent(func(c *state.Consent) { c.Uptime -= 24*60*60 + 1 })
		}, false, "it was good for a day"},
		"another sync since": {func(s *scene) {
			r := s.record()
			r.Time = r.Time.Add(time.Second)
			t, err := find(s.user, s.options)
			if err != nil || t.device.Save(r) != nil {
				s.Fatal("cannot save the state: ", err)
			}
		}, true, "it was used, or something else has become of the target since"},
		"what can't be read": {func(s *scene) { testkit.Write(s, s.consentFile(), "{") }, true, "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newDiverged(t, file, "")
			s.discard()
			test.spoil(s)
			s.wantRefused(test.stays, test.words)
			s.discard() // and again
			if err := s.patch(); err != nil {
				t.Error(err)
			}
			s.wantNew()
			s.wantConsent(false)
		})
	}
}

// write changes the target behind everybody's back.
func (s *scene) write(at int64, text string) {
	f, err := os.OpenFile(s.options.Target, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), at); err != nil {
		s.Fatal(err)
	}
}

// TestNothingToDiscard: of these nobody can consent to lose what is there.
func TestNothingToDiscard(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(s *scene)
		status int
		words  string
	}{
		"not diverged": {func(s *scene) {
			o := s.options
			o.Force = true
			if _, err := Patch(s.user, o, s.deltaTo(s.source())); err != nil {
				s.Fatal(err)
			}
		}, exit.No, "has not diverged"},
		"nothing remembered": {func(s *scene) { s.options.StateDir = s.TempDir() }, exit.NoInput, "nothing tells"},
		"missing": {func(s *scene) {
			s.options.StateDir = s.TempDir()
			os.Remove(s.options.Target)
		}, exit.NoInput, "no such"},
		"missing, though synced": {func(s *scene) { os.Remove(s.options.Target) }, exit.NotBasis, "is missing"},
		"unfinished": {func(s *scene) {
			o := s.options
			o.Force = true
			s.kill(doomed{Run: anApply, Options: o, Delta: s.delta(), After: "recorded"})
		}, exit.Unfinished, "--recover"},
		"another run is at work": {func(s *scene) {
			t, err := open(s.user, s.options)
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(t.close)
		}, exit.Busy, "another xb-patch"},
		"another disk's": {func(s *scene) { s.options.Disk = "domu2/xvda" }, exit.NotBasis, "domu1/xvda"},
		"an incomplete first copy": {func(s *scene) {
			s.options.StateDir = s.TempDir()
			t, err := find(s.user, s.options)
			if err != nil || t.device.Save(&state.Record{Phase: state.Incomplete, Disk: s.options.Disk}) != nil {
				s.Fatal("cannot save the state: ", err)
			}
		}, exit.No, "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newDiverged(t, file, "")
			test.spoil(s)
			c, err := Discard(s.user, s.options, "root")
			testkit.WantStatus(t, "the consent", err, test.status)
			if err != nil && !strings.Contains(err.Error(), test.words) || c != nil {
				t.Errorf("%v, %v does not say %q", c, err, test.words)
			}
			if left, _ := filepath.Glob(s.options.StateDir + "/*.consent"); len(left) > 0 {
				t.Errorf("there is a consent: %q", left)
			}
		})
	}
}

// sent: a peer has got the old image from this host.
func (s *scene) sent(o Options) {
	t, err := find(nil, o)
	if err == nil {
		err = t.device.SaveSent(t.Peer, digestOf(s.T, s.old))
	}
	if err != nil {
		s.Fatal(err)
	}
}

// TestConsentToAuto: what --prepare refuses by the state alone it lets through with a consent, and --auto takes. A
// consent that can't be read is in nobody's way.
func TestConsentToAuto(t *testing.T) {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	s := newScene(t, file, "")
	s.options.Toolstack, s.options.Disk = "virsh", "domu1/xvda"
	o := s.options
	o.Peer = "dom0b"
	s.sent(o)
	s.options.Peer = "dom0c" // which knows nothing of that image
	coming := Coming{Size: s.image.Size, Header: header}
	if _, err := Prepare(s.user, s.options, coming); exit.StatusOf(err) != exit.NotBasis {
		t.Errorf("without a consent: %v", err)
	}
	testkit.Write(t, s.consentFile(), "{")
	if _, err := Prepare(s.user, s.options, coming); exit.StatusOf(err) != exit.NotBasis {
		t.Errorf("with one that can't be read: %v", err)
	}
	s.discard()
	r, err := Prepare(s.user, s.options, coming)
	if err != nil || r.Reason != forced {
		t.Errorf("with a consent: %+v, %v", r, err)
	}
	auto := s.options
	auto.Managed, auto.Create = true, true
	if _, err := Auto(s.user, auto, s.deltaTo(s.source())); err != nil {
		t.Fatal(err)
	}
	s.wantNew()
	s.wantConsent(false)
}

// TestConsentOfTheOldSource: what this host sent to others is what they may replace. It has never been a standby.
func TestConsentOfTheOldSource(t *testing.T) {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	s := newScene(t, file, "")
	s.options.Toolstack = "virsh"
	sent := func(peer string) {
		o := s.options
		o.Peer = peer
		s.sent(o)
	}
	sent("dom0b")
	s.write(0, "a write that dom0b never got")
	if _, err := Discard(s.user, s.options, "root"); exit.StatusOf(err) != exit.Usage || !strings.Contains(err.Error(), "--disk") {
		t.Errorf("it is not told whose standby it is: %v", err)
	}
	s.options.Disk = "domu1/xvda"
	if c := s.discard(); c.Peer != "dom0b" {
		t.Errorf("the next image is to come from %s", c.Peer)
	}
	sent("dom0c")
	if _, err := Discard(s.user, s.options, "root"); exit.StatusOf(err) != exit.Usage ||
		!strings.Contains(err.Error(), "dom0b and dom0c") {
		t.Errorf("two hosts may have it: %v", err)
	}
	s.options.Peer = "dom0c"
	s.wantRefused(true, "xb-patch --discard-changes --peer dom0c --disk domu1/xvda ")
	s.discard()
	if err := s.patch(); err != nil {
		t.Fatal(err)
	}
	s.wantNew()
	s.wantConsent(false)
}

// TestCrashAfterConsent: the consent ends when the state says "clean", and not before, whatever ends the run.
func TestCrashAfterConsent(t *testing.T) {
	for _, test := range []struct{ run, after string }{
		{aConsent, ""}, {anApply, "half received"}, {anApply, "proved"}, {anApply, "recorded"}, {anApply, halfWritten},
		{anApply, "reread"}, {anApply, "clean"}, {aHold, "held"},
	} {
		t.Run(test.run+", "+test.after, func(t *testing.T) {
			s := newDiverged(t, file, test.after)
			if test.run == aConsent {
				s.kill(doomed{Run: aConsent, Options: s.options, Delta: s.delta()})
			} else {
				s.discard()
				o := s.options
				if test.run == aHold {
					o.Set, o.Taken = setA, taken
				}
				s.kill(doomed{Run: test.run, Options: o, Delta: s.delta(), After: test.after})
			}
			s.wantConsent(s.record().Image != s.image || s.record().Phase != state.Clean)
			if s.record().Phase == state.Applying {
				if _, err := Recover(s.user, s.options); err != nil {
					t.Fatal(err)
				}
			} else if err := s.patch(); err != nil {
				t.Fatal(err)
			}
			s.wantNew()
			s.wantConsent(false)
			s.scribble()
			s.wantRefused(false)
		})
	}
}

// TestConsentStaysBehind kills a run after "clean" was saved and before the consent went: it is none any more, even if
// the target comes to hold again what was to be lost.
func TestConsentStaysBehind(t *testing.T) {
	s := newDiverged(t, file, "")
	s.discard()
	text, lost := testkit.Read(t, s.consentFile()), s.content()
	if err := s.patch(); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, s.consentFile(), text)
	if err := os.WriteFile(s.options.Target, lost, 0o600); err != nil {
		t.Fatal(err)
	}
	if shown := s.memory().Consent; shown != nil {
		t.Errorf("--state shows %+v", shown)
	}
	s.wantRefused(true, "it was used")
}

// TestCrashConsentOfSets: one disk of a DomU has diverged, and has the consent that the set can be committed with.
func TestCrashConsentOfSets(t *testing.T) {
	for _, after := range testkit.Some(t, 3, "", "prepared", halfWritten, "changed", "recorded", "half finished", "finished") {
		t.Run(after, func(t *testing.T) {
			m := newMachine(t, after, file, loopDevice)
			s := m.disks[1]
			s.scribble()
			testkit.WantStatus(t, "the delta", s.hold(setA, s.source()), exit.NotBasis)
			s.discard()
			m.hold(setA)
			s.wantConsent(true)
			if after == "prepared" { // its proof must be taken again, and by now the day is over
				s.editConsent(func(c *state.Consent) { c.Given = c.Given.Add(-25 * time.Hour) })
				m.edit(1, func(h *state.Held) { h.Witness = "" })
			}
			if after != "" {
				m.kill(doomed{Run: aCommit, After: after}, s)
			}
			if after == "" || after == "prepared" {
				m.must(m.commit(setA))
			} else if _, err := Recover(s.user, s.options); err != nil {
				t.Fatal(err)
			}
			m.wantNewSet(setA)
			s.wantConsent(false)
			s.scribble()
			testkit.WantStatus(t, "the next delta", s.hold(setC, s.source()), exit.NotBasis)
		})
	}
}

// TestConsentIsOfOneHash: a delta whose digests can't be compared with those remembered is not what it was given for.
func TestConsentIsOfOneHash(t *testing.T) {
	s := newDiverged(t, file, "")
	c := s.discard()
	if !c.Image.Comparable(stream.Image{BlockSize: header.BlockSize, Hash: header.Hash}) {
		t.Errorf("it is for %s", c.Image)
	}
	tt, err := open(s.user, s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer tt.close()
	other := c.Image
	other.Hash = stream.SHA256
	if err := tt.checkDiverged(other, other); exit.StatusOf(err) != exit.NotBasis || strings.Contains(err.Error(), "--discard") {
		t.Errorf("another hash: %v", err)
	}
}
