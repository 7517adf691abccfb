package lvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// Volume is a logical volume as lvs(8) reports it. Sizes are in bytes.
type Volume struct {
	VG, VGUUID string
	Name, UUID string
	Private    bool   // a pool, or a part of another volume: nothing that LVM gives to users
	Attr       string // lv_attr, ten characters
	Type       string // of its first segment: "linear", "thin", ...
	Size       int64  // of a thick snapshot: that of its exception store
	Origin     string // name of a snapshot's origin, or ""
	Pool       string // name of a thin volume's pool, or ""
	Tags       []string
	Health     string  // "" is good
	DataUsed   float64 // percent: of a thin pool, thin volume or thick snapshot
	Created    time.Time

	ExtentSize, VGFree int64 // of its volume group
}

// Path returns the volume's usual name, /dev/VG/LV.
func (v *Volume) Path() string { return "/dev/" + v.VG + "/" + v.Name }

// String returns VG/LV, the name that LVM's commands use.
func (v *Volume) String() string { return v.VG + "/" + v.Name }

// Thin reports whether it is a thin volume.
func (v *Volume) Thin() bool { return v.Type == "thin" }

// ThickSnapshot reports whether it is a snapshot with an exception store.
func (v *Volume) ThickSnapshot() bool { return v.attr(0) == 's' || v.attr(0) == 'S' }

// Invalid reports whether it is a thick snapshot that has lost its content.
func (v *Volume) Invalid() bool {
	return v.ThickSnapshot() && strings.IndexByte("ISmM", v.attr(4)) >= 0
}

// attr returns a character of lv_attr, counted from 0.
func (v *Volume) attr(i int) byte {
	if i < len(v.Attr) {
		return v.Attr[i]
	}
	return '-'
}

// dmUUID is what device-mapper knows the volume by.
func (v *Volume) dmUUID() string { return dm.VolumeUUID(v.VGUUID, v.UUID) }

// Volumes are all logical volumes of the host, the hidden ones too.
type Volumes struct {
	list       []*Volume
	groups     []row // see allGroups
	incomplete error // what LVM complained of; others may be missing
}

// List asks LVM for all volumes. It fails only if LVM answers nothing of use: a
// broken volume group must not keep the others from being backed up.
func List() (*Volumes, error) {
	rows, failed, err := report(strings.Join(fields, ","), "lvs", "--all")
	if err != nil {
		return nil, err
	}
	list, err := volumes(rows)
	if err != nil {
		return nil, err
	}
	return &Volumes{list: list, incomplete: failed}, nil
}

// allGroups returns all volume groups, the empty ones too. Few want them: they are asked for when they are.
func (vs *Volumes) allGroups() ([]row, error) {
	if vs.groups == nil {
		groups, failed, err := report("vg_name,vg_uuid,vg_extent_size,vg_free", "vgs")
		if err != nil {
			return nil, err
		}
		vs.groups, vs.incomplete = groups, errors.Join(vs.incomplete, failed)
	}
	return vs.groups, nil
}

// volumes reads the rows of lvs: since segtype is among the fields, a volume has one
// for each of its segments.
func volumes(rows []row) (list []*Volume, err error) {
	seen := make(map[string]bool)
	for _, row := range rows {
		if seen[row["lv_uuid"]] {
			continue
		}
		v, err := row.volume()
		if err != nil {
			return nil, exit.Fail(exit.Unavailable, "lvs: volume %s/%s: %w", row["vg_name"], row["lv_name"], err)
		}
		seen[v.UUID] = true
		list = append(list, v)
	}
	return list, nil
}

// Hidden returns a function that tells of the UUID that device-mapper knows a volume
// by whether it is private. Nobody gives such a volume to a guest, and a copy of it would
// be of no use; its name need not tell. LVM is asked once, when the first answer is
// needed. Of a volume that it does not list (a filter may hide it) nothing is known.
func Hidden() func(uuid string) (bool, error) {
	ask := sync.OnceValues(func() (map[string]bool, error) {
		rows, _, err := report("vg_uuid,lv_uuid,lv_role", "lvs", "--all")
		private := make(map[string]bool)
		for _, r := range rows {
			private[dm.VolumeUUID(r["vg_uuid"], r["lv_uuid"])] = r.private()
		}
		return private, err
	})
	return func(uuid string) (bool, error) {
		private, err := ask()
		return private[uuid], err
	}
}

