package standby

// warnSectors says so where a DomU that is started from the target will see other sectors
// than it does now. The bytes are the same, but partition tables count in sectors.
func (t *target) warnSectors() {
	size := int64(512) // of a file
	if t.file != nil {
		size = t.file.SectorSize()
	}
	if t.SectorSize == 0 || t.SectorSize == size {
		return
	}
	t.user.Warn("%s has logical sectors of %d bytes, and its source of %d: the copy will be right, but a DomU that is shown the "+
		"device's own sectors, as under Xen, does not find its partitions (GPT) there; give it a standby with sectors of %d bytes",
		t.Target, size, t.SectorSize, t.SectorSize)
}
