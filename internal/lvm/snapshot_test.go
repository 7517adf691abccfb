package lvm

import (
	"strings"
	"testing"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

func TestOrder(t *testing.T) {
	vs := volumesOf(t, captured(t))
	vm1, web, thin := vs.named(t, "vm1"), vs.named(t, "we-ird_1.x"), vs.named(t, "t1")
	for _, c := range []struct {
		size      int64
		vm1, web1 int64 // extents of 4 MiB
	}{
		{1, 1, 1}, {4 << 20, 1, 1}, {4<<20 + 1, 2, 2}, {1 << 30, 17, 6},
	} {
		orders, err := vs.Order([]*Volume{vm1, thin, web}, c.size, "abcdefgh", []string{"tag"})
		if err != nil {
			t.Fatal(err)
		}
		if orders[0].extents != c.vm1 || orders[1].extents != 0 || orders[2].extents != c.web1 {
			t.Errorf("size %d: %d, %d and %d extents", c.size, orders[0].extents, orders[1].extents, orders[2].extents)
		}
		if orders[0].Path() != "/dev/vg0/xb-vm1-abcdefgh" || orders[2].Name != "xb-we-ird_1.x-abcdefgh" {
			t.Errorf("names %s, %s", orders[0].Path(), orders[2].Name)
		}
	}
}

func TestOrderRefuses(t *testing.T) {
	for _, c := range []struct {
		what   string
		spoil  func(vs *Volumes, v, thin, pool *Volume)
		thin   bool
		status int
		words  string
	}{
		{"no room", func(vs *Volumes, v, thin, pool *Volume) { v.VGFree = 17<<22 - 1 }, false, exit.CantCreate,
			"only 68.0 MiB free"},
		{"pool health", func(vs *Volumes, v, thin, pool *Volume) { pool.Health = "out_of_data" }, true, exit.CantCreate,
			"out_of_data"},
		{"no pool", func(vs *Volumes, v, thin, pool *Volume) { pool.Name = "x" }, true, exit.Unavailable, "vg0/pool"},
		{"snapshot", func(vs *Volumes, v, thin, pool *Volume) { *v = *vs.named(t, "xb-vm1-abcdefgh") }, false, exit.Config,
			"its origin vg0/vm1"},
		{"merge", func(vs *Volumes, v, thin, pool *Volume) { v.Attr = "Owi-aos---" }, false, exit.Busy, "merged"},
		{"qubes", func(vs *Volumes, v, thin, pool *Volume) { thin.Name = "vm-work-private-snap" }, true, exit.Config, "wyng"},
		{"xenserver", func(vs *Volumes, v, thin, pool *Volume) { v.VG = "VG_XenStorage-4dea22b3" }, false, exit.Config,
			"VHD"},
	} {
		vs := volumesOf(t, captured(t))
		v, thin := vs.named(t, "vm1"), vs.named(t, "t1")
		c.spoil(vs, v, thin, vs.named(t, "pool"))
		if c.thin {
			v = thin
		}
		_, err := vs.Order([]*Volume{v}, 1<<30, "abcdefgh", []string{"tag"})
		if exit.StatusOf(err) != c.status || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: status %d: %v", c.what, exit.StatusOf(err), err)
		}
	}
}

// The room in a group is shared by all its volumes, not compared with each.
func TestOrderCountsTogether(t *testing.T) {
	vs := volumesOf(t, captured(t))
	origins := []*Volume{vs.named(t, "vm1"), vs.named(t, "we-ird_1.x")}
	for _, v := range vs.list {
		v.VGFree = 23 << 22
	}
	if _, err := vs.Order(origins, 1<<30, "abcdefgh", []string{"tag"}); err != nil {
		t.Error(err)
	}
	for _, v := range vs.list {
		v.VGFree--
	}
	if _, err := vs.Order(origins, 1<<30, "abcdefgh", []string{"tag"}); exit.StatusOf(err) != exit.CantCreate {
		t.Errorf("one byte short: %v", err)
	}
}

// storeBound must be what the kernel's allocator comes to: it hands out chunks one
// after another, leaving out those of the lists, and clears the next list when one
// is full (persistent_prepare_exception, skip_metadata, persistent_commit_exception).
func TestStoreBound(t *testing.T) {
	const pairs = chunkSize / exceptionSize
	for _, chunks := range []int64{0, 1, pairs - 1, pairs, pairs + 1, 2 * pairs, 12345, 40 * pairs} {
		end, next := int64(2), int64(2) // header and list 0
		for n := int64(1); n <= chunks; n++ {
			end = max(end, next+1)
			if next++; next%(pairs+1) == 1 {
				next++
			}
			if n%pairs == 0 {
				end = max(end, n/pairs*(pairs+1)+2)
			}
		}
		if got := storeBound(chunks * chunkSize); got != end*chunkSize {
			t.Errorf("%d chunks: bound %d chunks, the kernel uses %d", chunks, got/chunkSize, end)
		}
	}
	if storeBound(1) != storeBound(chunkSize) {
		t.Error("a part of a chunk counts less than one")
	}
}

func TestSnapshotName(t *testing.T) {
	for _, thin := range []bool{false, true} {
		for n := 1; n <= 110; n++ {
			for _, c := range []string{"a", "-", "a-"} {
				v := &Volume{VG: "vg-0", Name: strings.Repeat(c, n)[:n], UUID: "eUvID4-8evT"}
				if thin {
					v.Type = "thin"
				}
				device := len(dm.VolumeName(v.VG, v.Name))
				if device > dm.NameMax {
					continue
				}
				name, err := snapshotName(v, "abcdefgh")
				if !thin && device+len("-real") > dm.NameMax {
					if exit.StatusOf(err) != exit.Config {
						t.Errorf("%s: origin with too long a name: %v", v, err)
					}
					continue
				}
				hidden := len(dm.VolumeName(v.VG, name))
				if !thin {
					hidden += len("-cow")
				}
				if err != nil || hidden > dm.NameMax || !strings.HasPrefix(name, "xb-") || !strings.HasSuffix(name, "-abcdefgh") {
					t.Errorf("%s: %s (%d), %v", v, name, hidden, err)
				}
				if hidden < dm.NameMax-20 && !strings.Contains(name, v.Name) {
					t.Errorf("%s: shortened without need: %s", v, name)
				}
			}
		}
	}
	a, _ := snapshotName(&Volume{VG: "vg", Name: strings.Repeat("x", 115) + "1", UUID: "aaaaaa"}, "abcdefgh")
	b, _ := snapshotName(&Volume{VG: "vg", Name: strings.Repeat("x", 115) + "2", UUID: "bbbbbb"}, "abcdefgh")
	if a == b {
		t.Errorf("both are %s", a)
	}
	long := &Volume{VG: strings.Repeat("v", 110), Name: "a", UUID: "aaaaaa"}
	if _, err := snapshotName(long, "abcdefgh"); exit.StatusOf(err) != exit.Config {
		t.Errorf("group with a long name: %v", err)
	}
}
