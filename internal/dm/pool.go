// How full a thin pool is comes from the kernel at that moment. A pool that has failed is an error and never an empty
// one.

package dm

import (
	"fmt"
	"strconv"
	"strings"

	"xen-backup/internal/exit"
)

// Pool is what the kernel says of a thin pool, in bytes.
type Pool struct {
	Name           string // as LVM calls it
	BlockSize      int64
	Data, DataUsed int64
	Meta, MetaUsed int64
	ZeroesBlocks   bool // before it hands them out
}

// QueryPool returns what the kernel says of the thin pool with this number; nil if there is no such device.
func QueryPool(rdev uint64) (*Pool, error) {
	d, err := Query(rdev)
	if err != nil || d == nil {
		return nil, err
	}
	return d.parsePool()
}

// Pool returns the pool of a thin volume.
func (d *Device) Pool() (*Pool, error) {
	number, err := d.PoolNumber()
	if err != nil {
		return nil, err
	}
	pool, err := QueryPool(number)
	if pool == nil && err == nil {
		err = exit.Fail(exit.Unavailable, "the pool of %s is gone", d.Name)
	}
	return pool, err
}

// PoolNumber returns the device number of a thin volume's pool. The table of the volume is "POOL DEV_ID".
func (d *Device) PoolNumber() (uint64, error) {
	if d.Thin() {
		word, _, _ := strings.Cut(d.Targets[0].Params, " ")
		if number, err := ParseMajorMinor(word, 10); err == nil {
			return number, nil
		}
	}
	return 0, exit.Fail(exit.Internal, "%s has no thin pool", d.Name)
}

// parsePool reads the status of a thin pool (Documentation/admin-guide/device-mapper/thin-provisioning.rst):
// transaction id, used/total metadata blocks of 4 KiB, used/total data blocks, ... One that has failed has a word
// in their place, and its status is BadSnapshot.
func (d *Device) parsePool() (*Pool, error) {
	if len(d.Targets) != 1 || d.Targets[0].Type != "thin-pool" {
		return nil, exit.Fail(exit.Internal, "%s is no thin pool", d.Name)
	}
	status, params := d.Targets[0].Status, d.Targets[0].Params
	p := Pool{Name: strings.TrimSuffix(d.Name, poolSuffix), ZeroesBlocks: !strings.Contains(params, "skip_block_zeroing")}
	var transaction, block int64
	_, err := fmt.Sscanf(status, "%d %d/%d %d/%d", &transaction, &p.MetaUsed, &p.Meta, &p.DataUsed, &p.Data)
	if fields := strings.Fields(params); err == nil && len(fields) > 2 {
		block, err = strconv.ParseInt(fields[2], 10, 64)
	}
	if err != nil || p.Meta == 0 || block == 0 {
		return nil, exit.Fail(exit.BadSnapshot, "thin pool %s does not work: its status is %q", d.Name, status)
	}
	p.BlockSize = block * 512
	p.Data, p.DataUsed = p.Data*p.BlockSize, p.DataUsed*p.BlockSize
	p.Meta, p.MetaUsed = p.Meta*4096, p.MetaUsed*4096
	return &p, nil
}

// Mapped returns how many bytes of a thin volume the pool has given it. Its status is the number of sectors that
// are mapped and the highest one of them (drivers/md/dm-thin.c, thin_status).
func (d *Device) Mapped() (int64, error) {
	if !d.Thin() {
		return 0, exit.Fail(exit.Internal, "%s is no thin volume", d.Name)
	}
	status := d.Targets[0].Status
	sectors, err := strconv.ParseInt(strings.Fields(status + " -")[0], 10, 64)
	if err != nil {
		return 0, exit.Fail(exit.Unavailable, "thin volume %s does not work: its status is %q", d.Name, status)
	}
	return sectors * 512, nil
}
