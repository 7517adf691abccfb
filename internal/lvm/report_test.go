package lvm

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// lvs.json is what lvs 2.03.16 printed of a group with a thick origin, a good and
// an overflowed snapshot of it, and a thin pool with a volume and its snapshot.
func captured(t *testing.T) []byte {
	t.Helper()
	report, err := os.ReadFile("testdata/lvs.json")
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func volumesOf(t *testing.T, report []byte) *Volumes {
	t.Helper()
	rows, err := parseReport(report)
	if err != nil {
		t.Fatal(err)
	}
	list, err := volumes(rows)
	if err != nil {
		t.Fatal(err)
	}
	return &Volumes{list: list, groups: []row{}}
}

func (vs *Volumes) named(t *testing.T, name string) *Volume {
	t.Helper()
	for _, v := range vs.list {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no volume %s", name)
	return nil
}

func TestParseReport(t *testing.T) {
	vs := volumesOf(t, captured(t))
	if len(vs.list) != 7 {
		t.Errorf("%d volumes, want 7", len(vs.list))
	}
	snap := vs.named(t, "xb-vm1-abcdefgh")
	if snap.Path() != "/dev/vg0/xb-vm1-abcdefgh" || snap.Origin != "vm1" || snap.Size != 68<<20 ||
		snap.DataUsed != 11.82 || !snap.ThickSnapshot() || snap.Invalid() || snap.Thin() ||
		strings.Join(snap.Tags, " ") != "xen-backup xen-backup.owner=12.34.abcd" || snap.Created.Unix() != 1795373135 ||
		snap.ExtentSize != 4<<20 || snap.VGFree != 687865856 {
		t.Errorf("snapshot: %+v", snap)
	}
	if lost := vs.named(t, "xb-vm1-small"); !lost.Invalid() {
		t.Errorf("overflowed snapshot: %+v", lost)
	}
	if thin := vs.named(t, "xb-t1-abcdefgh"); !thin.Thin() || thin.ThickSnapshot() || thin.Pool != "pool" ||
		thin.Origin != "t1" {
		t.Errorf("thin snapshot: %+v", thin)
	}
	if pool := vs.named(t, "pool"); pool.Health != "" || pool.DataUsed != 0 {
		t.Errorf("pool: %+v", pool)
	}
	if got := len(vs.Tagged("xen-backup")); got != 3 {
		t.Errorf("%d tagged volumes, want 3", got)
	}
}

// A volume that was extended past another has a row for each of its segments.
func TestSegments(t *testing.T) {
	report := captured(t)
	for line := range bytes.Lines(captured(t)) {
		if bytes.Contains(line, []byte(`"lv_name":"xb-vm1-abcdefgh"`)) {
			second := slices.Concat(bytes.TrimRight(line, ", \n"), []byte(",\n"), line)
			report = bytes.Replace(report, line, second, 1)
		}
	}
	if rows, err := parseReport(report); err != nil || len(rows) != 8 {
		t.Fatalf("%d rows, want 8: %v", len(rows), err)
	}
	if vs := volumesOf(t, report); len(vs.list) != 7 {
		t.Errorf("%d volumes, want 7", len(vs.list))
	}
}

// LVM's advice turns up on standard output.
func TestParseReportWithAdvice(t *testing.T) {
	report := captured(t)
	before := "  WARNING: Not using device /dev/sdb for PV x.\n{devices file is missing}\n[advice]\n"
	rows := strings.SplitAfter(string(report), "\n")
	inside := strings.Join(rows[:4], "") + "  Please remove the lvm.conf filter, it is ignored.\n" +
		strings.Join(rows[4:], "")
	for _, out := range []string{before + string(report), inside, string(report) + "  WARNING: the end\n",
		before + inside} {
		got, err := parseReport([]byte(out))
		if err != nil || len(got) != 7 {
			t.Errorf("%d rows, %v of:\n%.300s", len(got), err, out)
		}
	}
	for _, out := range []string{"", "  WARNING: nothing\n", "{}", string(report[:len(report)/2]), `{"log":[]}`} {
		if got, err := parseReport([]byte(out)); err == nil {
			t.Errorf("%d rows of %.100q", len(got), out)
		}
	}
	if got, err := parseReport([]byte(`{"report":[{"lv":[]}]}`)); err != nil || len(got) != 0 {
		t.Errorf("a host without volumes: %d rows, %v", len(got), err)
	}
}

// roles.json is what lvs 2.03.16 printed of volumes of all kinds: raid1 with integrity,
// mirror, cache, cachevol, writecache, thin, with their parts and pools.
func TestHidden(t *testing.T) {
	text, err := os.ReadFile("testdata/roles.json")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	testkit.Programs(t, map[string]string{"lvs": "cat <<'X'\n" + string(text) + "X\necho asked >>asked"})
	hidden := Hidden()
	for uuid, want := range map[string]bool{
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrb483ad3qWuGaFR5t3bQU61RGyYX5HwVqF": false, // ri
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrbkszSVbEStke0yhKwcVFcD4USAJbY1tRJ": true,  // ri_rimage_0
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrbh6LcBz20ffPamjXzDd6wTviPxR3CYdLU": true,  // ri_rimage_0_imeta
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrb2zGO7GwM5dfmeqzyNCqFcXQckd6mqgOR": true,  // ri_rimage_0_iorig
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrbXowoCTBLOP2JZ9300JFg7bF0F8Asf9zE": true,  // pool
		"LVM-Ef9ZD2TPYcSUzVxzAc0fI2Gh4eAwWMrbWINXo6jpQRew5TZgTtvGDRVu7XAmPItp": false, // snap
		"LVM-" + strings.Repeat("x", 64):                                       false, // another host's, or hidden by a filter
	} {
		if got, err := hidden(uuid); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", uuid, got, err, want)
		}
	}
	if asked, err := os.ReadFile("asked"); err != nil || string(asked) != "asked\n" {
		t.Errorf("asked: %q, %v", asked, err)
	}
	testkit.Programs(t, map[string]string{"lvs": "echo broken >&2; exit 5"})
	if _, err := Hidden()("LVM-x"); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("LVM does not answer: %v", err)
	}
}

