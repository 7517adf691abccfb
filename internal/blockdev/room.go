// A snapshot and whoever writes a standby leave the guests some room: the floor. What is free is asked of the file
// system or the pool each time, and the least of all that lie below one another counts.

package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Room is what images share that take more of it as they are written to: that of a
// file system with their files, or of a thin pool.
//
// Below a snapshot each block that a guest rewrites takes a new one, so it is the
// guest that finds no room: its disk then answers with an error, or not at all.
type Room struct {
	ID   string // the same for everything that shares it
	Name string // in words: "the file system of /srv", "thin pool vg0-pool-tpool"

	Size, Free         int64 // bytes that anybody may use
	MetaSize, MetaFree int64 // of a pool's metadata; else 0

	// Below holds the thin pools that a file system lies on: what a file takes of it may take a block of theirs.
	Below []*Room

	path string // a file on the file system
	pool uint64 // device number of the pool; 0: a file system
}

// The floor: how much is left to the guests. What is free may be taken down to it.
const (
	minFloor      = 256 << 20 // bytes, of a file system
	floorPercent  = 1         // of a file system
	poolPercent   = 5         // of a pool's data
	poolMetaShare = 10        // percent of a pool's metadata
)

// Floor returns the bytes that are to stay free for the guests.
func (r *Room) Floor() int64 {
	if r.pool != 0 {
		return r.Size / 100 * poolPercent
	}
	return max(minFloor, r.Size/100*floorPercent)
}

// MetaFloor is the same of a pool's metadata.
func (r *Room) MetaFloor() int64 { return r.MetaSize / 100 * poolMetaShare }

// Margin returns how many bytes can be taken until the floor is reached; below it,
// it is negative. A block of a pool, of 64 KiB or more, costs at most a block of the
// metadata, of 4 KiB: one that is copied because a snapshot has it too.
func (r *Room) Margin() int64 {
	margin := r.Free - r.Floor()
	if r.pool != 0 {
		margin = min(margin, (r.MetaFree-r.MetaFloor())*16)
	}
	for _, pool := range r.Below {
		margin = min(margin, pool.Margin())
	}
	return margin
}

// Use returns how much of the room is taken, in percent: of its data or its metadata, or of a pool below, whichever is
// the fullest; and what that is.
func (r *Room) Use() (percent float64, what string) {
	percent, what = share(r.Size, r.Free), r.Name
	if meta := share(r.MetaSize, r.MetaFree); meta > percent {
		percent, what = meta, "the metadata of "+r.Name
	}
	for _, pool := range r.Below {
		if p, w := pool.Use(); p > percent {
			percent, what = p, w
		}
	}
	return percent, what
}

func share(size, free int64) float64 { return 100 * float64(size-free) / float64(max(size, 1)) }

// Takes returns how many bytes guests can take anew of the room alone, whatever is to stay free: of a pool no more than
// its metadata can tell the places of.
func (r *Room) Takes() int64 {
	if r.pool != 0 {
		return min(r.Free, r.MetaFree*16)
	}
	return r.Free
}

// Tightest returns the room or, if there is less in it, a pool below.
func (r *Room) Tightest() *Room {
	for _, pool := range r.Below {
		if pool.Margin() == r.Margin() {
			return pool
		}
	}
	return r
}

// Room returns the room that the file takes from when it is written to, nil if it
// shares none with others: a device that is no thin volume.
func (f *File) Room() (*Room, error) {
	if !f.block {
		return FileRoom(f.path)
	}
	d, err := f.deviceMapper()
	if err != nil || d == nil || !d.Thin() {
		return nil, err
	}
	return PoolRoom(d)
}

// PoolRoom returns the pool of a thin volume.
func PoolRoom(d *dm.Device) (*Room, error) {
	pool, err := d.PoolNumber()
	if err != nil {
		return nil, err
	}
	r := &Room{ID: "pool " + dm.MajorMinor(pool), pool: pool}
	return r, r.Update()
}

