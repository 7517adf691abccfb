// Package blockdev opens the devices and files that are read and written: sizes,
// direct I/O, holes, zeroing, identity, and who else uses them. It is the only
// package that speaks to the kernel beyond what package os offers.
package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
)

// File is an open block device or regular file.
//
// Block devices are read and written with O_DIRECT: what the page cache holds of
// a device that something else writes (a DomU through blkback, dm-snapshot's
// copies) is stale, and Dom0s are small.
type File struct {
	f     *os.File
	path  string
	size  int64
	block bool
	align int64 // what O_DIRECT demands of offsets, lengths and addresses; 0: no O_DIRECT

	direct *os.File // the same regular file with O_DIRECT, for large or many writes; nil: none

	own ownWrites // to a device

	discard     int64 // see discardable; 0: not found out yet
	discardOnce sync.Once
}

// directReads is how many reads a device should have under way: with two,
// O_DIRECT is half as fast as readahead.
const directReads = 8

// directWrite is from how many bytes on a single write to a file goes past the page cache:
// to fill the cache with what nobody will read costs more than the disk does, and a Dom0 has
// other uses for its memory. Smaller ones are better gathered there, if not by WriteRanges.
const directWrite = 128 << 10

// Close closes the file.
func (f *File) Close() error {
	if f.direct != nil {
		f.direct.Close() // it has no error of its own: Sync has told all of them
	}
	return f.f.Close()
}

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// OS returns the open file itself.
func (f *File) OS() *os.File { return f.f }

// Size returns the size in bytes.
func (f *File) Size() int64 { return f.size }

// IsBlock tells whether it is a block device.
func (f *File) IsBlock() bool { return f.block }

// SectorSize returns the size of a device's logical sectors, and of a file those that a
// guest sees on it.
func (f *File) SectorSize() int64 {
	if f.block {
		return f.align
	}
	return 512
}

// Direct tells whether reads come from the disk, and not from a cache that may
// have become stale.
func (f *File) Direct() bool { return f.align > 0 }

// Readers returns how many reads should be under way at once.
func (f *File) Readers() int {
	if f.align > 0 {
		return directReads
	}
	return max(2, runtime.GOMAXPROCS(0))
}

// Limit makes the file appear to be only n bytes long; a smaller file has status
// BadStream.
func (f *File) Limit(n int64) error {
	if n > f.size {
		return exit.Fail(exit.BadStream, "%s has %d bytes, fewer than %d", f.path, f.size, n)
	}
	f.size = n
	return nil
}

// NextData returns the first range at or after off that may hold data. Block
// devices don't tell: all of one is data.
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

// ReadAt reads like io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	if f.align == 0 {
		return f.f.ReadAt(b, off)
	}
	direct := directPart(b, off, f.align)
	n, err := readDirect(f.f, b[:direct], off)
	if err != nil || n < direct || n == len(b) {
		return n, err
	}
	sectors, skip, err := f.readSectors(off+int64(n), int64(len(b)-n))
	if int64(len(sectors)) > skip {
		n += copy(b[n:], sectors[skip:])
	}
	return n, err
}

// WriteAt writes like io.WriterAt.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	if f.align == 0 {
		return f.writeFile(b, off)
	}
	n, err := f.f.WriteAt(b[:directPart(b, off, f.align)], off)
	f.own.written.Add(int64(n))
	if err != nil || n == len(b) {
		return n, err
	}
	// What is left has no whole sector, or a buffer that O_DIRECT can't take: it
	// is put into the sectors around it, and those are written.
	at := off + int64(n)
	sectors, skip, err := f.readSectors(at, int64(len(b)-n))
	if err != nil {
		return n, err
	}
	copied := copy(sectors[skip:], b[n:])
	m, err := f.f.WriteAt(sectors, at-skip)
	f.own.written.Add(int64(m))
	if err != nil {
		return n, err
	}
	return n + copied, nil
}

// writeFile writes to a regular file: what is large and aligned past the page cache, and
// all else, also what the file system refuses to write so, through it.
func (f *File) writeFile(b []byte, off int64) (n int, err error) {
	if part := directPart(b, off, maxAlign); f.direct != nil && part >= directWrite {
		n, err = f.direct.WriteAt(b[:part], off)
		if err != nil && !errors.Is(err, unix.EINVAL) || n == len(b) {
			return n, err
		}
	}
	m, err := f.f.WriteAt(b[n:], off+int64(n))
	return n + m, err
}

// directPart returns how much of b O_DIRECT can read or write as it is.
func directPart(b []byte, off, align int64) int {
	if len(b) == 0 || off%align != 0 || uintptr(unsafe.Pointer(&b[0]))%uintptr(align) != 0 {
		return 0
	}
	return len(b) - len(b)%int(align)
}

// readSectors reads the whole sectors around n bytes at off, which begin skip
// bytes into them; there are fewer sectors at the end, with io.EOF if the n bytes
// are not all there.
func (f *File) readSectors(off, n int64) (sectors []byte, skip int64, err error) {
	skip = off % f.align
	sectors = Buffer(int((skip + n + f.align - 1) / f.align * f.align))
	got, err := readDirect(f.f, sectors, off-skip)
	if err == io.EOF && int64(got) >= skip+n {
		err = nil
	}
	return sectors[:got], skip, err
}

// readDirect reads as os.File.ReadAt, which would go on with an unaligned rest
// after a short read at the end of a file: a short read is the end here.
func readDirect(f *os.File, b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Pread(int(f.Fd()), b[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, &os.PathError{Op: "read", Path: f.Name(), Err: err}
		}
		done += n
		if n == 0 || n%4096 != 0 && done < len(b) { // the end: only there is a read short
			return done, io.EOF
		}
	}
	return done, nil
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

// Reread opens the file once more, for reading what is on the disk and not in a
// cache: with O_DIRECT, or, on file systems that have none, after dropping the
// file from the page cache. What was written must be synced before.
func (f *File) Reread() (*File, error) {
	again, err := f.reopen(os.O_RDONLY | unix.O_DIRECT)
	r := &File{path: f.path, size: f.size, block: f.block, align: max(f.align, maxAlign)}
	if err == nil && !f.block {
		// The file system may take O_DIRECT and then refuse the reads.
		_, err = readDirect(again, Buffer(maxAlign), 0)
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
	return r, nil
}

// maxAlign satisfies O_DIRECT on any device and file system.
const maxAlign = 4096

// Buffer returns n bytes that O_DIRECT can use on any device.
func Buffer(n int) []byte {
	b := make([]byte, n+maxAlign)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % maxAlign)
	return b[skip : skip+n : skip+n]
}
