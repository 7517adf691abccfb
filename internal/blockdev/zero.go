// A range that was zeroed reads as zero. Its space is given back only where that is certain: what a device merely was
// told to discard is read again, and zeroed if it is something else.

package blockdev

import (
	"bytes"
	"errors"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/pace"
)

// ZeroRange makes n bytes at off read as zero, and gives their space back where that is safe: a file gets a hole, a
// thin volume is told to discard. Any other device is told to write zeroes, which the kernel does itself where the
// device can't.
func (f *File) ZeroRange(off, n int64) error {
	if n <= 0 {
		return nil
	}
	if !f.block {
		_, err := f.inSteps(off, n, func(off, n int64) error {
			return unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		})
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
			return pathError("punch a hole in", f.path, err)
		}
		return f.writeZeroes(off, n)
	}
	unit := f.discardable()
	start, end := (off+unit-1)/unit*unit, (off+n)/unit*unit
	if unit > 1 && start < end {
		if done, err := f.discardRange(start, end-start); err != nil {
			return err
		} else if done {
			return errors.Join(f.zeroOut(off, start-off), f.zeroOut(end, off+n-end))
		}
	}
	return f.zeroOut(off, n)
}

// zeroOut has the device or the kernel write zeroes.
func (f *File) zeroOut(off, n int64) error {
	if off%f.align != 0 {
		return f.writeZeroes(off, n)
	}
	done, err := f.inSteps(off, n-n%f.align, func(off, n int64) error {
		err := f.rangeIoctl(unix.BLKZEROOUT, off, n)
		if err == nil {
			f.own.written.Add(n)
		}
		return err
	})
	if err != nil && err != unix.EOPNOTSUPP && err != unix.EINVAL && err != unix.ENOTTY {
		return pathError("zero", f.path, err)
	}
	return f.writeZeroes(off+done, n-done)
}

// rangeMax is how many bytes the kernel is told to zero or discard at once: older kernels let
// a process that is to end go on until the whole range is done. In the background it is much less.
const rangeMax = 1 << 30

// inSteps has n bytes at off zeroed, so many at once that nobody has to wait for long.
func (f *File) inSteps(off, n int64, zero func(off, n int64) error) (done int64, err error) {
	for done < n && err == nil {
		var m int
		m, err = f.pace.Do(pace.Zero, int(min(n-done, rangeMax)), func(from, to int64) (int, bool, error) {
			err := zero(off+done+from, to-from)
			if err != nil {
				return 0, true, err
			}
			return int(to - from), true, nil
		})
		done += int64(m)
	}
	return done, err
}

// rangeIoctl gives the kernel a range of bytes, of at most rangeMax.
func (f *File) rangeIoctl(request uint, off, n int64) error {
	return dm.Ioctl(f.f, request, &[2]uint64{uint64(off), uint64(n)}) // block/ioctl.c, blk_ioctl_zeroout and _discard
}

var zeroes = sync.OnceValue(func() []byte { return Buffer(1 << 20) })

func (f *File) writeZeroes(off, n int64) error {
	zeroes := zeroes()
	for n > 0 {
		done, err := f.WriteAt(zeroes[:min(n, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(done), n-int64(done)
	}
	return nil
}

// discardRange gives a range back to the pool and proves that it reads as zero: a
// discard is a hint, which a device may ignore. done is false if it did.
func (f *File) discardRange(off, n int64) (done bool, err error) {
	end := off + n
	step := int64(rangeMax)
	if unit := f.discardable(); f.pace.Background() {
		step = max(1<<20/unit, 1) * unit
	}
	for at := off; at < end; at += step {
		part := min(step, end-at)
		_, err := f.pace.Do(pace.Discard, int(part), func(from, to int64) (int, bool, error) {
			return int(part), true, f.rangeIoctl(unix.BLKDISCARD, at, part)
		})
		if err != nil {
			return false, nil // zeroOut will tell if it is more than "not supported"
		}
		f.own.discarded.Add(part)
	}
	buf := Buffer(1 << 20)
	for ; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if got, err := f.ReadAt(buf, off); got < len(buf) {
			return false, err
		}
		if !bytes.Equal(buf, zeroes()[:len(buf)]) {
			return false, nil
		}
	}
	return true, nil
}

// Zeroed shows those parts of n bytes at off that ZeroRange has to write to.
func (f *File) Zeroed(off, n int64, show func(off, n int64) error) error {
	if !f.block {
		return nil
	}
	unit := f.discardable()
	start, end := (off+unit-1)/unit*unit, (off+n)/unit*unit
	if unit <= 1 || start >= end {
		return show(off, n)
	}
	return errors.Join(show(off, start-off), show(end, off+n-end))
}

// discardable returns the unit in bytes of which a whole, aligned one can be given back, or 1 if none can. Only of a
// thin volume is it known what becomes of discarded blocks, and only if its pool zeroes a block before it hands it
// out: else a later write to a part of the block would uncover what somebody else left in the rest
// (Documentation/admin-guide/device-mapper/thin-provisioning.rst, skip_block_zeroing).
func (f *File) discardable() int64 {
	f.discardOnce.Do(func() {
		f.discard = 1
		d, err := f.deviceMapper()
		if err != nil || d == nil || !d.Thin() {
			return
		}
		if pool, err := d.Pool(); err == nil && pool.ZeroesBlocks {
			f.discard = max(1, f.queueLimit("discard_granularity"))
		}
	})
	return f.discard
}

// queueLimit returns a number from the device's queue directory in sysfs, 0 if it has none.
func (f *File) queueLimit(name string) int64 {
	var stat unix.Stat_t
	if unix.Fstat(int(f.f.Fd()), &stat) != nil {
		return 0
	}
	n, _ := strconv.ParseInt(dm.ReadLine(dm.SysDir(stat.Rdev)+"/queue/"+name), 10, 64)
	return n
}
