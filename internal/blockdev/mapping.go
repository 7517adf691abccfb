package blockdev

import (
	"crypto/sha256"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping describes where bytes of a dm device come from, down to the disks, in a text
// that changes where others may be meant, and as seldom as possible else: what it costs
// then is to read a whole standby.
//
// Segments that go on in one another are one. A thin volume is its id in its pool: how the
// pool maps and how large it is, only the pool changes; so is the exception store of a
// snapshot, which may be made larger in time. The paths of a multipath device
// come and go. A snapshot-origin is what is below it. Moved extents (pvmove) are others:
// nobody has compared them.
type mapping struct {
	text      strings.Builder
	source    string // of the last segment, not yet in text
	from, n   uint64
	snapshots []string
	links     []string // see linksOf
}

// add describes the sectors from start up to end of a device.
func (m *mapping) add(rdev, start, end uint64) error {
	d, err := DeviceMapper(rdev)
	if err != nil {
		return err
	}
	if d == nil || d.is("multipath") {
		m.segment(diskName(rdev), start, end-start)
		return nil
	}
	links, err := linksOf(rdev)
	if err != nil {
		return err
	}
	m.links = append(m.links, links...)
	for _, t := range d.Targets {
		from, to := max(start, t.Start), min(end, t.Start+t.Length)
		if from < to {
			if err := m.target(t, from-t.Start, to-t.Start); err != nil {
				return err
			}
		}
	}
	return nil
}

// target describes the sectors from start up to end of one line of a table.
func (m *mapping) target(t DMTarget, start, end uint64) error {
	params := strings.Fields(t.Params)
	switch {
	case t.Type == "linear" && len(params) == 2:
		rdev, err := parseMajorMinor(params[0], 10)
		var at uint64
		if err == nil {
			_, err = fmt.Sscan(params[1], &at)
		}
		if err != nil {
			return err
		}
		return m.add(rdev, at+start, at+end)
	case t.Type == "snapshot-origin" && len(params) == 1:
		rdev, err := parseMajorMinor(params[0], 10)
		if err != nil {
			return err
		}
		if err := m.addSnapshots(rdev); err != nil {
			return err
		}
		return m.add(rdev, start, end)
	case t.Type == "thin" && len(params) >= 2:
		pool, err := parseMajorMinor(params[0], 10)
		if err != nil {
			return err
		}
		params[0] = diskName(pool)
	case t.Type == "snapshot" && len(params) >= 2:
		store, err := parseMajorMinor(params[1], 10)
		if err != nil {
			return err
		}
		params[1] = diskName(store)
	}
	// Whatever else it does with them: the devices in its parameters, whole.
	for i, p := range params {
		rdev, err := parseMajorMinor(p, 10)
		if err != nil || !exists(sysDir(rdev)) {
			continue
		}
		below := mapping{}
		if err := below.add(rdev, 0, math.MaxUint64); err != nil {
			return err
		}
		params[i] = "{" + below.String() + "}"
		m.snapshots = append(m.snapshots, below.snapshots...)
		m.links = append(m.links, below.links...)
	}
	m.segment(t.Type+" "+strings.Join(params, " "), start, end-start)
	return nil
}

// segment adds n sectors of a source, from one on.
func (m *mapping) segment(source string, from, n uint64) {
	if source == m.source && from == m.from+m.n {
		m.n += n
		return
	}
	m.flush()
	m.source, m.from, m.n = source, from, n
}

func (m *mapping) flush() {
	if m.source != "" {
		fmt.Fprintf(&m.text, "%d of %s from %d\n", m.n, m.source, m.from)
		m.source = ""
	}
}

func (m *mapping) String() string {
	m.flush()
	return m.text.String()
}

// hash is short, and keeps the key of an encrypted device, which is in its table, out of
// the state.
func (m *mapping) hash() string {
	return fmt.Sprintf("%.16x", sha256.Sum256([]byte(m.String())))
}

// addSnapshots adds the dm-snapshots over the device that lies below a snapshot-origin:
// each holds it open, and so does the origin.
func (m *mapping) addSnapshots(rdev uint64) error {
	holders, err := filepath.Glob(sysDir(rdev) + "/holders/*/dev")
	if err != nil {
		return err
	}
	for _, holder := range holders {
		rdev, err := parseMajorMinor(readLine(holder), 10)
		if err != nil {
			return err
		}
		d, err := DeviceMapper(rdev)
		if err != nil {
			return err
		}
		if d != nil && d.is("snapshot") {
			m.snapshots = append(m.snapshots, diskName(rdev))
		}
	}
	slices.Sort(m.snapshots)
	return nil
}

// linksOf returns the numbers of the links in sysfs from a dm device to those below it. A
// link stays as long as one table after another has that device. While the device is the
// origin of dm-snapshots, which it looks like before and after, the only device below it is
// a hidden one; the link that is made anew when the last of them is gone has another number.
func linksOf(rdev uint64) ([]string, error) {
	paths, err := filepath.Glob(sysDir(rdev) + "/slaves/*")
	if err != nil {
		return nil, err
	}
	var links []string
	for _, path := range paths {
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return nil, err
		}
		links = append(links, fmt.Sprintf("%s/%s=%d", majorMinor(rdev), filepath.Base(path), stat.Ino))
	}
	return links, nil
}

// is tells whether the device's first target is of a type.
func (d *DM) is(kind string) bool { return len(d.Targets) > 0 && d.Targets[0].Type == kind }

// diskName names a device for good: a dm device by its UUID, another one by its number
// and what tells apart those that had this number one after another.
func diskName(rdev uint64) string {
	sys := sysDir(rdev)
	if uuid := readLine(sys + "/dm/uuid"); uuid != "" {
		return uuid
	}
	disk := sys
	if exists(sys + "/partition") {
		disk = sys + "/.."
	}
	return fmt.Sprintf("%s,%s,%s,%s,%s", majorMinor(rdev), readLine(sys+"/start"), readLine(disk+"/diskseq"),
		readLine(disk+"/loop/backing_file"), readLine(disk+"/loop/offset"))
}

// WhatIs tells the device or file that a path leads to now from others that it may lead to
// before or after.
func WhatIs(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", openError(path, err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		return diskName(stat.Rdev), nil
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino), nil
}

// sectors returns how many sectors hold size bytes; a negative size is all.
func sectors(size int64) uint64 {
	if size < 0 {
		return math.MaxUint64
	}
	return uint64(size+511) / 512
}
