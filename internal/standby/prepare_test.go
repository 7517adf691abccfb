package standby

import (
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// TestInterruptedMeanwhile: another run may begin an apply, and be killed, after Prepare has finished the one before
// and until it has the lock. Then no copy can come, but for a dry run, which recovers nothing.
func TestInterruptedMeanwhile(t *testing.T) {
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	for _, dryRun := range []bool{false, true} {
		s := newScene(t, file, "")
		s.options.Toolstack, s.options.Disk, s.options.Peer = "virsh", "domu1/xvda", "dom0a"
		target, err := find(s.user, s.options)
		if err == nil {
			err = target.device.Save(&state.Record{Phase: state.Applying, Image: s.image, Disk: "domu1/xvda",
				Spool: target.device.SpoolFile("")})
		}
		if err != nil {
			t.Fatal(err)
		}
		answer, err := target.judgeComing(Coming{Size: s.image.Size, Header: header, DryRun: dryRun})
		target.close()
		if dryRun && (err != nil || answer.Reason != unfinishedApply) {
			t.Errorf("a dry run: %+v, %v", answer, err)
		}
		if !dryRun {
			testkit.WantStatus(t, "after the recovery", err, exit.Unfinished)
		}
	}
}

// TestReasonAfterFailback: the source may have a base of the image that was last sent here, but if the DomU has run here
// since, and was copied from here, that is not what the standby holds.
func TestReasonAfterFailback(t *testing.T) {
	s := newScene(t, file, "")
	target, err := find(s.user, s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer target.close()
	came := time.Date(2026, 11, 27, 15, 26, 25, 0, time.UTC)
	target.before = &state.Record{Phase: state.Clean, Image: s.image, Time: came}
	coming := Coming{Size: s.image.Size, Header: header, Have: []stream.Image{s.image}}
	for _, test := range []struct {
		sent  stream.Image
		after time.Duration
		want  string
	}{
		{digestOf(t, s.old), 45 * time.Second, noBasis},
		{digestOf(t, s.old), 0, noBasis},
		{digestOf(t, s.old), -time.Second, ""},
		{s.image, time.Second, ""}, // it was not written to
	} {
		known := []*state.Record{target.before, {Phase: state.Clean, Image: test.sent, Peer: "dom0a", Time: came.Add(test.after)}}
		if reason, basis := target.reason(known, coming); reason != test.want || (basis == s.image) != (reason == "") {
			t.Errorf("%v later: %q, %v, want %q", test.after, reason, basis, test.want)
		}
	}
}