// FileRoom returns the file system of a file.
func FileRoom(path string) (*Room, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	var stat unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return nil, pathError("stat", path, err)
	}
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return nil, pathError("ask the file system of", path, err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	r := &Room{path: path, ID: "file system " + dm.MajorMinor(stat.Dev), Name: "the file system of " + filepath.Dir(path)}
	devices := []string{dm.SysDir(stat.Dev)}
	if fs.Type == unix.BTRFS_SUPER_MAGIC { // each of its subvolumes has a device number of its own
		id, err := btrfsID(f)
		if err != nil {
			return nil, pathError("ask the file system of", path, err)
		}
		r.ID = "btrfs " + id
		devices, _ = filepath.Glob("/sys/fs/btrfs/" + id + "/devices/*")
	}
	for _, device := range devices {
		if err := r.findBelow(device); err != nil {
			return nil, err
		}
	}
	return r, r.Update()
}

// findBelow looks for the pools that the device with this folder in sysfs lies on,
// through whatever is between: partitions, encryption, other volumes.
func (r *Room) findBelow(device string) error {
	number, err := dm.ParseMajorMinor(dm.ReadLine(device+"/dev"), 10)
	if err != nil {
		return nil // no device: a file system of memory, or of another host
	}
	d, err := dm.Query(number)
	if err != nil {
		return err
	}
	if d != nil && d.Thin() {
		pool, err := PoolRoom(d)
		if err == nil && !slices.ContainsFunc(r.Below, func(b *Room) bool { return b.ID == pool.ID }) {
			r.Below = append(r.Below, pool)
		}
		return err
	}
	below, _ := filepath.Glob(device + "/slaves/*")
	if dm.Exists(device + "/partition") {
		below = append(below, device+"/..")
	}
	for _, device := range below {
		if err := r.findBelow(device); err != nil {
			return err
		}
	}
	return nil
}

// btrfsID returns the UUID of a btrfs: struct btrfs_ioctl_fs_info_args in include/uapi/linux/btrfs.h, max_id u64,
// num_devices u64, fsid [16].
func btrfsID(f *os.File) (string, error) {
	const fsInfo = 2<<30 | 1024<<16 | 0x94<<8 | 31 // BTRFS_IOC_FS_INFO: _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)
	var info [1024]byte
	if err := dm.Ioctl(f, fsInfo, &info); err != nil {
		return "", err
	}
	id := info[16:32]
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), nil
}

// Update measures again what is free.
func (r *Room) Update() error {
	for _, pool := range r.Below {
		if err := pool.Update(); err != nil {
			return err
		}
	}
	if r.pool != 0 {
		p, err := dm.QueryPool(r.pool)
		if err != nil {
			return err
		}
		if p == nil {
			return exit.Fail(exit.Unavailable, "%s is gone", r.Name)
		}
		r.Name = "thin pool " + p.Name
		r.Size, r.Free = p.Data, p.Data-p.DataUsed
		r.MetaSize, r.MetaFree = p.Meta, p.Meta-p.MetaUsed
		return nil
	}
	// Of the file and not of its directory: a quota of the project may bound it.
	var fs unix.Statfs_t
	if err := unix.Statfs(r.path, &fs); err != nil {
		return pathError("ask the file system of", r.path, err)
	}
	r.Size, r.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	return nil
}

// Allocated returns how many bytes an image has taken: of a sparse file or a thin volume only what was ever written.
func (f *File) Allocated() (int64, error) {
	if !f.block {
		var stat unix.Stat_t
		err := unix.Fstat(int(f.f.Fd()), &stat)
		return stat.Blocks * 512, pathError("stat", f.path, err)
	}
	d, err := f.deviceMapper()
	if err != nil || d == nil || !d.Thin() {
		return f.size, err
	}
	return d.Mapped()
}
