package main

import (
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// parseSectorSize reads the argument of --sector-size.
func parseSectorSize(size *int64) func(string) error {
	return func(s string) (err error) {
		if *size, err = text.ParseSize(s); err == nil && (*size < 512 || *size&(*size-1) != 0) {
			err = exit.Fail(exit.Usage, "%q is no sector size", s)
		}
		return err
	}
}

// warnSectors says so where a DomU that is started from the target will see other sectors
// than it does now. The bytes are the same, but partition tables count in sectors.
func (p *patcher) warnSectors() {
	size := int64(512) // of a file
	if p.file != nil {
		size = p.file.SectorSize()
	}
	if p.sectorSize == 0 || p.sectorSize == size {
		return
	}
	p.env.Warn("%s has logical sectors of %d bytes, and its source of %d: the copy will be right, but a DomU that is shown the "+
		"device's own sectors, as under Xen, does not find its partitions (GPT) there; give it a standby with sectors of %d bytes",
		p.target, size, p.sectorSize, p.sectorSize)
}
