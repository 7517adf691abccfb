package standby

import (
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
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
