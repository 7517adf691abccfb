package replicate

import (
	"strings"
	"testing"
	"time"
)

// TestWords holds what is asked of the programs against all that a run can be told.
func TestWords(t *testing.T) {
	rows, err := ReadRows(strings.NewReader(strings.Replace(row, "-\t-", "games:backup\t640", 1)+"\tfull reason=no-base guests=yes\t-\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	plain := Options{DomU: "domu1", BlockSize: "4K", Hash: "xxh64", ConnectTimeout: time.Second}
	all := plain
	all.Toolstack, all.CreateLV, all.FirstCopy, all.Force, all.Background = "xl", "vg", "in-place", true, true
	all.BWLimit, all.ReadLimit, all.Exclude, all.Taken = "1M", "2M", []string{"xvdb", "xvdc"}, time.Unix(0, 0)
	const ours = " --heartbeat --peer dom0a --disk domu1/xvda --sector-size 512"
	const uuid = " --uuid 6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	const taken = " --taken 1970-01-01T00:00:00Z"
	for _, test := range []struct {
		o                                     Options
		set, sign, delta, patch, check, store string
	}{
		{plain, "",
			"xb-sig --heartbeat --missing-ok -b 4K --hash xxh64 /dev/vg/a",
			"xb-delta --heartbeat --progress-file d/dom0b.xvda.progress --summary d/dom0b.xvda.summary /snap",
			"xb-patch --auto" + ours + uuid + " --owner games:backup --mode 640 /dev/vg/a",
			"xb-delta --heartbeat --check /snap",
			"xb-locate --store domu1 --words"},
		{all, "s",
			"xb-sig --heartbeat --missing-ok --background -b 4K --hash xxh64 /dev/vg/a",
			"xb-delta --heartbeat --read-limit 2M --background --progress-file d/dom0b.xvda.progress --summary d/dom0b.xvda.summary --bwlimit 1M /snap",
			"xb-patch --auto" + ours + " --toolstack xl --create-lv vg --first-copy in-place --force-diverged" + uuid +
				" --background --hold s" + taken + " --owner games:backup --mode 640 /dev/vg/a",
			"xb-delta --heartbeat --read-limit 2M --background --check /snap",
			"xb-locate --store domu1 --words --set s" + taken + " --drop xvdb --drop xvdc"},
	} {
		r := &run{Options: test.o}
		d := &delivery{run: r, dom0: &dom0{name: "dom0b", socket: "/run/s"}, rows: rows, set: test.set, dir: "d"}
		c := &copied{delivery: d, row: rows[0], reads: "/snap"}
		far := strings.Join(r.at(d.dom0), " ") + " "
		if !strings.HasPrefix(far, "ssh -T -o BatchMode=yes -o ConnectTimeout=1 ") || !strings.HasSuffix(far, " -o ControlPath=/run/s dom0b ") {
			t.Errorf("%s", far)
		}
		p := c.pipeline()
		for i, want := range []string{far + test.sign, test.delta, far + test.patch} {
			if got := strings.Join(p[i], " "); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
		}
		if got := strings.Join(c.delta("--check"), " "); got != test.check {
			t.Errorf("%s\nwant\n%s", got, test.check)
		}
		if got := strings.Join(d.storing(), " "); got != test.store {
			t.Errorf("%s\nwant\n%s", got, test.store)
		}
	}
}
