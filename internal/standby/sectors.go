package standby

// warnSectors says so where a DomU that is started from the target will see other sectors
// than it does now. The bytes are the same, but partition tables count in sectors.
func (p *patcher) warnSectors() {
	size := int64(512) // of a file
	if p.file != nil {
		size = p.file.SectorSize()
	}
	if p.SectorSize == 0 || p.SectorSize == size {
		return
	}
	p.user.Warn("%s has logical sectors of %d bytes, and its source of %d: the copy will be right, but a DomU that is shown the "+
		"device's own sectors, as under Xen, does not find its partitions (GPT) there; give it a standby with sectors of %d bytes",
		p.Target, size, p.SectorSize, p.SectorSize)
}
