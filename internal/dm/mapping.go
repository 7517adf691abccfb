// Two mappings with the same hash have their bytes in the same place.

package dm

import (
	"crypto/sha256"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mapping describes where the bytes of a dm device come from, down to the disks, in a text that changes where
// others may be meant, and as seldom as possible else: what it costs then is to read a whole standby.
//
// Segments that go on in one another are one. A thin volume is its id in its pool: only the pool changes how it
// maps and how large it is. The same goes for the exception store of a snapshot, which may be made larger in time.
// The paths of a multipath device come and go. A snapshot-origin is what is below it. Moved extents (pvmove) are
// others: nobody has compared them.
type Mapping struct {
	Snapshots []string // DiskNames of the dm-snapshots of what it maps, sorted
	Links     []string // see linksOf

	text    strings.Builder
	source  string // of the last segment, not yet in text
	from, n uint64
}

// MappingOf returns the mapping of the first size bytes of a dm device; a negative size is all of it.
func MappingOf(rdev uint64, size int64) (*Mapping, error) {
	m := &Mapping{}
	return m, m.add(rdev, 0, sectors(size))
}

// add describes the sectors from start up to end of a device.
func (m *Mapping) add(rdev, start, end uint64) error {
	d, err := Query(rdev)
	if err != nil {
		return err
	}
	if d == nil || d.Is("multipath") {
		m.segment(DiskName(rdev), start, end-start)
		return nil
	}
	links, err := linksOf(rdev)
	if err != nil {
		return err
	}
	m.Links = append(m.Links, links...)
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
func (m *Mapping) target(t Target, start, end uint64) error {
	params := strings.Fields(t.Params)
	switch {
	case t.Type == "linear" && len(params) == 2:
		rdev, err := ParseMajorMinor(params[0], 10)
		var at uint64
		if err == nil {
			_, err = fmt.Sscan(params[1], &at)
		}
		if err != nil {
			return err
		}
		return m.add(rdev, at+start, at+end)
	case t.Type == "snapshot-origin" && len(params) == 1:
		rdev, err := ParseMajorMinor(params[0], 10)
		if err != nil {
			return err
		}
		if err := m.addSnapshots(rdev); err != nil {
			return err
		}
		return m.add(rdev, start, end)
	case t.Type == "thin" && len(params) >= 2:
		pool, err := ParseMajorMinor(params[0], 10)
		if err != nil {
			return err
		}
		params[0] = DiskName(pool)
	case t.Type == "snapshot" && len(params) >= 2:
		store, err := ParseMajorMinor(params[1], 10)
		if err != nil {
			return err
		}
		params[1] = DiskName(store)
	}
	// Whatever else it does with them: the devices in its parameters, whole.
	for i, p := range params {
		rdev, err := ParseMajorMinor(p, 10)
		if err != nil || !Exists(SysDir(rdev)) {
			continue
		}
		below := Mapping{}
		if err := below.add(rdev, 0, math.MaxUint64); err != nil {
			return err
		}
		params[i] = "{" + below.String() + "}"
		m.Snapshots = append(m.Snapshots, below.Snapshots...)
		m.Links = append(m.Links, below.Links...)
	}
	m.segment(t.Type+" "+strings.Join(params, " "), start, end-start)
	return nil
}

// segment adds n sectors of a source, from one on.
func (m *Mapping) segment(source string, from, n uint64) {
	if source == m.source && from == m.from+m.n {
		m.n += n
		return
	}
	m.flush()
	m.source, m.from, m.n = source, from, n
}

func (m *Mapping) flush() {
	if m.source != "" {
		fmt.Fprintf(&m.text, "%d of %s from %d\n", m.n, m.source, m.from)
		m.source = ""
	}
}

func (m *Mapping) String() string {
	m.flush()
	return m.text.String()
}

// Hash is short, and keeps the key of an encrypted device, which is in its table, out of the state.
func (m *Mapping) Hash() string {
	return fmt.Sprintf("%.16x", sha256.Sum256([]byte(m.String())))
}

// addSnapshots adds the dm-snapshots over the device that lies below a snapshot-origin:
// each holds it open, and so does the origin.
func (m *Mapping) addSnapshots(rdev uint64) error {
	holders, err := filepath.Glob(SysDir(rdev) + "/holders/*/dev")
	if err != nil {
		return err
	}
	for _, holder := range holders {
		rdev, err := ParseMajorMinor(ReadLine(holder), 10)
		if err != nil {
			return err
		}
		d, err := Query(rdev)
		if err != nil {
			return err
		}
		if d != nil && d.Is("snapshot") {
			m.Snapshots = append(m.Snapshots, DiskName(rdev))
		}
	}
	slices.Sort(m.Snapshots)
	return nil
}

// linksOf returns the numbers of the links in sysfs from a dm device to those below it. A
// link stays as long as one table after another has that device. While the device is the
// origin of dm-snapshots, which it looks like before and after, the only device below it is
// a hidden one; the link that is made anew when the last of them is gone has another number.
func linksOf(rdev uint64) ([]string, error) {
	paths, err := filepath.Glob(SysDir(rdev) + "/slaves/*")
	if err != nil {
		return nil, err
	}
	var links []string
	for _, path := range paths {
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return nil, err
		}
		links = append(links, fmt.Sprintf("%s/%s=%d", MajorMinor(rdev), filepath.Base(path), stat.Ino))
	}
	return links, nil
}

// sectors returns how many sectors hold size bytes.
func sectors(size int64) uint64 {
	if size < 0 {
		return math.MaxUint64
	}
	return uint64(size+511) / 512
}
