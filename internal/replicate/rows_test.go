package replicate

import (
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

const row = "dom0a\tdom0b\t/dev/vg/a\txvda\t/dev/vg/a\t4096\t512\t-\t-\t6ba7b810-9dad-11d1-80b4-00c04fd430c8\txml"

func TestReadRows(t *testing.T) {
	other := strings.Replace(row, "dom0b", "dom0c", 1)
	rows, err := ReadRows(strings.NewReader(row+"\n"+other+"\n"+strings.Replace(row, "xvda", "xvdb", 1)+"\n"), false)
	if err != nil {
		t.Fatal(err)
	}
	if all := byDom0(rows); len(all) != 2 || len(all[0]) != 2 || all[0][1].Disk != "xvdb" || all[1][0].Dom0 != "dom0c" {
		t.Errorf("%v", all)
	}
	rows[0].Answer = "full reason=no-base phase=clean last=2026-11-27T12:00:00Z takes=1 guests=yes"
	again, err := ReadRows(strings.NewReader(rows[0].String()+"\n"), true)
	if err != nil || *again[0] != *rows[0] || again[0].answered("guests") != "yes" || again[0].answered("as") != "" {
		t.Errorf("%v, %v", again, err)
	}
	for _, bad := range []string{"", "\n", row + "\tfull\n", strings.Replace(row, "dom0b", "-oProxyCommand=x", 1),
		strings.Replace(row, "/dev/vg/a", "/dev/$(x)", 1), strings.Replace(row, "xvda", "", 1), strings.Replace(row, "4096", "4 5", 1)} {
		_, err := ReadRows(strings.NewReader(bad), false)
		testkit.WantStatus(t, bad, err, exit.Usage)
	}
	for _, o := range []Options{{DomU: "-x"}, {DomU: "a", To: "b;c"}, {DomU: "a", Exclude: []string{"$x"}}, {DomU: "a", CreateLV: "/x"}} {
		testkit.WantStatus(t, o.DomU, o.Check(), exit.Usage)
	}
}

// TestShare has jobs shared among Dom0s, and sessions of a connection among DomUs.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		o           Options
		dom0s, want int
	}{
		{Options{Jobs: 4, AtOnce: 1}, 1, 4}, {Options{Jobs: 4, AtOnce: 1}, 2, 2}, {Options{Jobs: 4, AtOnce: 1}, 3, 1},
		{Options{Jobs: 1, AtOnce: 1}, 3, 1}, {Options{Jobs: 100, AtOnce: 1}, 1, 5}, {Options{Jobs: 100, AtOnce: 2}, 1, 2},
		{Options{Jobs: 100, AtOnce: 9}, 1, 1}, {Options{Jobs: 4, AtOnce: 1, BWLimit: "1M"}, 1, 1},
	} {
		if got := (&run{Options: c.o}).share(c.dom0s); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestEach demands that what is slow holds up nothing else, as long as there is room.
func TestEach(t *testing.T) {
	others := make(chan bool)
	good := each([]int{0, 1, 2, 3}, 2, func(i int) bool {
		if i > 0 {
			others <- true
			return i != 2
		}
		for range 3 {
			select {
			case <-others:
			case <-time.After(testkit.Long):
				t.Error("it is held up")
			}
		}
		return true
	})
	if len(good) != 3 || good[2] != 3 {
		t.Errorf("%v", good)
	}
}
