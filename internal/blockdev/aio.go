// Many scattered pieces are read or written at once. Whatever happens, nobody gets back before the kernel has let go
// of the buffers.

package blockdev

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Range is a piece of a file, to be read into Buf or written from it.
type Range struct {
	Off int64
	Buf []byte
}

// maxBatch is how many reads or writes are given to the kernel at once.
const maxBatch = 128

// ReadRanges reads all ranges. With O_DIRECT they go to the kernel in batches (io_submit(2)): scattered blocks then
// cost little more than the device's own time, where one read after another would wait for each.
func (f *File) ReadRanges(ranges []Range) error {
	direct := f.f
	if f.align == 0 || f.pace != nil {
		direct = nil
	}
	return f.inBatches(direct, pread, ranges, func(r Range) error {
		if m, err := f.ReadAt(r.Buf, r.Off); m < len(r.Buf) {
			return fmt.Errorf("%s: at byte %d: %w", f.path, r.Off, err)
		}
		return nil
	})
}

// WriteRanges writes all ranges, which must not overlap, in the way that ReadRanges reads.
func (f *File) WriteRanges(ranges []Range) error {
	direct := f.f
	if f.align == 0 {
		direct = f.uncached
	}
	if f.pace != nil {
		direct = nil
	}
	return f.inBatches(direct, pwrite, ranges, func(r Range) error {
		_, err := f.WriteAt(r.Buf, r.Off)
		return err
	})
}

// inBatches gives ranges to the kernel, as many at once as direct can take, or all one by one if that is nil. One by
// one is also how a failed batch finds out what is wrong, and how a pace is kept: each has to wait for its turn.
func (f *File) inBatches(direct *os.File, opcode uint16, ranges []Range, one func(Range) error) error {
	for len(ranges) > 0 {
		n := 0
		for n < min(len(ranges), maxBatch) && direct != nil && f.aligned(ranges[n]) {
			n++
		}
		if n < 2 || f.submit(direct, opcode, ranges[:n]) != nil {
			n = max(n, 1)
			for _, r := range ranges[:n] {
				if err := one(r); err != nil {
					return err
				}
			}
		}
		ranges = ranges[n:]
	}
	return nil
}

func (f *File) submit(direct *os.File, opcode uint16, ranges []Range) error {
	if err := submit(direct, opcode, ranges); err != nil {
		return err
	}
	n := int64(0)
	for _, r := range ranges {
		n += int64(len(r.Buf))
	}
	if opcode == pwrite {
		f.own.written.Add(n)
	} else if f.read != nil {
		f.read.Add(n)
	}
	return nil
}

// aligned reports whether O_DIRECT takes a range as it is.
func (f *File) aligned(r Range) bool {
	return len(r.Buf) > 0 && directPart(r.Buf, r.Off, cmp.Or(f.align, maxAlign)) == len(r.Buf)
}

// Operations of an iocb.
const (
	pread  = 0 // IOCB_CMD_PREAD
	pwrite = 1 // IOCB_CMD_PWRITE
)

// iocb and ioEvent are those of include/uapi/linux/aio_abi.h, little-endian.
type iocb struct {
	data   uint64
	_      [2]uint32 // aio_key, aio_rw_flags
	opcode uint16
	_      uint16 // aio_reqprio
	fd     uint32
	buf    uint64
	bytes  uint64
	offset int64
	_      [2]uint64 // aio_reserved2, aio_flags, aio_resfd
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

// batch is a context for asynchronous reads and writes, used by one goroutine at a time. Some are kept for the life
// of the process: to destroy one takes longer than a batch.
type batch struct {
	context uintptr
	control [maxBatch]iocb
	list    [maxBatch]*iocb
	events  [maxBatch]ioEvent
}

var batches = make(chan *batch, 16)

func getBatch() (*batch, error) {
	select {
	case b := <-batches:
		return b, nil
	default:
	}
	b := new(batch)
	return b, b.setup()
}

func putBatch(b *batch) {
	select {
	case batches <- b:
	default: // enough are kept
		b.destroy()
	}
}

// The four kernel calls of fs/aio.c, for which x/sys/unix has no functions.

func (b *batch) setup() error {
	_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, maxBatch, uintptr(unsafe.Pointer(&b.context)), 0)
	return os.NewSyscallError("io_setup", asError(errno))
}

func (b *batch) destroy() { unix.Syscall(unix.SYS_IO_DESTROY, b.context, 0, 0) }

// begin gives the kernel the list from one entry up to another. It takes some of them, or fails.
func (b *batch) begin(from, to int) (n int, err error) {
	r, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, b.context, uintptr(to-from), uintptr(unsafe.Pointer(&b.list[from])))
	return int(r), os.NewSyscallError("io_submit", asError(errno))
}

// wait waits for at least one event, and for no more than most.
func (b *batch) wait(most int) []ioEvent {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, b.context, 1, uintptr(most),
			uintptr(unsafe.Pointer(&b.events[0])), 0, 0)
		switch errno {
		case 0:
			return b.events[:n]
		case unix.EINTR:
		default:
			panic(os.NewSyscallError("io_getevents", errno)) // only for a bad context
		}
	}
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// submit has the kernel read or write all ranges, and waits for it.
func submit(f *os.File, opcode uint16, ranges []Range) error {
	b, err := getBatch()
	if err != nil {
		return err
	}
	for i, r := range ranges {
		b.control[i] = iocb{data: uint64(i), opcode: opcode, fd: uint32(f.Fd()),
			buf: uint64(uintptr(unsafe.Pointer(&r.Buf[0]))), bytes: uint64(len(r.Buf)), offset: r.Off}
		b.list[i] = &b.control[i]
	}
	begun := 0
	for begun < len(ranges) && err == nil {
		var n int
		if n, err = b.begin(begun, len(ranges)); err == nil {
			begun += n
		}
	}
	// What was begun uses the buffers: nobody leaves before it is done.
	for done := 0; done < begun; {
		events := b.wait(begun - done)
		for _, e := range events {
			if e.res != int64(len(ranges[e.data].Buf)) {
				err = unix.EIO
			}
		}
		done += len(events)
	}
	runtime.KeepAlive(ranges)
	putBatch(b)
	return err
}
