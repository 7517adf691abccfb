package snapshot

import (
	"testing"

	"xen-backup/internal/lvm"
)

// TestIsOurs: a volume is removed only if all that xb-snap gives a snapshot is there.
func TestIsOurs(t *testing.T) {
	const name = "xb-vm1-abcdefg7"
	tags := []string{tag, ownerTag + "1.2.00000000"}
	for _, c := range []struct {
		what   string
		volume lvm.Volume
		want   bool
	}{
		{"thick", lvm.Volume{Name: name, Tags: tags, Type: "linear", Attr: "swi-a-s---"}, true},
		{"overflowed", lvm.Volume{Name: name, Tags: tags, Type: "linear", Attr: "swi-I-s---"}, true},
		{"thin", lvm.Volume{Name: name, Tags: tags, Type: "thin", Attr: "Vri-a-tz-k"}, true},
		{"of nobody", lvm.Volume{Name: name, Tags: []string{tag, ownerTag + "none"}, Type: "thin"}, true},
		{"of a long name", lvm.Volume{Name: "xb-a-b-c-abcdefg7", Tags: tags, Type: "thin"}, true},
		{"without an owner", lvm.Volume{Name: name, Tags: tags[:1], Type: "thin"}, false},
		{"no snapshot", lvm.Volume{Name: name, Tags: tags, Type: "linear", Attr: "-wi-ao----"}, false},
		{"another name", lvm.Volume{Name: "vm1", Tags: tags, Type: "thin"}, false},
		{"no run in its name", lvm.Volume{Name: "xb-vm1", Tags: tags, Type: "thin"}, false},
		{"not quite a run", lvm.Volume{Name: "xb-vm1-abcdefg1", Tags: tags, Type: "thin"}, false},
		{"more than a run", lvm.Volume{Name: name + "-old", Tags: tags, Type: "thin"}, false},
	} {
		if got := isOurs(&c.volume); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestVolumeShown(t *testing.T) {
	v := lvm.Volume{
		VG: "vg", Name: "xb-vm1-abcdefg7", Origin: "vm1", Size: 1 << 30, DataUsed: 12.34,
		Tags: []string{tag, ownerTag + "none"}, Type: "linear", Attr: "swi-a-s---",
	}
	s := volume{&v, ""}.snapshot()
	want := "/dev/vg/xb-vm1-abcdefg7\t/dev/vg/vm1\tthick\t1.0 GiB\t12.3 %\tno owner"
	if s.String() != want || s.Dead || !s.Valid || s.sharesRoom() {
		t.Errorf("%s, want %s: %+v", s, want, s)
	}
	if room, err := s.room(); room != nil || err != nil {
		t.Errorf("it shares %v, %v", room, err)
	}
	v.Attr, v.Tags[1] = "swi-I-s---", ownerTag+"1.1.00000000"
	s = volume{&v, ""}.snapshot()
	if want := "/dev/vg/xb-vm1-abcdefg7\t/dev/vg/vm1\tthick\t1.0 GiB\tinvalid\tdead 1"; s.String() != want || !s.Dead {
		t.Errorf("%s, want %s", s, want)
	}
}
