package domain

// Copied returns the targets of the disks that a copy of the domain has: not those that are left out of every copy.
func (d *Domain) Copied() (targets []string) {
	for _, disk := range d.Disks {
		if disk.leftOut() == "" && !disk.Remote {
			targets = append(targets, disk.Target)
		}
	}
	return targets
}
