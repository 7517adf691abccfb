package lvm

import (
	"bytes"
	"strings"

	"xen-backup/internal/program"
)

// SeesGuests reports whether LVM on this host looks for volume groups inside of logical
// volumes, which are the guests' then: one of a guest may have the name of one of the
// host's, and its volumes be taken for those. It is not LVM's default since 2.03.03,
// but that of older configuration files (lvm.conf(5), devices/scan_lvs).
func SeesGuests() bool {
	var config bytes.Buffer
	err := program.Run(patience, &config, "lvmconfig", "--typeconfig", "full",
		"devices/scan_lvs", "devices/use_devicesfile", "devices/filter", "devices/global_filter")
	return err == nil && seesGuests(config.String())
}

func seesGuests(config string) bool {
	scans, limited := false, false
	for line := range strings.Lines(config) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "scan_lvs":
			scans = value == "1"
		case "use_devicesfile":
			limited = limited || value == "1"
		case "filter", "global_filter":
			limited = limited || strings.Trim(value, `[]"`) != "a|.*|"
		}
	}
	return scans && !limited
}
