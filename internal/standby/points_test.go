package standby

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/allow"
	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/testkit"
)

// TestCrashWithPoints kills an apply after each of its steps: whatever the cure is, there is one point then, of the old
// image, with the document that was stored, and never two.
func TestCrashWithPoints(t *testing.T) {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	dir := testkit.Mount(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	steps := append(names(slices.Concat(arriving, beginning, finishing)), "half received", halfWritten)
	pointed := slices.Index(steps, "pointed")
	for i, after := range steps {
		t.Run(after, func(t *testing.T) {
			s := newScene(t, file, after)
			at := filepath.Join(dir, strings.ReplaceAll(after, " ", "-"))
			if err := os.WriteFile(at, s.old, 0o600); err != nil {
				t.Fatal(err)
			}
			s.options.Target, s.options.Keep = at, keep(t, "9")
			s.options.Disk, s.options.Toolstack = "domu1/xvda", "virsh"
			s.synced()
			if err := durable.WriteFile(filepath.Join(s.options.StateDir, "xml", "domu1.cfg"), []byte("of the old image")); err != nil {
				t.Fatal(err)
			}
			s.kill(doomed{Run: anApply, Options: s.options, Delta: s.delta(), After: after})
			want := 1
			if i < pointed || after == "half received" {
				want = 0
			}
			s.wantPoints(want)
			if err := s.patch(); exit.StatusOf(err) == exit.Unfinished {
				if _, err := Recover(s.user, s.options); err != nil {
					t.Error(err)
				}
			} else if err != nil {
				t.Error(err)
			}
			s.wantNew()
			s.wantPoints(1)
			if all, err := os.ReadDir(filepath.Join(s.options.StateDir, "xml", "at")); err != nil || len(all) != 1 {
				t.Errorf("there are the documents %v: %v", all, err)
			}
		})
	}
}

func keep(t *testing.T, rule string) *state.Keep {
	k, err := state.ParseKeep(rule)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// wantPoints demands so many points of the old image.
func (s *scene) wantPoints(want int) {
	s.Helper()
	points, _, err := snapshot.PointsOf([]string{s.options.Target}, state.Dir(s.options.StateDir))
	if err != nil || len(points) != want {
		s.Fatalf("there are %d points, want %d: %v", len(points), want, err)
	}
	for _, p := range points {
		if text, err := os.ReadFile(p.Path); err != nil || !bytes.Equal(text, s.old) {
			s.Errorf("the point does not hold the old image: %v", err)
		}
		path, own := domain.Moment{Name: "domu1", Of: p.Point.Taken}.Document(state.Dir(s.options.StateDir))
		if !own || testkit.Read(s, path+".cfg") != "of the old image" {
			s.Errorf("the point has no document")
		}
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(s.options.Target), "."+filepath.Base(s.options.Target)+".xb-snap-*"))
	if err != nil || len(found) != want {
		s.Errorf("there are the files %v", found)
	}
}

// TestRules has whoever may only replicate decide nothing about what is there.
func TestRules(t *testing.T) {
	text := func(rules []*state.Keep) string {
		var words []string
		for _, k := range rules {
			words = append(words, k.String())
		}
		return strings.Join(words, " and ")
	}
	for _, c := range []struct{ host, asked, gated, trusted, pruning string }{
		{"", "", "", "", ""},
		{"", "5", "", "5", ""},
		{"3", "", "3", "3", "3"},
		{"3", "no", "3 and 0", "3 and 0", "3"},
	} {
		o := Options{}
		if c.host != "" {
			o.HostKeep = keep(t, c.host)
		}
		if c.asked != "" {
			o.Keep = keep(t, c.asked)
		}
		making, pruning := (&target{Options: o}).rules()
		if text(making) != c.trusted || text(pruning) != c.trusted {
			t.Errorf("%+v: points are made by %q and pruned by %q", c, text(making), text(pruning))
		}
		o.Allow = new(allow.Rules)
		making, pruning = (&target{Options: o}).rules()
		if text(making) != c.gated || text(pruning) != c.pruning {
			t.Errorf("%+v: through the gate points are made by %q and pruned by %q", c, text(making), text(pruning))
		}
	}
}
