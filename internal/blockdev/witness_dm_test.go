package blockdev

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"xen-backup/internal/dm"
	"xen-backup/internal/testkit"
)

// watched is a device of which a test changes what is below.
type watched struct {
	t    *testing.T
	path string
	size int64 // of the image in it
	last string
}

func watch(t *testing.T, path string, size int64) *watched {
	w := &watched{t: t, path: path, size: size}
	w.take()
	return w
}

func (w *watched) take() (before string) {
	w.t.Helper()
	f, err := Open(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	before, w.last = w.last, f.Witness(w.size)
	if w.last == "" {
		w.t.Fatalf("%s: no witness", w.path)
	}
	return before
}

// want compares the witness with the last one.
func (w *watched) want(untouched bool, what string) {
	w.t.Helper()
	if before := w.take(); Untouched(before, w.last) != untouched {
		w.t.Errorf("%s: from %q to %q", what, before, w.last)
	}
}

func TestLVWitness(t *testing.T) {
	testkit.NeedDM(t)
	second, _ := testkit.LoopDevice(t, 96<<20)
	vg := testkit.VolumeGroup(t, second)
	lv := testkit.LogicalVolume(t, vg)
	w := watch(t, lv, 8<<20)
	w.want(true, "nothing")
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/lv")
	w.want(true, "a snapshot was taken")
	first := w.last
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap2", "-L", "4M", vg+"/lv")
	w.want(true, "another one")
	testkit.Command(t, "", "lvremove", "-q", "-y", vg+"/snap2")
	w.last = first
	w.want(true, "one that was taken since is gone")
	// To the kernel, an origin into which its last snapshot was merged looks like one that lost it.
	write(t, lv, 0)
	w.take()
	testkit.Command(t, "", "lvconvert", "-q", "-y", "-i", "1", "--merge", vg+"/snap")
	w.want(false, "a snapshot was merged")

	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "source", "-L", "4M", vg+"/lv")
	source := watch(t, "/dev/"+vg+"/source", -1)
	testkit.Command(t, "", "lvextend", "-q", "-L", "8M", vg+"/source")
	source.want(true, "a snapshot was made larger in time")
	testkit.Command(t, "", "lvremove", "-q", "-y", vg+"/source")

	// That one was there at no look matters as little.
	w.take()
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "unseen", "-L", "4M", vg+"/lv")
	write(t, "/dev/"+vg+"/unseen", 8192)
	testkit.Command(t, "", "lvconvert", "-q", "-y", "-i", "1", "--merge", vg+"/unseen")
	w.want(false, "a snapshot was taken, written to and merged")

	testkit.Command(t, "", "lvextend", "-q", "-L", "16M", vg+"/lv")
	w.want(true, "the volume was extended")
	testkit.Command(t, "", "lvcreate", "-q", "-y", "-n", "between", "-L", "4M", vg)
	testkit.Command(t, "", "lvextend", "-q", "-L", "20M", vg+"/lv")
	w.want(true, "the volume was extended with a gap")
	testkit.Command(t, "", "lvrename", "-q", vg, "lv", "other")
	w.path = "/dev/" + vg + "/other"
	w.want(true, "the volume was renamed")
	testkit.Command(t, "", "pvmove", "-q", "-i", "1", "-n", "other", diskOf(t, vg, second), second)
	w.want(false, "the volume was moved")

	name := testkit.Command(t, "", "dmsetup", "info", "-c", "--noheadings", "-o", "name", w.path)
	table := testkit.Command(t, "", "dmsetup", "table", name)
	load := func(table string) {
		testkit.Command(t, table, "dmsetup", "load", name)
		testkit.Command(t, "", "dmsetup", "resume", name)
	}
	load("0 8 error\n8 40952 zero")
	w.want(false, "another table")
	load(table)
	w.want(false, "and back")
}

// diskOf returns the volume group's disk that is not this one.
func diskOf(t *testing.T, vg, other string) string {
	t.Helper()
	for _, disk := range strings.Fields(testkit.Command(t, "", "vgs", "--noheadings", "-o", "pv_name", vg)) {
		if disk != other {
			return disk
		}
	}
	t.Fatal("no other disk")
	return ""
}

func write(t *testing.T, path string, off int64) {
	t.Helper()
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteAt(make([]byte, 4096), off); err != nil {
		t.Fatal(err)
	}
}

func TestThinWitness(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-T", "-L", "16M", "-V", "16M", "-n", "thin", vg+"/pool")
	w := watch(t, "/dev/"+vg+"/thin", 16<<20)
	testkit.Command(t, "", "lvextend", "-q", "-L", "24M", vg+"/pool")
	w.want(true, "the pool was extended")
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap", vg+"/thin")
	w.want(true, "a snapshot was taken")
	testkit.Command(t, "", "lvextend", "-q", "-L", "32M", vg+"/thin")
	w.want(true, "the volume was extended")
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap2", vg+"/thin")
	testkit.Command(t, "", "lvremove", "-q", "-y", vg+"/snap2")
	w.want(true, "a snapshot was removed")
	testkit.Command(t, "", "lvconvert", "-q", "-y", "--merge", vg+"/snap")
	w.want(false, "a snapshot was merged")
}

