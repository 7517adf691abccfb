package lvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

const sectorSize = 512 // bytes, of device-mapper's numbers, whatever the disk has

// device is a device-mapper device as the kernel sees it now.
type device struct {
	path string
	*dm.Device
}

// lookAt asks the kernel what a path is. The error's status is NoInput if there
// is no such device, and Usage if it is no device-mapper device.
func lookAt(path string) (*device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, exit.Fail(exit.NoInput, "%s: no such device, or it is not active", path)
	}
	if info.Mode()&os.ModeType != os.ModeDevice {
		return nil, exit.Fail(exit.Usage, "%s is not a snapshot of a logical volume", path)
	}
	d, err := dm.Query(info.Sys().(*syscall.Stat_t).Rdev)
	if err != nil {
		return nil, err
	}
	if d == nil || len(d.Targets) != 1 {
		return nil, exit.Fail(exit.Usage, "%s is not a snapshot of a logical volume", path)
	}
	return &device{path, d}, nil
}

func (d *device) kind() string   { return d.Targets[0].Type }
func (d *device) status() string { return d.Targets[0].Status }

// size returns the size in bytes.
func (d *device) size() int64 { return int64(d.Targets[0].Length) * sectorSize }

// param returns word i of the target's table line, "" if there is none.
func (d *device) param(i int) string {
	if words := strings.Fields(d.Targets[0].Params); i < len(words) {
		return words[i]
	}
	return ""
}

// below returns the device that a parameter names as MAJOR:MINOR.
func (d *device) below(param int) (string, error) {
	link, err := os.Readlink("/sys/dev/block/" + d.param(param))
	if err != nil {
		return "", exit.Fail(exit.Internal, "%s: no device below it: %w", d.path, err)
	}
	return "/dev/" + filepath.Base(link), nil // dm-N: the kernel itself makes this node
}

// check refuses (status BadSnapshot) a snapshot whose content is not to be had.
func (d *device) check() error {
	word, _, _ := strings.Cut(d.status(), " ")
	switch {
	case d.kind() == "snapshot" && !strings.Contains(word, "/"):
		return exit.Fail(exit.BadSnapshot, "snapshot %s is lost: %s: "+
			"what was written since it was taken did not fit into it; a larger one is needed", d.path, strings.ToLower(d.status()))
	case d.GivenUp():
		return blockdev.GivenUp(d.path)
	case d.kind() == "thin" && (word == "Fail" || word == "Error"):
		return exit.Fail(exit.BadSnapshot, "thin volume %s has failed: see its pool", d.path)
	case d.kind() != "snapshot" && d.kind() != "thin":
		return exit.Fail(exit.Usage, "%s is not a snapshot of a logical volume", d.path)
	}
	return nil
}

// Check tells in words how full the snapshot at path is: of a thick one its
// exception store, of a thin one its pool. One that has overflowed or is invalid
// for another reason has status BadSnapshot; what is no snapshot, Usage.
func Check(path string) (string, error) {
	d, err := lookAt(path)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return "", err
	}
	if d.kind() == "thin" {
		return d.poolUse()
	}
	var used, total int64
	if _, err := fmt.Sscanf(d.status(), "%d/%d", &used, &total); err != nil {
		return "", exit.Fail(exit.Internal, "%s: cannot read the status %q", path, d.status())
	}
	return useOf(used*sectorSize, total*sectorSize), nil
}

// poolUse tells how full the pool of a thin volume is.
func (d *device) poolUse() (string, error) {
	p, err := d.Pool()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("pool: %s, metadata %.1f %%", useOf(p.DataUsed, p.Data),
		100*float64(p.MetaUsed)/float64(p.Meta)), nil
}

// poolDevice returns the pool of a thin volume.
func (d *device) poolDevice() (*device, error) {
	path, err := d.below(0)
	if err != nil {
		return nil, err
	}
	pool, err := lookAt(path)
	if err == nil && pool.kind() != "thin-pool" {
		err = exit.Fail(exit.Internal, "%s, below %s, is no thin pool", path, d.path)
	}
	return pool, err
}

func useOf(used, total int64) string {
	return fmt.Sprintf("%.1f %% of %s used", 100*float64(used)/float64(max(total, 1)), text.FormatSize(total))
}
