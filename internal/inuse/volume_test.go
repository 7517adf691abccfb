package inuse

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"xen-backup/internal/testkit"
)

func TestLVUnused(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	lv := testkit.LogicalVolume(t, vg)
	wantUnused(t, lv)
	// A snapshot lies on hidden devices beside its origin, not on the origin.
	testkit.Command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/lv")
	wantUnused(t, lv)
	wantUnused(t, "/dev/"+vg+"/snap")
}

func TestLVMounted(t *testing.T) {
	lv := testkit.LogicalVolume(t, testkit.VolumeGroup(t))
	dir := mount(t, lv)
	wantBusy(t, lv, "mounted on "+dir, true)
}

func TestLVUnderAnotherDevice(t *testing.T) {
	lv := testkit.LogicalVolume(t, testkit.VolumeGroup(t))
	name := fmt.Sprintf("xbtest%d-1", os.Getpid())
	testkit.Command(t, "0 2048 linear "+lv+" 0", "dmsetup", "create", name)
	t.Cleanup(func() { testkit.Command(t, "", "dmsetup", "remove", "--retry", name) })
	wantBusy(t, lv, `held by dm-\d+ \(`+name+`\)`, true)
}

func TestLVOpenByProcess(t *testing.T) {
	lv := testkit.LogicalVolume(t, testkit.VolumeGroup(t))
	_, stop := hold(t, "xb-sig", lv, strconv.Itoa(os.O_RDONLY))
	wantUnused(t, lv)
	pid, _ := hold(t, "dd", lv, strconv.Itoa(os.O_RDWR))
	wantBusy(t, lv, fmt.Sprintf(`process %d \(dd\) has it open`, pid), false)
	stop()
}

// A mapping keeps the device open with no descriptor: only the open count tells.
func TestLVOpenByUnknown(t *testing.T) {
	lv := testkit.LogicalVolume(t, testkit.VolumeGroup(t))
	hold(t, "xb-sig", lv, strconv.Itoa(os.O_RDONLY))
	_, stop := hold(t, "reader", lv, "mmap")
	wantBusy(t, lv, "opened 1 times by the kernel or an unknown process", false)
	stop()
	wantUnused(t, lv)
}

func TestLVUsersIgnored(t *testing.T) {
	lv := testkit.LogicalVolume(t, testkit.VolumeGroup(t))
	hold(t, "xb-patch", lv, strconv.Itoa(os.O_RDWR|os.O_EXCL))
	wantUsers(t, thisHost, lv, "")
	hold(t, "reader", lv, "mmap")
	wantUsers(t, thisHost, lv, "opened 1 times by the kernel or an unknown process")
}

func TestThinLV(t *testing.T) {
	vg := testkit.VolumeGroup(t)
	testkit.Command(t, "", "lvcreate", "-q", "-T", "-L", "16M", "-V", "64M", "-n", "thin", vg+"/pool")
	wantUnused(t, "/dev/"+vg+"/thin")
	wantBusy(t, "/dev/mapper/"+vg+"-pool_tdata", `held by dm-\d+ \(`+vg+`-pool-tpool\)`, true)
}
