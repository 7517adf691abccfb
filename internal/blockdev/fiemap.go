// Which parts of a file take new blocks when they are written to, as far as its file system tells.

package blockdev

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
)

type span struct{ off, n int64 }

// newBlocks shows those parts of a file, from one byte up to another, to which no write goes without taking new
// blocks: holes, and blocks that another file shares. Where the file system does not tell its extents, only holes are
// known.
func newBlocks(f *os.File, at, end int64, show func(s span, hole bool) error) error {
	m := new(fiemap)
	for at < end {
		if m.ask(f, at, end) != nil {
			return holes(f, at, end, show)
		}
		for _, e := range m.extents[:m.mapped] {
			from, to := max(at, int64(e.logical)), min(end, int64(e.logical+e.length))
			if from > at {
				if err := show(span{at, from - at}, true); err != nil {
					return err
				}
			}
			if e.flags&fiemapShared != 0 && to > from {
				if err := show(span{from, to - from}, false); err != nil {
					return err
				}
			}
			at = max(at, to)
		}
		if m.mapped < m.count && at < end { // that was the last one
			return show(span{at, end - at}, true)
		}
	}
	return nil
}

// CountExtents returns how many extents a file has; ok is false where that cannot be told within limit.
func CountExtents(f *os.File, limit time.Duration) (n int64, ok bool) {
	info, err := f.Stat()
	if err != nil {
		return 0, false
	}
	m := new(fiemap)
	end := time.Now().Add(limit)
	for at := int64(0); at < info.Size(); {
		if m.ask(f, at, info.Size()) != nil || time.Now().After(end) {
			return 0, false
		}
		n += int64(m.mapped)
		if m.mapped < m.count {
			break
		}
		last := m.extents[m.mapped-1]
		at = int64(last.logical + last.length)
	}
	return n, true
}

func holes(f *os.File, at, end int64, show func(s span, hole bool) error) error {
	for at < end {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = end, nil
		}
		if err != nil {
			return nil // nothing can be told
		}
		if data > at {
			if err := show(span{at, min(data, end) - at}, true); err != nil {
				return err
			}
		}
		if data >= end {
			return nil
		}
		if at, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
			return nil
		}
	}
	return nil
}

// fiemap is struct fiemap of include/uapi/linux/fiemap.h, with room for extents.
type fiemap struct {
	start, length        uint64
	flags, mapped, count uint32
	_                    uint32
	extents              [512]struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

const (
	fsIocFiemap = 3<<30 | 32<<16 | 'f'<<8 | 11 // FS_IOC_FIEMAP: _IOWR('f', 11, struct fiemap), without the extents
	fiemapSync  = 1                            // FIEMAP_FLAG_SYNC

	fiemapLast      = 0x0001 // FIEMAP_EXTENT_LAST and so on
	fiemapUnwritten = 0x0800
	fiemapMerged    = 0x1000
	fiemapShared    = 0x2000
)

// ask fills in the extents of a file from one byte up to another, as many as there is room for, once what is dirty has
// been written.
func (m *fiemap) ask(f *os.File, at, end int64) error {
	m.start, m.length, m.flags, m.count = uint64(at), uint64(end-at), fiemapSync, uint32(len(m.extents))
	return dm.Ioctl(f, fsIocFiemap, m)
}
