package state

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"xen-backup/internal/exit"
)

// Found is what is remembered of one of a directory's devices.
type Found struct {
	Record *Record // nil: it cannot be used
	Disk   string  // whose standby it is, as far as that can be read
	Err    error
}

// All returns what is remembered of each device, also of those that a set has not reached yet. What cannot be understood
// is told beside the rest: nobody may take it for "nothing".
func (d Dir) All() ([]Found, error) {
	names, err := filepath.Glob(filepath.Join(globEscape(string(d)), "*.json"))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	var all []Found
	known := make(map[string]bool)
	for _, name := range names {
		device, disk := d.deviceIn(name)
		known[device.base] = true
		all = add(all, device, disk)
	}
	sets, err := filepath.Glob(filepath.Join(globEscape(string(d)), setsDir, "*.json"))
	if err != nil {
		return nil, exit.Fail(exit.Internal, "state: %w", err)
	}
	for _, name := range sets {
		c, err := d.LoadChange(nameOf(name))
		if err != nil {
			all = append(all, Found{Err: err})
			continue
		}
		for i := range c.deltas() {
			h := &c.Deltas[i]
			if device := d.deviceOf(h); !known[device.base] {
				known[device.base] = true
				all = add(all, device, h.Disk)
			}
		}
	}
	return all, nil
}

func (c *Change) deltas() []Held {
	if c == nil { // it was finished just now
		return nil
	}
	return c.Deltas
}

// deviceIn returns the device of a file, and its disk, as far as they can be read: what is wrong with them Load says.
func (d Dir) deviceIn(file string) (device *Device, disk string) {
	var f Fields
	if text, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(text, &f)
	}
	base := nameOf(file)
	device = &Device{d, f.Identity, cmp.Or(f.Device, file), base}
	// A name in the file system has what JSON has not; but it is one of another device if both are plain.
	if named := d.Device(f.Identity, ""); named.base != base && !strings.Contains(f.Identity, "\uFFFD") {
		device.identity = ""
	}
	return device, f.Disk
}

// add adds what is remembered of a device, if that is not gone.
func add(all []Found, device *Device, disk string) []Found {
	r, err := device.Load()
	if err != nil {
		return append(all, Found{nil, disk, err})
	}
	if r.Phase == None {
		return all
	}
	return append(all, Found{r, cmp.Or(r.Disk, disk), nil})
}
