package blockdev

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// logicalVolume returns the path of a fresh LV of 8 MiB.
func logicalVolume(t *testing.T, vg string) string {
	t.Helper()
	command(t, "", "lvcreate", "-q", "-y", "-n", "lv", "-L", "8M", vg)
	return "/dev/" + vg + "/lv"
}

func TestLVUnused(t *testing.T) {
	vg := volumeGroup(t)
	lv := logicalVolume(t, vg)
	wantUnused(t, lv)
	// A snapshot lies on hidden devices beside its origin, not on the origin.
	command(t, "", "lvcreate", "-q", "-s", "-n", "snap", "-L", "4M", vg+"/lv")
	wantUnused(t, lv)
	wantUnused(t, "/dev/"+vg+"/snap")
}

func TestLVMounted(t *testing.T) {
	lv := logicalVolume(t, volumeGroup(t))
	dir := mount(t, lv)
	wantBusy(t, lv, "mounted on "+dir, true)
}

func TestLVUnderAnotherDevice(t *testing.T) {
	lv := logicalVolume(t, volumeGroup(t))
	name := fmt.Sprintf("xbtest%d-1", os.Getpid())
	command(t, "0 2048 linear "+lv+" 0", "dmsetup", "create", name)
	t.Cleanup(func() { command(t, "", "dmsetup", "remove", "--retry", name) })
	wantBusy(t, lv, `held by dm-\d+ \(`+name+`\)`, true)
}

func TestLVOpenByProcess(t *testing.T) {
	lv := logicalVolume(t, volumeGroup(t))
	_, stop := hold(t, "xb-sig", lv, strconv.Itoa(os.O_RDONLY))
	wantUnused(t, lv)
	pid, _ := hold(t, "dd", lv, strconv.Itoa(os.O_RDWR))
	wantBusy(t, lv, fmt.Sprintf(`process %d \(dd\) has it open`, pid), false)
	stop()
}

// A mapping keeps the device open with no descriptor: only the open count tells.
func TestLVOpenByUnknown(t *testing.T) {
	lv := logicalVolume(t, volumeGroup(t))
	hold(t, "xb-sig", lv, strconv.Itoa(os.O_RDONLY))
	_, stop := hold(t, "reader", lv, "mmap")
	wantBusy(t, lv, "opened 1 times by the kernel or an unknown process", false)
	stop()
	wantUnused(t, lv)
}

func TestLVUsersIgnored(t *testing.T) {
	lv := logicalVolume(t, volumeGroup(t))
	hold(t, "xb-patch", lv, strconv.Itoa(os.O_RDWR|os.O_EXCL))
	wantUsers(t, thisHost, lv, "")
	hold(t, "reader", lv, "mmap")
	wantUsers(t, thisHost, lv, "opened 1 times by the kernel or an unknown process")
}

func TestThinLV(t *testing.T) {
	vg := volumeGroup(t)
	command(t, "", "lvcreate", "-q", "-T", "-L", "16M", "-V", "64M", "-n", "thin", vg+"/pool")
	wantUnused(t, "/dev/"+vg+"/thin")
	wantBusy(t, "/dev/mapper/"+vg+"-pool_tdata", `held by dm-\d+ \(`+vg+`-pool-tpool\)`, true)
}
