// Reads of a device come from the disk and writes go to it (O_DIRECT). Pieces of any length at any offset can be read
// and written: the sectors around an uneven one keep what else is in them.

package blockdev

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"xen-backup/internal/pace"
)

// ReadAt reads like io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	if f.read != nil {
		defer func() { f.read.Add(int64(n)) }()
	}
	if f.pace == nil {
		return f.readAt(b, off)
	}
	return f.pace.Do(pace.Read, len(b), func(from, to int64) (n int, waited bool, err error) {
		b, off := b[from:to], off+from
		if f.readCached(b, off) {
			return len(b), false, nil
		}
		n, err = f.readAt(b, off)
		return n, true, err
	})
}

// readCached reads what the page cache has, if it has all of it.
func (f *File) readCached(b []byte, off int64) bool {
	if f.align > 0 {
		return false
	}
	n, err := unix.Preadv2(int(f.f.Fd()), [][]byte{b}, off, unix.RWF_NOWAIT)
	return err == nil && n == len(b)
}

func (f *File) readAt(b []byte, off int64) (int, error) {
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
	if f.pace == nil {
		return f.writeAt(b, off)
	}
	return f.pace.Do(pace.Write, len(b), func(from, to int64) (int, bool, error) {
		n, err := f.writeAt(b[from:to], off+from)
		return n, true, err
	})
}

func (f *File) writeAt(b []byte, off int64) (int, error) {
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

// directWrite is from how many bytes on a single write to a file goes past the page cache: to fill the cache with
// what nobody will read costs more than the disk does, and a Dom0 has other uses for its memory. Smaller ones are
// better gathered there, if not by WriteRanges.
const directWrite = 128 << 10

// writeFile writes to a regular file: what is large and aligned past the page cache, and
// all else, also what the file system refuses to write so, through it.
func (f *File) writeFile(b []byte, off int64) (n int, err error) {
	least := directWrite
	if f.pace.Background() {
		least = maxAlign // what is gathered goes out all at once
	}
	if part := directPart(b, off, maxAlign); f.uncached != nil && part >= least {
		n, err = f.uncached.WriteAt(b[:part], off)
		if err != nil && !errors.Is(err, unix.EINVAL) || n == len(b) {
			return n, err
		}
	}
	m, err := f.f.WriteAt(b[n:], off+int64(n))
	if err == nil && f.pace.Background() {
		err = f.writeOut(off+int64(n), int64(m))
	}
	return n + m, err
}

// writeOut waits until what was written into the page cache is on its way no more.
func (f *File) writeOut(off, n int64) error {
	const now = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(f.f.Fd()), off, n, now)
	if err == unix.ENOSYS || err == unix.EINVAL {
		err = nil // Sync comes in any case
	}
	return pathError("write", f.path, err)
}

// directPart returns how much of b O_DIRECT can read or write as it is.
func directPart(b []byte, off, align int64) int {
	if len(b) == 0 || off%align != 0 || uintptr(unsafe.Pointer(&b[0]))%uintptr(align) != 0 {
		return 0
	}
	return len(b) - len(b)%int(align)
}

// readSectors reads the whole sectors around n bytes at off, which begin skip bytes into them; there are fewer
// sectors at the end, with io.EOF if the n bytes are not all there.
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

// maxAlign satisfies O_DIRECT on any device and file system.
const maxAlign = 4096

// Buffer returns n bytes that O_DIRECT can use on any device.
func Buffer(n int) []byte {
	b := make([]byte, n+maxAlign)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % maxAlign)
	return b[skip : skip+n : skip+n]
}
