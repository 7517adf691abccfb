package domain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"xen-backup/internal/text"
)

// xlRow is a line of `xl list`.
type xlRow struct {
	Name, ID string
	MiB      int64  // of memory
	Flags    string // r(unning) b(locked) p(aused) s(hut down), why, d(ying), or - each
}

// A name may hold blanks, so the line is read from its end: ID, memory, VCPUs,
// state, seconds. Why it is shut down: - is a power-off, r a reboot, s that it is saved or migrated, c a crash, w its
// watchdog, S a soft reset, ? what this xl does not know (shutdown_reason_letters in xl_list.c).
var xlLine = text.Pattern(`^(.+?)\s+(\d+)\s+(\d+)\s+\d+\s+([r-][b-][p-][s-][-rscwS?][d-])\s+[\d.]+\s*$`)

func parseXLList(text string) ([]xlRow, error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if !strings.HasPrefix(lines[0], "Name ") {
		return nil, fmt.Errorf("xl list prints %.60q", lines[0])
	}
	var rows []xlRow
	for _, line := range lines[1:] {
		m := xlLine().FindStringSubmatch(line)
		if m == nil { // it could be the domain that is asked for
			return nil, fmt.Errorf("xl list prints %.60q", line)
		}
		mib, err := strconv.ParseInt(m[3], 10, 40)
		if err != nil {
			return nil, fmt.Errorf("xl list prints %.60q", line)
		}
		rows = append(rows, xlRow{m[1], m[2], mib, m[4]})
	}
	return rows, nil
}

// nameless is what xl calls a domain of which it knows no name: half made, or half destroyed.
const nameless = "(null)"

func (r xlRow) zombie() bool { return r.Name == nameless && strings.Contains(r.Flags, "d") }

// A line of `xl list -v` has after the seconds the UUID.
var xlUUID = text.Pattern(`^\Q` + nameless + `\E\s+\d+\s+\d+\s+\d+\s+\S{6}\s+[\d.]+\s+([0-9a-f-]{36})\b`)

// zombieUUIDs reads in what `xl list -v` prints the UUIDs of the nameless.
func zombieUUIDs(text string) (uuids []string) {
	for line := range strings.Lines(text) {
		if m := xlUUID().FindStringSubmatch(line); m != nil {
			uuids = append(uuids, m[1])
		} else if strings.HasPrefix(line, nameless) {
			uuids = append(uuids, "")
		}
	}
	return uuids
}

// state puts the flags of xl in libvirt's words.
func (r *xlRow) state() (state string, active bool) {
	switch {
	case r.Flags[5] == 'd':
		return "dying", false
	case r.Flags[4] == 'c':
		return "crashed", false
	case r.Flags[4] == 's': // where that fails, and for xl save --checkpoint, it goes on here
		return "paused (being saved or migrated)", true
	case r.Flags[3] == 's':
		return "shut down, but still there", false
	case r.Flags[2] == 'p':
		return "paused", true
	}
	return "running", true // "b", "r", or for a moment neither
}

// xlDomain has the parts of `xl list -l` that matter here: libxl_domain_config
// in Xen's libxl_types.idl.
type xlDomain struct {
	DomID  int64 `json:"domid"`
	Config struct {
		Info struct {
			Name string `json:"name"`
			UUID string `json:"uuid"`
		} `json:"c_info"`
		Disks json.RawMessage `json:"disks"` // read for the one domain only: another's oddities are no concern
	} `json:"config"`
}

// xlDisk is libxl_device_disk. Fields with their default value are left out, so
// no readwrite is a read-only disk.
type xlDisk struct {
	Path          string `json:"pdev_path"`
	Vdev          string `json:"vdev"`
	Format        string `json:"format"`
	Script        string `json:"script"`
	BackendType   string `json:"backend"`
	BackendDomID  int64  `json:"backend_domid"`
	BackendDomain string `json:"backend_domname"`
	ReadWrite     int    `json:"readwrite"`
	CDROM         int    `json:"is_cdrom"`

	target span // of Path in a disk string
	keyed  bool // target=, which may hold commas
}

// UnmarshalJSON also takes a disk given as a string of xl-disk-configuration(5).
func (x *xlDisk) UnmarshalJSON(text []byte) error {
	var spec string
	if json.Unmarshal(text, &spec) == nil {
		return x.parse(spec)
	}
	type plain xlDisk
	return json.Unmarshal(text, (*plain)(x))
}

// parseXL reads what `xl list -l` prints.
func parseXL(text []byte) ([]xlDomain, error) {
	var list []xlDomain
	if !utf8.Valid(text) { // the decoder would put something else in its place
		return nil, errors.New("xl list -l prints what is not UTF-8")
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("xl list -l prints no JSON list of domains: %w", err)
	}
	return list, nil
}

func parseXLDocument(text []byte) (*Domain, error) {
	list, err := parseXL(text)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || list[0].Config.Info.Name == "" {
		return nil, fmt.Errorf("a list of %d domains: want one", len(list))
	}
	return list[0].domain()
}

func (x *xlDomain) domain() (*Domain, error) {
	d := &Domain{
		Name: x.Config.Info.Name, UUID: x.Config.Info.UUID, ID: strconv.FormatInt(x.DomID, 10),
		Type: "xen", Passing: true,
	}
	var disks []xlDisk
	if x.Config.Disks != nil {
		if err := json.Unmarshal(x.Config.Disks, &disks); err != nil {
			return nil, fmt.Errorf("xl list -l: disks of %s: %w", d.Name, err)
		}
	}
	for _, disk := range disks {
		d.Disks = append(d.Disks, disk.disk())
	}
	if err := d.checkTargets(); err != nil {
		return nil, fmt.Errorf("xl list -l: %s: %w", d.Name, err)
	}
	return d, nil
}

