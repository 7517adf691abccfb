// Before the first byte of an image is overwritten, there is room for all that will be written, or it is known that
// nothing tells. What was taken beforehand can be given back.

package blockdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/text"
)

// A Reservation makes sure that there is room for what will be written to a file, before the first byte of it is:
// half way it would leave neither the old image nor the new one. New blocks go to holes, to blocks that another file
// shares, and on btrfs to all that is written. Of a loop device they are those of the file below it. Room for holes
// can be taken beforehand where the file is the target itself; for the rest it can only be counted. (On a loop device
// nothing could be taken either: KEEP_SIZE is not supported, and ZERO_RANGE zeroes the image.)
type Reservation struct {
	file   *os.File // whose blocks are taken
	own    bool     // file is the target
	offset int64    // of the target in file
	room   *Room
	copies bool // every write takes new blocks
	holes  int64
	copied int64
	need   int64 // of both, when it was checked
	taken  []span
}

// Reservation returns one of nothing so far; nil if what is written takes no room that a file system gives.
func (f *File) Reservation() (*Reservation, error) {
	r := &Reservation{file: f.f, own: true}
	path := f.path
	if f.block {
		var err error
		if path, r.offset, err = f.below(); path == "" || err != nil {
			return nil, err
		}
		if r.file, err = os.Open(path); err != nil {
			return nil, nil // a file of another mount namespace
		}
		r.own = false
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(r.file.Fd()), &fs); err != nil {
		r.Close()
		return nil, pathError("ask the file system of", path, err)
	}
	r.copies = fs.Type == unix.BTRFS_SUPER_MAGIC
	var err error
	if r.room, err = FileRoom(path); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// below returns the file below a loop device, and where in it the device begins; "" if it is none, or if the file is
// not to be seen.
func (f *File) below() (path string, offset int64, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &stat); err != nil {
		return "", 0, err
	}
	path, _, from := dm.BackingFile(dm.SysDir(stat.Rdev))
	return path, int64(from), nil
}

// Close gives up what only the count needed; what was taken stays.
func (r *Reservation) Close() {
	if !r.own {
		r.file.Close()
	}
}

// Count adds n bytes at off of the target to what will be written.
func (r *Reservation) Count(off, n int64) error {
	if r.copies {
		r.copied += n
		return nil
	}
	return newBlocks(r.file, off+r.offset, off+r.offset+n, func(s span, hole bool) error {
		if hole {
			r.holes += s.n
		} else {
			r.copied += s.n
		}
		return nil
	})
}

// Room tells what shares the room from what does not.
func (r *Reservation) Room() string { return r.room.ID }

// Check fails unless there is room for all of it, and for what was promised to others. kept bytes stay free, and where
// guests share the file system, what they need.
func (r *Reservation) Check(promised, kept int64) error {
	if err := r.room.Update(); err != nil {
		return err
	}
	r.need = r.holes + r.copied
	need, free, left := r.need+promised, r.room.Free, ""
	if r.room.hasGuests(r.file) && r.room.Floor() > kept {
		kept = r.room.Floor()
		left = ", " + text.FormatSize(kept) + " for the guests"
	}
	free -= kept
	if r.need > 0 && need > max(0, free) {
		return exit.Fail(exit.CantCreate, "no room for the image on %s: it needs %s more, and there are %s%s",
			r.room.Name, text.FormatSize(need), text.FormatSize(r.room.Free), left)
	}
	return nil
}

// Take takes room for the holes in n bytes at off, if it can be taken.
func (r *Reservation) Take(off, n int64) error {
	if !r.own || r.copies || r.holes == 0 {
		return nil
	}
	return newBlocks(r.file, off+r.offset, off+r.offset+n, func(s span, hole bool) error {
		if !hole {
			return nil
		}
		err := unix.Fallocate(int(r.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, s.off, s.n)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			r.holes = 0
			return nil
		case err != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)):
			r.taken = append(r.taken, s) // some of it may be
			return exit.Fail(exit.CantCreate, "no room for the image on %s: %w", r.room.Name, err)
		case err != nil:
			return pathError("take room for", r.file.Name(), err)
		}
		r.taken = append(r.taken, s)
		return nil
	})
}

// HasTaken reports whether there is something to be given back.
func (r *Reservation) HasTaken() bool { return len(r.taken) > 0 }

// Untaken returns how much of what was checked has not been taken.
func (r *Reservation) Untaken() int64 {
	n := r.need
	for _, s := range r.taken {
		n -= s.n
	}
	return n
}

// GiveBack makes what was taken holes again, as long as nothing was written.
func (r *Reservation) GiveBack() error {
	for _, s := range r.taken {
		err := unix.Fallocate(int(r.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.off, s.n)
		if err != nil {
			return pathError("give back room of", r.file.Name(), err)
		}
	}
	r.taken = nil
	return nil
}

// hasGuests reports whether a guest of this host has a file on the file system that file is on, other than file
// itself.
func (r *Room) hasGuests(file *os.File) bool {
	info, err := file.Stat()
	if err != nil {
		return false
	}
	return inuse.AnyGuestFile(func(path string) bool {
		other, err := os.Stat(path)
		if err != nil || !other.Mode().IsRegular() || os.SameFile(info, other) {
			return false
		}
		room, err := FileRoom(path)
		return err == nil && room.ID == r.ID
	})
}