// report runs lvs or vgs. failed is what it complained of although it printed a
// report.
func report(columns string, command ...string) (rows []row, failed, err error) {
	var out bytes.Buffer
	failed = program.Run(patience, &out, command[0], append(command[1:], "--config", settings, "--reportformat", "json",
		"--units", "b", "--nosuffix", "-o", columns)...)
	if rows, err = parseReport(out.Bytes()); err == nil {
		return rows, failed, nil
	}
	if failed != nil {
		err = failed
	}
	return nil, nil, exit.Fail(exit.Unavailable, "cannot ask LVM for its volumes: %w", err)
}

// Tagged returns the volumes that carry a tag.
func (vs *Volumes) Tagged(tag string) []*Volume {
	var found []*Volume
	for _, v := range vs.list {
		if slices.Contains(v.Tags, tag) {
			found = append(found, v)
		}
	}
	return found
}

var fields = []string{
	"vg_name", "vg_uuid", "vg_extent_size", "vg_free", "lv_name", "lv_uuid", "lv_attr", "segtype",
	"lv_role", "lv_size", "origin", "pool_lv", "lv_tags", "lv_health_status",
	"data_percent", "lv_time",
}

// row is a line of the report; every value is a string.
type row map[string]string

func (r row) private() bool { return slices.Contains(strings.Split(r["lv_role"], ","), "private") }

func (r row) volume() (*Volume, error) {
	shown := func(column string) string { return strings.Trim(r[column], "[]") } // [hidden]
	v := &Volume{
		VG: r["vg_name"], VGUUID: r["vg_uuid"], Name: shown("lv_name"), UUID: r["lv_uuid"],
		Attr: r["lv_attr"], Type: r["segtype"], Health: r["lv_health_status"], Private: r.private(),
		Origin: shown("origin"), Pool: shown("pool_lv"),
	}
	if v.VG == "" || v.VGUUID == "" || v.Name == "" || v.UUID == "" {
		return nil, fmt.Errorf("without name or UUID")
	}
	if r["lv_tags"] != "" {
		v.Tags = strings.Split(r["lv_tags"], ",")
	}
	var created int64
	for name, p := range map[string]*int64{
		"vg_extent_size": &v.ExtentSize, "vg_free": &v.VGFree,
		"lv_size": &v.Size, "lv_time": &created,
	} {
		if err := parseField(r[name], p, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }); err != nil {
			return nil, fmt.Errorf("bad %s %q", name, r[name])
		}
	}
	percent := func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }
	if err := parseField(r["data_percent"], &v.DataUsed, percent); err != nil {
		return nil, fmt.Errorf("bad data_percent %q", r["data_percent"])
	}
	v.Created = time.Unix(created, 0)
	return v, nil
}

// parseField leaves *p alone where LVM has nothing to say.
func parseField[T any](s string, p *T, parse func(string) (T, error)) (err error) {
	if s != "" {
		*p, err = parse(s)
	}
	return err
}

// parseReport reads `--reportformat json`. LVM also prints advice on standard
// output, before the report and in the middle of it: lines that can't be a part
// of the report are dropped. (A row is always one line.)
func parseReport(out []byte) ([]row, error) {
	var clean bytes.Buffer
	for line := range bytes.Lines(out) {
		if text := bytes.TrimSpace(line); len(text) > 0 && bytes.IndexByte([]byte(`{}[]"`), text[0]) >= 0 {
			clean.Write(line)
		}
	}
	for clean.Len() > 0 {
		var document struct {
			Report []struct{ LV, VG []row }
		}
		err := json.NewDecoder(bytes.NewReader(clean.Bytes())).Decode(&document)
		if err == nil && document.Report != nil {
			var rows []row
			for _, r := range document.Report {
				rows = append(append(rows, r.LV...), r.VG...)
			}
			return rows, nil
		}
		clean.ReadBytes('\n') // advice that looked like JSON
	}
	return nil, fmt.Errorf("it printed no report: %.200q", out)
}
