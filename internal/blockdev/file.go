// Package blockdev opens, reads, writes, zeroes and clones the block devices and image files that are copied, and
// finds out whether they still are what they were. It promises that a device's bytes come from the disk and go to it,
// never by way of a cache that something else does not know of. Each file says at its top what else it promises.
package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/pace"
)

// File is an open block device or regular file.
//
// Block devices are read and written with O_DIRECT: what the page cache holds of a device that something else writes
// (a DomU through blkback, dm-snapshot's copies) is stale, and Dom0s are small.
type File struct {
	f     *os.File
	path  string
	size  int64
	block bool
	align int64 // what O_DIRECT demands of offsets, lengths and addresses; 0: no O_DIRECT

	uncached *os.File // the same regular file with O_DIRECT, for large or many writes; nil: none

	own ownWrites // to a device

	pace *pace.Pace    // nil: as fast as it goes
	read *atomic.Int64 // bytes read; nil: nobody counts them

	discard     int64 // see discardable; 0: not found out yet
	discardOnce sync.Once
}

// directReads is how many reads a device should have under way: with two, O_DIRECT is half as fast as readahead.
const directReads = 8

// Close closes the file.
func (f *File) Close() error {
	if f.uncached != nil {
		f.uncached.Close() // it has no error of its own: Sync has told all of them
	}
	return f.f.Close()
}

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// OS returns the open file itself.
func (f *File) OS() *os.File { return f.f }

// Size returns the size in bytes.
func (f *File) Size() int64 { return f.size }

// IsBlock reports whether it is a block device.
func (f *File) IsBlock() bool { return f.block }

// SectorSize returns the size of a device's logical sectors, and of a file those that a guest sees on it.
func (f *File) SectorSize() int64 {
	if f.block {
		return f.align
	}
	return 512
}

// Direct reports whether reads come from the disk, and not from a cache that may have become stale.
func (f *File) Direct() bool { return f.align > 0 }

// SetPace has the file read and written at that pace. It must come before the first read.
func (f *File) SetPace(p *pace.Pace) {
	f.pace = p
	if p.Background() && f.align == 0 {
		// The kernel's own reading ahead would be in flight besides. Where it can't be told, nothing is lost.
		unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_RANDOM)
	}
}

// CountReads adds the bytes that are read from now on to n; also those of who opens it once more by Reread. It must come
// before the first read.
func (f *File) CountReads(n *atomic.Int64) { f.read = n }

// Readers returns how many reads should be under way at once.
func (f *File) Readers() int {
	if f.align > 0 || f.pace.Background() {
		return directReads
	}
	return max(2, runtime.GOMAXPROCS(0))
}

// Limit makes the file appear to be only n bytes long; a smaller file has status BadStream.
func (f *File) Limit(n int64) error {
	if n > f.size {
		return exit.Fail(exit.BadStream, "%s has %d bytes, fewer than %d", f.path, f.size, n)
	}
	f.size = n
	return nil
}

// NextData returns the first range at or after off that may hold data. Block devices don't tell: all of one is data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	if f.block {
		return off, f.size, nil
	}
	start, err = unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // no data up to the end, which must still be there
		if now, err := f.f.Stat(); err != nil || now.Size() < f.size {
			return 0, 0, errors.Join(err, fmt.Errorf("%s has become smaller while it is read", f.path))
		}
		return f.size, f.size, nil
	}
	if err == nil {
		end, err = unix.Seek(int(f.f.Fd()), start, unix.SEEK_HOLE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) { // a file system without holes, or cut just now
		return off, f.size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", f.path, err)
	}
	return min(start, f.size), min(end, f.size), nil
}

// Truncate sets the size of a regular file. Devices keep theirs.
func (f *File) Truncate(size int64) error {
	if f.block || size == f.size {
		return nil
	}
	if err := f.f.Truncate(size); err != nil {
		return err
	}
	f.size = size
	return nil
}

// Sync makes what was written durable, the metadata of a file included.
func (f *File) Sync() error { return f.f.Sync() }

// Reread opens the file once more, for reading what is on the disk and not in a cache: with O_DIRECT, or, on file
// systems that have none, after dropping the file from the page cache. What was written must be synced before.
func (f *File) Reread() (*File, error) {
	again, err := f.reopen(os.O_RDONLY | unix.O_DIRECT)
	r := &File{path: f.path, size: f.size, block: f.block, align: max(f.align, maxAlign), read: f.read}
	if err == nil && !f.block {
		// The file system may take O_DIRECT and then refuse the reads.
		var n int
		n, err = readDirect(again, Buffer(maxAlign), 0)
		if r.read != nil {
			r.read.Add(int64(n))
		}
		if err == io.EOF {
			err = nil
		}
		if err != nil {
			again.Close()
		}
	}
	if err != nil {
		if again, err = f.reopen(os.O_RDONLY); err != nil {
			return nil, err
		}
		r.align = 0
		if err := unix.Fadvise(int(again.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			again.Close()
			return nil, pathError("drop the cache of", f.path, err)
		}
	}
	r.f = again
	r.SetPace(f.pace)
	return r, nil
}

// deviceMapper returns nil where the file is none of its devices.
func (f *File) deviceMapper() (*dm.Device, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &stat); err != nil || !f.block {
		return nil, err
	}
	return dm.Query(stat.Rdev)
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
