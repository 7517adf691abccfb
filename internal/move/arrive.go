package move

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xen-backup/internal/domain"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// Arrival is the other side of a move with memory: what the host that the DomU comes from has done here, one thing after the
// other. Nothing of it lets the DomU go on but Resume, which is asked for when there is no memory of it any more where it
// came from.
type Arrival struct {
	DomU    string
	ID      string // of the move
	Peer    string // where it comes from; "" if that is not known
	State   state.Dir
	Locator *domain.Locator // that knows the move as its own
	URI     string
}

// There are these words for how far it has come.
const (
	None    = "none"    // no memory of this move is here
	Kept    = "kept"    // it is here, in a file
	Half    = "half"    // the same, and what stands still may be half restored: that never ended, or was not written down
	Paused  = "paused"  // it was restored, and the DomU stands still
	Running = "running" // the DomU runs here
)

// In the file system that has the memory something is left; and with what else is saved the memory is larger than that of
// the guest.
const (
	room   = 64 << 20
	margin = 128 << 20
)

// CheckRoom demands that a file of so many bytes, the memory of a DomU, has room in a state directory.
func CheckRoom(dir state.Dir, domu string, size int64) error {
	at := dir.MoveDir()
	var fs unix.Statfs_t
	err := unix.Statfs(at, &fs)
	for errors.Is(err, unix.ENOENT) && at != "/" { // it will be made
		at = filepath.Dir(at)
		err = unix.Statfs(at, &fs)
	}
	if err != nil {
		return exit.Fail(exit.CantCreate, "%s: %w", at, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; size > free-room {
		return exit.Fail(exit.CantCreate, "%s has room for %s, and the memory of %s takes %s", at, text.FormatSize(max(0, free-room)), domu,
			text.FormatSize(size))
	}
	return nil
}

// Keep takes the memory, so many bytes: one less, or more, is none.
func (a *Arrival) Keep(ctx context.Context, in io.Reader, size int64) error {
	release, err := a.State.LockMove(a.DomU)
	if err != nil {
		return err
	}
	defer release()
	switch active, err := a.Locator.IsActive(ctx, a.DomU); {
	case err != nil:
		return err
	case active:
		return exit.Fail(exit.Elsewhere, "%s runs here", a.DomU)
	}
	record := a.State.NewMove(a.DomU, a.Peer)
	record.ID, record.Memory = a.ID, true
	if err := record.Reach(state.MoveArriving); err != nil {
		return err
	}
	if err := CheckRoom(a.State, a.DomU, size); err != nil {
		return err
	}
	p, err := durable.CreatePending(record.File())
	if err != nil {
		return err
	}
	defer p.Discard()
	n, err := io.Copy(p, io.LimitReader(in, size+1))
	switch {
	case err != nil:
		return exit.Fail(exit.CantCreate, "cannot keep the memory of %s: %w", a.DomU, err)
	case n != size:
		return exit.Fail(exit.BadStream, "the memory of %s has %d bytes, and %d or more came", a.DomU, size, n)
	}
	return p.Commit()
}

// record returns what is remembered of this move; nil if that is not known here, or any more.
func (a *Arrival) record() (*state.Move, bool, error) {
	record, err := a.State.LoadMove(a.DomU)
	if err != nil || record == nil || record.ID != a.ID || record.Phase != state.MoveArriving {
		return nil, false, err
	}
	has, err := record.HasFile()
	return record, has, err
}

// Tell says how far it has come, unless that changes just now.
func (a *Arrival) Tell(ctx context.Context) (told string, err error) {
	return told, a.alone(ctx, func(word string, _ *state.Move, _ *domain.Control) error {
		told = word
		return nil
	})
}

// look finds out how far it has come. The record is nil if nothing of the move is known here.
func (a *Arrival) look(ctx context.Context) (word string, record *state.Move, control *domain.Control, err error) {
	record, has, err := a.record()
	if err != nil {
		return "", nil, nil, err
	}
	answer, active, err := a.Locator.Stands(ctx, a.DomU)
	switch {
	case err != nil:
		return "", nil, nil, err
	case !active && has:
		return Kept, record, nil, nil
	case !active:
		return None, record, nil, nil
	}
	if control, err = domain.NewControl(answer.Toolstack, a.DomU, a.URI, ""); err != nil {
		return "", nil, nil, err
	}
	switch {
	case !has || !answer.IsPaused():
		return Running, record, control, nil
	case !record.Restored: // libvirt lists what it restores as paused, from the first moment on
		return Half, record, control, nil
	}
	return Paused, record, control, nil
}

// alone calls do with how far it has come, which nobody else changes meanwhile.
func (a *Arrival) alone(ctx context.Context, do func(word string, record *state.Move, control *domain.Control) error) error {
	release, err := a.State.LockMove(a.DomU)
	if err != nil {
		return err
	}
	defer release()
	word, record, control, err := a.look(ctx)
	if err != nil {
		return err
	}
	return do(word, record, control)
}

// Restore restores the DomU, by the document that was judged for its start here. It does not go on yet.
func (a *Arrival) Restore(ctx context.Context, document string) error {
	return a.alone(ctx, func(word string, record *state.Move, _ *domain.Control) error {
		if word != Kept {
			return exit.Fail(exit.Unavailable, "%s cannot be restored from its memory: %s", a.DomU, word)
		}
		toolstack := "virsh"
		if filepath.Ext(document) == ".cfg" {
			toolstack = "xl"
		}
		control, err := domain.NewControl(toolstack, a.DomU, a.URI, "")
		if err != nil {
			return err
		}
		if err := reachRestored(record, false); err != nil {
			return err
		}
		if err := control.RestoreFrom(ctx, record.File(), document); err != nil {
			return err
		}
		if err := reachRestored(record, true); err != nil {
			return err
		}
		return a.mustBe(ctx, Paused, exit.Unavailable, "restored")
	})
}

// Resume lets the DomU go on, and removes the memory. Once done, it may be asked for again. What was not restored to its end
// is destroyed, and can be restored again.
func (a *Arrival) Resume(ctx context.Context) error {
	return a.alone(ctx, func(word string, record *state.Move, control *domain.Control) error {
		switch word {
		case Paused:
			if err := control.Resume(); err != nil {
				return err
			}
		case Running:
		case Half:
			if err := a.destroy(ctx, control); err != nil {
				return err
			}
			return exit.Fail(exit.Unavailable, "%[1]s was not restored to its end, and is destroyed; from its memory, which is still "+
				"here: xen-failover promote --restore %[2]s %[1]s", a.DomU, a.ID)
		default:
			return exit.Fail(exit.Unavailable, "%s cannot go on here: %s", a.DomU, word)
		}
		return forget(record)
	})
}

// Destroy gives all of it up: the DomU that was restored and did not go on, and the memory. Once done, it may be asked for
// again. What runs is not touched.
func (a *Arrival) Destroy(ctx context.Context) error {
	return a.alone(ctx, func(word string, record *state.Move, control *domain.Control) error {
		switch word {
		case Running:
			return exit.Fail(exit.Elsewhere, "%s runs here", a.DomU)
		case Paused, Half:
			if err := a.destroy(ctx, control); err != nil {
				return err
			}
		}
		return forget(record)
	})
}

// destroy ends what stands still, so that there is nothing of it but its memory.
func (a *Arrival) destroy(ctx context.Context, control *domain.Control) error {
	if err := control.Destroy(); err != nil {
		return err
	}
	return a.mustBe(ctx, Kept, exit.Busy, "destroyed")
}

// reachRestored writes down whether what stands still was restored to its end.
func reachRestored(record *state.Move, restored bool) error {
	if record.Restored == restored {
		return nil
	}
	record.Restored = restored
	return record.Reach(record.Phase)
}

// mustBe demands that the toolstack has done what it says it did.
func (a *Arrival) mustBe(ctx context.Context, want string, status int, done string) error {
	word, _, _, err := a.look(ctx)
	if err == nil && word != want {
		err = exit.Fail(status, "%s was %s, and yet it is %s", a.DomU, done, word)
	}
	return err
}

// forget removes the memory, and then what is remembered of it.
func forget(record *state.Move) error {
	if record == nil {
		return nil
	}
	if err := record.RemoveFile(); err != nil {
		return err
	}
	return record.Forget()
}
