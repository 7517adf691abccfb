package lvm

import (
	"encoding/binary"
	"io"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
)

// A persistent exception store is what a thick snapshot keeps of its origin
// (drivers/md/dm-snap-persistent.c; integers are little-endian). It is divided
// into chunks:
//
//	0      header: magic u32 "SnAp", valid u32, version u32 = 1, chunk size u32 in sectors
//	1      list 0: pairs (chunk of the origin u64, chunk of the store u64)
//	2...   the old content of the chunks in list 0, one for each pair
//	p+2    list 1, where p = chunk bytes / 16 is the number of pairs in a list
//	...
//
// A pair whose second number is 0 is not used yet (chunk 0 being the header). The
// kernel clears a list before it fills the last pair of the one before, writes a
// pair to the disk before the origin's chunk may change, and never takes one back,
// except in a merge.
const (
	storeMagic    = 0x70416e53
	exceptionSize = 16      // bytes
	maxChunkSize  = 4 << 20 // bytes; LVM makes up to 512 KiB
)

// readStore calls changed, in no order, with offset and length in bytes of each
// chunk of the origin that a store lists. store must be read past the page cache,
// which does not see what the kernel adds. What the kernel adds during the reading
// may be missing. chunk is the chunk size in bytes that the kernel uses.
func readStore(store io.ReaderAt, chunk int64, changed func(off, n int64) error) error {
	if chunk < sectorSize || chunk > maxChunkSize || chunk&(chunk-1) != 0 {
		return exit.Fail(exit.Internal, "exception store with chunks of %d bytes", chunk)
	}
	list := blockdev.Buffer(int(max(chunk, 4096)))[:chunk]
	if err := readFull(store, list, 0); err != nil {
		return err
	}
	if err := checkHeader(list, chunk); err != nil {
		return err
	}
	pairs := chunk / exceptionSize
	for pos := chunk; ; pos += (pairs + 1) * chunk {
		if err := readFull(store, list, pos); err != nil {
			return err
		}
		var last uint64
		for at := int64(0); at < chunk; at += exceptionSize {
			last = binary.LittleEndian.Uint64(list[at+8:])
			if last == 0 {
				continue
			}
			origin := binary.LittleEndian.Uint64(list[at:])
			if origin > uint64(1<<62/chunk) {
				return exit.Fail(exit.IOError, "exception store is damaged: it lists chunk %d", origin)
			}
			if err := changed(int64(origin)*chunk, chunk); err != nil {
				return err
			}
		}
		if last == 0 {
			return nil
		}
	}
}

func checkHeader(header []byte, chunk int64) error {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(header[4*i:]) }
	switch {
	case word(0) != storeMagic || word(2) != 1 || int64(word(3))*sectorSize != chunk:
		return exit.Fail(exit.IOError, "exception store is damaged, or of an unknown version: header % x", header[:16])
	case word(1) != 1:
		return exit.Fail(exit.BadSnapshot, "exception store is marked invalid")
	}
	return nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF { // no list is ever full without another one behind it
		err = io.ErrUnexpectedEOF
	}
	return exit.Fail(exit.IOError, "exception store at byte %d: %w", off, err)
}
