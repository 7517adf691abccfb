package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
)

// A guest's disk is a log in slots: number n is written to slot n modulo their count. All of
// a disk follows from the last number on it, so that an image can be judged by itself: it is
// the disk at one moment, or it is none.
const (
	slotSize = 64 * kib
	// Every third number is written as zeroes, which leaves a hole in a copy, and what comes
	// after it in its slot takes room again. The number of slots is no multiple of three, so
	// that zeroes never replace zeroes.
	zeroEvery = 3
)

var slots = [2]int{100, 43}

// tailSize is what a disk has behind its slots: it grows with time, and begins again.
func tailSize(n int) int { return n / 40 % 4 * slotSize }

func largestDisk(disk int) int64 { return int64((slots[disk] + 3) * slotSize) }

// slot returns what a disk has in the slot of number n.
func slot(disk, n int) []byte {
	if n%zeroEvery == 0 {
		return make([]byte, slotSize)
	}
	b := randomBytes(slotSize, uint64(n)&0xffff)
	for i := 0; i < len(b); i += 4 * kib {
		binary.LittleEndian.PutUint64(b[i:], uint64(n))
		b[i+8] = byte(disk)
	}
	return b
}

// diskAt returns what a disk is when n is the last number on it.
func diskAt(disk, n int) []byte {
	b := make([]byte, slots[disk]*slotSize+tailSize(n))
	for i := n - slots[disk] + 1; i <= n; i++ {
		copy(b[i%slots[disk]*slotSize:], slot(disk, i))
	}
	return b
}

// lastNumber returns the last number on a disk's image, which may have something behind it.
// An image that was no disk at any moment is an error.
func lastNumber(disk int, image []byte) (int, error) {
	n := 0
	for i := range slots[disk] {
		if len(image) >= (i+1)*slotSize {
			n = max(n, int(binary.LittleEndian.Uint64(image[i*slotSize:])))
		}
	}
	for _, n := range []int{n, n + 1} { // the last may be zeroes
		if n >= slots[disk] && n < 1<<20 && bytes.HasPrefix(image, diskAt(disk, n)) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("disk %d is a mix: its last number seems to be %d", disk, n)
}

// writer is a guest that writes for ever: n to the first disk, then n to the second one. So
// at any instant the first is at the number of the second, or one further.
type writer struct {
	*host
	last [2]int // on each disk
}

func (h *host) newWriter() *writer {
	w := &writer{host: h}
	for disk := range w.last {
		w.last[disk] = slots[0]
		h.write(diskName(disk), diskAt(disk, slots[0]))
	}
	return w
}

func diskName(disk int) string { return fmt.Sprintf("disk-%d", disk) }

// goOn writes to one disk after the other.
func (w *writer) goOn(writes int) {
	w.Helper()
	for range writes {
		disk := 0
		if w.last[0] > w.last[1] {
			disk = 1
		}
		w.last[disk]++
		n := w.last[disk]
		f, err := os.OpenFile(w.path(diskName(disk)), os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt(slot(disk, n), int64(n%slots[disk]*slotSize))
		}
		if err == nil {
			err = f.Truncate(int64(slots[disk]*slotSize + tailSize(n)))
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			w.Fatal(err)
		}
	}
}

// snapshot freezes both disks.
func (w *writer) snapshot() (last [2]int) {
	w.Helper()
	for disk := range w.last {
		w.must("cp --reflink=auto " + diskName(disk) + " " + snapshotName(disk))
	}
	return w.last
}

func snapshotName(disk int) string { return fmt.Sprintf("snapshot-%d", disk) }
