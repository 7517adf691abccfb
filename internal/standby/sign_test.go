package standby

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// signed opens a basis and returns its size, or the status with which it is refused.
func signed(t *testing.T, o BasisOptions) (size int64, status int) {
	t.Helper()
	b, err := OpenBasis(o)
	if err != nil {
		return 0, exit.StatusOf(err)
	}
	defer b.Close()
	if err := b.Check(); err != nil {
		t.Error(err)
	}
	return b.Size(), exit.OK
}

func deviceOf(t *testing.T, stateDir, path string) *state.Device {
	t.Helper()
	identity, err := blockdev.Identity(path)
	if err != nil {
		t.Fatal(err)
	}
	return state.Dir(stateDir).Device(identity, path)
}

func imageOf(size int64) stream.Image {
	return stream.Image{BlockSize: 4096, Hash: stream.XXH64, Size: size}
}

func TestBasisMissing(t *testing.T) {
	dir := t.TempDir()
	states, target := filepath.Join(dir, "state"), filepath.Join(dir, "target")
	for _, test := range []struct {
		target    string
		missingOK bool
		status    int
	}{
		{target, false, exit.NoInput}, {target, true, exit.OK}, {filepath.Join(dir, "none", "target"), true, exit.OK},
	} {
		size, status := signed(t, BasisOptions{Target: test.target, StateDir: states, Size: -1, MissingOK: test.missingOK})
		if size != 0 || status != test.status {
			t.Errorf("%+v: size %d, status %d", test, size, status)
		}
	}
	b, err := OpenBasis(BasisOptions{Target: target, StateDir: states, Size: -1, MissingOK: true})
	if err == nil {
		err = b.Remember(imageOf(0))
	}
	if _, statErr := os.Stat(states); err != nil || !os.IsNotExist(statErr) {
		t.Errorf("something is remembered of nothing: %v, %v", err, statErr)
	}

	// A file that was to be created when its apply was interrupted.
	device := deviceOf(t, states, target)
	unfinished := state.Record{Phase: state.Applying, Image: imageOf(1), Spool: device.SpoolFile("")}
	if err := device.Save(&unfinished); err != nil {
		t.Fatal(err)
	}
	_, status := signed(t, BasisOptions{Target: target, StateDir: states, Size: -1, MissingOK: true})
	if status != exit.Unfinished {
		t.Errorf("missing in an unfinished apply: status %d", status)
	}
}

// TestBasisSize: of a device only the image of its last sync is read, of a file all.
func TestBasisSize(t *testing.T) {
	const mib = 1 << 20
	loop, file := testkit.LoopDevice(t, 4*mib)
	now := time.Now().UTC()
	clean := func(size int64) state.Record { return state.Record{Phase: state.Clean, Image: imageOf(size)} }
	for _, test := range []struct {
		name       string
		got        state.Record // the last image that it got
		sent       int64        // bytes of the image that it sent after that; 0: none
		size       int64        // asked for
		want       int64
		wantStatus int
	}{
		{name: "nothing known", size: -1, want: 4 * mib},
		{name: "a mix", got: state.Record{Phase: state.Incomplete}, size: -1, want: 4 * mib},
		{name: "got", got: clean(mib), size: -1, want: mib},
		{name: "got, asked for more", got: clean(mib), size: 2 * mib, want: 2 * mib},
		{name: "got, does not fit", got: clean(5 * mib), size: -1, wantStatus: exit.BadStream},
		{name: "sent", sent: 3 * mib, size: -1, want: 3 * mib},
		{name: "got, then sent", got: clean(mib), sent: 2 * mib, size: -1, want: 2 * mib},
		{name: "sent, when it was larger", sent: 5 * mib, size: -1, want: 4 * mib},
		{name: "unfinished", got: state.Record{Phase: state.Applying, Image: imageOf(mib)}, size: -1,
			wantStatus: exit.Unfinished},
	} {
		states := t.TempDir()
		device := deviceOf(t, states, loop)
		if got := test.got; got.Phase != "" {
			got.Time, got.Spool = now.Add(-time.Hour), device.SpoolFile("")
			if err := device.Save(&got); err != nil {
				t.Fatal(err)
			}
		}
		if test.sent > 0 {
			if err := device.SaveSent("dom0b", imageOf(test.sent)); err != nil {
				t.Fatal(err)
			}
		}
		size, status := signed(t, BasisOptions{Target: loop, StateDir: states, Size: test.size})
		if size != test.want || status != test.wantStatus {
			t.Errorf("%s: %d bytes, status %d, want %d, %d", test.name, size, status, test.want, test.wantStatus)
		}
	}

	states := t.TempDir()
	if err := deviceOf(t, states, file).Save(&state.Record{Phase: state.Clean, Image: imageOf(mib)}); err != nil {
		t.Fatal(err)
	}
	size, status := signed(t, BasisOptions{Target: file, StateDir: states, Size: -1})
	if size != 4*mib || status != exit.OK {
		t.Errorf("a file that has grown: %d bytes, status %d", size, status)
	}
}

// TestBasisRemembers what it held, unless somebody wrote to it meanwhile.
func TestBasisRemembers(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	for _, written := range []bool{false, true} {
		if err := os.WriteFile(target, make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		states := t.TempDir()
		b, err := OpenBasis(BasisOptions{Target: target, StateDir: states, Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if written {
			if err := os.WriteFile(target, make([]byte, 5000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Remember(imageOf(5000)); err != nil {
			t.Fatal(err)
		}
		seen := deviceOf(t, states, target).LoadSeen()
		if remembered := seen.Phase == state.Seen && seen.Image == imageOf(5000) && seen.Witness != ""; remembered == written {
			t.Errorf("written to: %v, remembered: %+v", written, seen)
		}
	}
}