// A pool may be visible, but no guest uses it.
func TestOrderOfPrivate(t *testing.T) {
	vs := volumesOf(t, bytes.Replace(captured(t), []byte(`"lv_name":"vm1"`),
		[]byte(`"lv_name":"[vm1]", "lv_role":"private,raid,image"`), 1))
	_, err := vs.Order([]*Volume{vs.named(t, "vm1")}, 1<<30, "abcdefgh", []string{"x"})
	if exit.StatusOf(err) != exit.Config || !strings.Contains(err.Error(), "hidden part") {
		t.Errorf("%v", err)
	}
}

func TestBadField(t *testing.T) {
	rows, err := parseReport(bytes.Replace(captured(t), []byte(`"lv_size":"67108864"`), []byte(`"lv_size":"64.00m"`), 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if _, err = r.volume(); err != nil {
			break
		}
	}
	if err == nil || err.Error() != `bad lv_size "64.00m"` {
		t.Errorf("error %v", err)
	}
}

func TestFindInactive(t *testing.T) {
	vs := volumesOf(t, captured(t))
	for _, path := range []string{"/dev/vg0/we-ird_1.x", "/dev/mapper/vg0-we--ird_1.x"} {
		if v, err := vs.Find(path); err != nil || v.Name != "we-ird_1.x" {
			t.Errorf("Find(%s) = %v, %v", path, v, err)
		}
	}
	_, err := vs.Find("/dev/vg0/nothing")
	if exit.StatusOf(err) != exit.NoInput {
		t.Errorf("missing: %v", err)
	}
	vs.incomplete = errors.New("lvs: Volume group vgx is locked")
	_, err = vs.Find("/dev/vg0/nothing")
	if exit.StatusOf(err) != exit.Unavailable {
		t.Errorf("missing in an incomplete list: %v", err)
	}
}

// A second group of the same name, as from a guest's disk, with or without
// volumes of its own.
func TestAmbiguousGroup(t *testing.T) {
	vs := volumesOf(t, captured(t))
	vm1 := vs.named(t, "vm1")
	vs.groups = []row{{"vg_name": "vg0", "vg_uuid": vm1.VGUUID}, {"vg_name": "vg1", "vg_uuid": "x"}}
	if _, err := vs.Order([]*Volume{vm1}, 1<<30, "abcdefgh", []string{"x"}); err != nil {
		t.Error(err)
	}
	vs.groups = append(vs.groups, row{"vg_name": "vg0", "vg_uuid": "another"})
	if _, err := vs.Order([]*Volume{vm1}, 1<<30, "abcdefgh", []string{"x"}); exit.StatusOf(err) != exit.Config {
		t.Errorf("Order: %v", err)
	}
	twin := *vm1
	twin.VGUUID, twin.UUID = "another", "other"
	vs.list = append(vs.list, &twin)
	if _, err := vs.Find("/dev/vg0/vm1"); exit.StatusOf(err) != exit.Config {
		t.Errorf("Find: %v", err)
	}
}
