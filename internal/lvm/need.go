package lvm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"

	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

// ThinWrites are the data blocks of a thin volume that are about to be written.
type ThinWrites struct {
	blocks    *extent.Set
	volume    *device
	pool      string // its name
	blockSize int64  // of the pool, in bytes
	owned     int64  // of the blocks, in bytes: those that the volume has for itself, if counted
	counted   bool
}

// NewThinWrites returns an empty set; nil if path is no thin volume.
func NewThinWrites(path string) (*ThinWrites, error) {
	d, err := lookAt(path)
	if exit.StatusOf(err) == exit.Usage { // no device of device-mapper
		return nil, nil
	}
	if err != nil || d.kind() != "thin" {
		return nil, err
	}
	pool, err := d.Pool()
	if err != nil {
		return nil, err
	}
	return &ThinWrites{blocks: extent.NewSet(pool.BlockSize, d.size()), volume: d, pool: pool.Name, blockSize: pool.BlockSize}, nil
}

// Add adds n bytes at off.
func (w *ThinWrites) Add(off, n int64) error {
	w.blocks.Add(off, n)
	return nil
}

// CheckRoom reports whether the pool has the blocks that this takes: one for each block that
// the volume has not yet, or that a snapshot has too, beside what others take that will be
// written before; left bytes of the pool are to stay free. Only where those that are touched are more than there are free ones the
// volumes' mappings are read; dir is where the lock of the pool's metadata snapshot is kept.
func (w *ThinWrites) CheckRoom(dir string, left int64, others ...*ThinWrites) error {
	pool, err := w.volume.Pool()
	if err != nil {
		return err
	}
	all := []*ThinWrites{w}
	for _, o := range others {
		if o.pool == w.pool {
			all = append(all, o)
		}
	}
	free, need := max(0, pool.Data-pool.DataUsed-left), int64(0)
	for _, o := range all {
		need += o.blocks.Bytes() - o.owned
	}
	for _, o := range all {
		if need <= free {
			return nil
		}
		if o.counted {
			continue
		}
		if o.owned, err = o.own(dir); err != nil {
			return err
		}
		o.counted, need = true, need-o.owned
	}
	if need <= free {
		return nil
	}
	return exit.Fail(exit.CantCreate, "no room for the image in the thin pool of %s: it needs %s more, and there are %s",
		w.volume.path, text.FormatSize(need), text.FormatSize(free))
}

// Bytes returns how much the blocks take that are touched, if the volume has none of them for itself.
func (w *ThinWrites) Bytes() int64 { return w.blocks.Bytes() }

// own returns how many of the bytes lie in blocks that the volume has for itself.
func (w *ThinWrites) own(dir string) (n int64, err error) {
	pool, err := w.volume.poolDevice()
	if err != nil {
		return 0, err
	}
	metadata, err := pool.below(0)
	if err != nil {
		return 0, err
	}
	snap, err := reserve(pool, dir)
	if err != nil {
		return 0, err
	}
	r, pipe := io.Pipe()
	parsed := make(chan error, 1)
	go func() {
		err := parseDump(r, func(begin, length int64) { n += w.overlap(begin, length) })
		r.CloseWithError(err)
		parsed <- err
	}()
	failed := program.Run(thinLimit, pipe, "thin_dump", "--metadata-snap", "--dev-id", w.volume.param(1), metadata)
	pipe.CloseWithError(failed)
	if err = <-parsed; err != nil {
		err = exit.Fail(exit.Unavailable, "cannot tell which blocks %s has: thin_dump: %w", w.volume.path, err)
	}
	return n, errors.Join(err, snap.release())
}

// overlap returns how many bytes of the set lie in length data blocks from begin on.
func (w *ThinWrites) overlap(begin, length int64) (n int64) {
	return w.blocks.Overlap(begin*w.blockSize, length*w.blockSize)
}

// parseDump reads thin_dump's XML of one volume, and shows the ranges of blocks that the
// volume has for itself:
//
//	<superblock ...>
//	  <device dev_id="ID" ... snap_time="TIME">
//	    <single_mapping origin_block="BLOCK" data_block="..." time="TIME"/>
//	    <range_mapping origin_begin="BLOCK" data_begin="..." length="BLOCKS" time="TIME"/>
//	  </device>
//	</superblock>
//
// The kernel takes a block for shared that is older than the volume's last snapshot
// (dm-thin-metadata.c, __snapshotted_since). What a newer thin_dump tells of blocks in
// common with other volumes, in <def> and <ref>, is shared in any case.
func parseDump(r io.Reader, show func(begin, length int64)) error {
	d := xml.NewDecoder(r)
	devices, inDevice, snapTime := 0, false, int64(0)
	for {
		token, err := d.Token()
		if err == io.EOF && devices == 1 {
			return nil
		} else if err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		if end, ok := token.(xml.EndElement); ok && end.Name.Local == "device" {
			inDevice = false
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		name, begin, length := element.Name.Local, "origin_begin", int64(1)
		switch name {
		case "superblock", "def", "ref":
			continue
		case "device":
			devices, inDevice = devices+1, true
			if snapTime, err = number(element, "snap_time", 1<<40); err != nil {
				return err
			}
			continue
		case "single_mapping":
			begin = "origin_block"
		case "range_mapping":
			if length, err = number(element, "length", 1<<40); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected element <%s>", name)
		}
		first, err1 := number(element, begin, 1<<40)
		time, err2 := number(element, "time", 1<<40)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if inDevice && time >= snapTime {
			show(first, length)
		}
	}
}