func (x *xlDisk) disk() Disk {
	d := Disk{Target: x.Vdev, Device: "disk", Source: x.Path, Format: x.Format, ReadOnly: x.ReadWrite == 0}
	if x.CDROM != 0 {
		d.Device = "cdrom"
	}
	switch {
	case x.Format == "empty":
		d.Source, d.Format = "", ""
	case x.BackendDomain != "" && x.BackendDomain != "Domain-0" && x.BackendDomain != "0":
		d.Trouble = "its backend is the driver domain " + x.BackendDomain
	case x.BackendDomID != 0:
		d.Trouble = fmt.Sprintf("its backend is the driver domain %d", x.BackendDomID)
	case !plainScript(x.Script):
		d.Remote = true
		d.Trouble = scriptTrouble(x.Script)
	case d.Source == "" || strings.HasPrefix(d.Source, "/"):
	case deviceName().MatchString(d.Source):
		d.Source = "/dev/" + d.Source // as Xen's block script does
	default:
		d.Remote = true
		d.Trouble = fmt.Sprintf("its source %q is no path on this host", d.Source) // qemu's rbd:, nbd:, http:
	}
	return d
}

// deviceName is what may stand for a device below /dev: VG/LV.
var deviceName = text.Pattern(`^[A-Za-z0-9+_./-]+$`)

// plainScript reports whether a block script takes the source for a local path.
// Others make the device that the guest gets: block-drbd, block-iscsi, block-nbd.
func plainScript(script string) bool {
	return script == "" || script == "block" || strings.HasSuffix(script, "/block")
}

func scriptTrouble(script string) string {
	if strings.Contains(script, "drbd") {
		return "DRBD replicates it (script " + script + "): nothing may be written below DRBD"
	}
	return "its device is made by the script " + script
}

// Prefixes that xend and xl 4.1 needed. Only formats and scripts still mean
// anything (Xen's libxlu_disk_l.l).
var xlPrefix = text.Pattern(`^(raw|qcow2?|vhd|iscsi|e?nbd|drbd|tapdisk|tap2?|aio|ioemu|file|phy):`)

var xlFlag = text.Pattern(`^(direct-io-safe|(no-)?discard|(no-)?colo|(un)?trusted)$`)

// parse reads a disk string of xl-disk-configuration(5): the positional
// parameters target, format, vdev and access, mixed with KEY=VALUE and flags.
// After a deprecated prefix there is no positional format.
func (x *xlDisk) parse(spec string) error {
	set := make(map[string]string)
	var target span
	keyed := false
	rest := strings.TrimRight(spec, " \t\n")
	end := len(rest)
	rest = strings.TrimLeft(rest, " \t\n")
	for m := xlPrefix().FindStringSubmatch(rest); m != nil; m = xlPrefix().FindStringSubmatch(rest) {
		rest = rest[len(m[0]):]
		set["format"] = "raw"
		switch m[1] {
		case "qcow", "qcow2", "vhd":
			set["format"] = m[1]
		case "iscsi", "nbd", "enbd", "drbd":
			set["script"] = "block-" + m[1]
		}
	}
	for more := true; more; {
		rest = strings.TrimLeft(rest, " \t\n")
		if value, ok := strings.CutPrefix(rest, "target="); ok { // commas and all
			set["target"] = value
			target, keyed = span{end - len(value), end}, true
			break
		}
		var word string
		from := end - len(rest)
		word, rest, more = strings.Cut(rest, ",")
		if key, value, ok := strings.Cut(word, "="); ok {
			set[key] = value
		} else if word == "cdrom" {
			set["devtype"] = "cdrom"
		} else if (more || word != "") && !xlFlag().MatchString(word) {
			key, err := setPosition(set, word)
			if err != nil {
				return err
			}
			if key == "target" {
				target = span{from, from + len(word)}
			}
		}
	}
	vdev, devtype, _ := strings.Cut(set["vdev"], ":") // deprecated: hdc:cdrom
	if vdev == "" {
		return fmt.Errorf("no vdev in %q", spec)
	}
	*x = xlDisk{Path: set["target"], Vdev: vdev, Format: set["format"], Script: set["script"],
		BackendDomain: set["backend"], BackendType: set["backendtype"], target: target, keyed: keyed}
	cdrom := devtype == "cdrom" || set["devtype"] == "cdrom"
	if cdrom {
		x.CDROM = 1
	}
	if devtype := set["devtype"]; !cdrom && devtype != "" && devtype != "disk" {
		return fmt.Errorf("unknown devtype in %q", spec)
	}
	switch set["access"] {
	case "w", "rw":
		x.ReadWrite = 1
	case "":
		if !cdrom {
			x.ReadWrite = 1
		}
	case "r", "ro":
	default: // not to be taken for read-only: then its disk would be left out
		return fmt.Errorf("unknown access in %q", spec)
	}
	return nil
}

// setPosition gives a bare word to the first positional parameter not yet set.
func setPosition(set map[string]string, word string) (key string, err error) {
	for _, key := range []string{"target", "format", "vdev", "access"} {
		if _, ok := set[key]; ok {
			continue
		}
		if key == "format" && strings.Contains(word, ":") { // ",hdc:cdrom,r": an empty drive
			set["format"] = "empty"
			continue
		}
		set[key] = word
		return key, nil
	}
	return "", errors.New("too many positional parameters")
}