// TestMapperWitness uses dm devices of its own: LVM makes none of these.
func TestMapperWitness(t *testing.T) {
	testkit.NeedDM(t)
	disk, _ := testkit.LoopDevice(t, 8<<20)
	name := fmt.Sprintf("xbtest%d", os.Getpid())
	create := func(suffix, table string, options ...string) string {
		testkit.Command(t, table, "dmsetup", append([]string{"create", name + suffix}, options...)...)
		t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", "--retry", name+suffix) })
		return "/dev/mapper/" + name + suffix
	}
	reload := func(suffix, table string) {
		t.Helper()
		testkit.Command(t, table, "dmsetup", "load", name+suffix)
		testkit.Command(t, "", "dmsetup", "resume", name+suffix)
	}
	below := create("-below", "0 8192 linear "+disk+" 0")
	top := create("-top", "0 4096 linear "+below+" 0\n4096 4096 linear "+below+" 4096")
	w := watch(t, top, 4<<20)
	reload("-top", "0 8192 linear "+below+" 0")
	w.want(true, "two segments became one")
	reload("-top", "0 1000 linear "+below+" 0\n1000 7192 linear "+disk+" 1000")
	w.want(true, "the same sectors, not by the device between")
	reload("-below", "0 1000 linear "+disk+" 8192\n1000 7192 linear "+disk+" 1000")
	w.want(false, "the device below is another")
	reload("-top", "0 8192 delay "+disk+" 0 0")
	w.want(false, "another type")
	reload("-top", "0 8192 striped 2 64 "+disk+" 0 "+below+" 4096")
	w.want(false, "a type with two devices")
	reload("-below", "0 1000 linear "+disk+" 8192\n1000 7192 linear "+disk+" 1001")
	w.want(false, "a device in its parameters is another")
	// An image that ends before: in the middle of a sector, of a segment.
	reload("-top", "0 8192 linear "+disk+" 0")
	w.size = 2<<20 + 1
	w.take()
	reload("-top", "0 4097 linear "+disk+" 0\n4097 4095 linear "+disk+" 8192")
	w.want(true, "what is behind the image")
	reload("-top", "0 4096 linear "+disk+" 0\n4096 4096 linear "+disk+" 8192")
	w.want(false, "the image's last sector")
}

func TestMultipathWitness(t *testing.T) {
	testkit.NeedDM(t)
	exec.Command("modprobe", "-a", "dm-multipath", "dm-round-robin").Run()
	if !strings.Contains(testkit.Command(t, "", "dmsetup", "targets"), "multipath") {
		t.Skip("no dm-multipath here")
	}
	path, _ := testkit.LoopDevice(t, 4<<20)
	other, _ := testkit.LoopDevice(t, 4<<20)
	paths := func(name string) string {
		return fmt.Sprintf("0 8192 multipath 0 0 1 1 round-robin 0 1 1 %s 1000", name)
	}
	name := fmt.Sprintf("xbtest%d", os.Getpid())
	testkit.Command(t, paths(path), "dmsetup", "create", name+"-m", "--uuid", "mpath-"+name)
	t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", "--retry", name+"-m") })
	testkit.Command(t, "0 4096 linear /dev/mapper/"+name+"-m 0", "dmsetup", "create", name)
	t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", "--retry", name) })
	w := watch(t, "/dev/mapper/"+name, -1)
	testkit.Command(t, paths(other), "dmsetup", "load", name+"-m")
	testkit.Command(t, "", "dmsetup", "resume", name+"-m")
	w.want(true, "another path")
}

// TestMapperCounts: what iostats says of a dm device goes for some kernels and not for others. Where it counts all the
// same, as in Linux 6.1, there is a witness, and a write shows in it; where it does not, there is none.
func TestMapperCounts(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	lv := testkit.LogicalVolume(t, vg)
	sys := dm.SysDir(testkit.Number(t, lv))
	if err := os.WriteFile(sys+"/queue/iostats", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	f := openTest(t, lv)
	stat, witness := dm.ReadLine(sys+"/stat"), f.Witness(-1)
	write(t, lv, 0)
	counts := strings.Fields(stat)[6] != strings.Fields(dm.ReadLine(sys + "/stat"))[6]
	t.Logf("with iostats 0 it counts: %v", counts)
	if (witness != "") != counts || counts && Untouched(witness, f.Witness(-1)) {
		t.Errorf("counts: %v; from %q to %q", counts, witness, f.Witness(-1))
	}
}
