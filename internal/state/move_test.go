package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// Memory that is in a file keeps everybody away from the DomU but its own move, and says what to do.
func TestMemoryIsInTheWay(t *testing.T) {
	dir := Dir(t.TempDir())
	moves := Moves{Dir: dir}
	if err := moves.Check("domu1"); err != nil {
		t.Fatal(err)
	}
	m := dir.NewMove("domu1", "dom0b")
	m.Memory = true
	if err := m.Reach(MoveStopped); err != nil {
		t.Fatal(err)
	}
	if err := moves.Check("domu1"); err != nil {
		t.Errorf("without a file: %v", err)
	}
	testkit.Write(t, m.File(), "memory")
	for phase, words := range map[MovePhase]string{MoveStopped: "xen-failover move domu1 dom0b --undo", MoveArriving: "--moving " + m.ID} {
		if err := m.Reach(phase); err != nil {
			t.Fatal(err)
		}
		err := moves.Check("domu1")
		testkit.WantStatus(t, string(phase), err, exit.Busy)
		if !strings.Contains(err.Error(), m.File()) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", phase, err)
		}
	}
	if err := moves.Check("domu2"); err != nil {
		t.Errorf("another one: %v", err)
	}
	ours := Moves{Dir: dir, Ours: m.ID}
	if err := ours.Check("domu1"); err != nil || !ours.WasMoved("domu1") || moves.WasMoved("domu1") {
		t.Errorf("its own: %v", err)
	}
	if err := os.Remove(filepath.Join(string(dir), "move", "domu1.json")); err != nil {
		t.Fatal(err)
	}
	testkit.WantStatus(t, "of no move", moves.Check("domu1"), exit.Busy)
}

// That libvirt tells of saved memory is of no interest once it was moved away, until the DomU has run here again.
func TestMemoryMovedAway(t *testing.T) {
	dir := Dir(t.TempDir())
	moves := Moves{Dir: dir}
	m := dir.NewMove("domu1", "dom0b")
	m.Memory = true
	if err := m.Reach(MoveOver); err != nil || !moves.WasMoved("domu1") {
		t.Fatalf("after it: %v", err)
	}
	if err := moves.Runs("domu1"); err != nil || moves.WasMoved("domu1") {
		t.Errorf("it has run since: %v", err)
	}
	if err := m.Reach(MoveAsked); err != nil {
		t.Fatal(err)
	}
	if err := moves.Runs("domu1"); err != nil {
		t.Fatal(err)
	}
	if left, err := dir.LoadMove("domu1"); err != nil || left == nil || left.ID != m.ID {
		t.Errorf("one that is not over was forgotten: %v", err)
	}
}

func TestDamagedMove(t *testing.T) {
	dir := Dir(t.TempDir())
	m := dir.NewMove("domu1", "dom0b")
	if err := m.Reach(MoveAsked); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(string(dir), "move", "domu1.json")
	good := testkit.Read(t, file)
	for _, change := range []string{`"version": 1|"version": 2`, `"domu1"|"domu2"`, `"asked"|"soon"`, m.ID + "|../x", "{|"} {
		old, other, _ := strings.Cut(change, "|")
		testkit.Write(t, file, strings.Replace(good, old, other, 1))
		_, err := dir.LoadMove("domu1")
		testkit.WantStatus(t, change, err, exit.Config)
	}
}
