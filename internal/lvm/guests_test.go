package lvm

import "testing"

// The lines are those of lvmconfig 2.03.16.
func TestSeesGuests(t *testing.T) {
	for config, want := range map[string]bool{
		"scan_lvs=0\nuse_devicesfile=0\nglobal_filter=[\"a|.*|\"]\nfilter=[\"a|.*|\"]\n":           false,
		"scan_lvs=1\nuse_devicesfile=0\nglobal_filter=[\"a|.*|\"]\nfilter=[\"a|.*|\"]\n":           true,
		"scan_lvs=1\nuse_devicesfile=1\nglobal_filter=[\"a|.*|\"]\nfilter=[\"a|.*|\"]\n":           false,
		"scan_lvs=1\nuse_devicesfile=0\nglobal_filter=\"r|/dev/vg/.*|\"\nfilter=[\"a|.*|\"]\n":     false,
		"scan_lvs=1\nuse_devicesfile=0\nglobal_filter=\"a|.*|\"\nfilter=[\"a|sd.*|\",\"r|.*|\"]\n": false,
		"": false,
	} {
		if got := seesGuests(config); got != want {
			t.Errorf("%v for %q", got, config)
		}
	}
}
