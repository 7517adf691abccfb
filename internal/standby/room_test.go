package standby

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// TestRoomOfASet: there is room for either of two disks of a set on the file system that both are on, but not for both.
// It can only be counted, as they are loop devices, and one after the other would find it.
func TestRoomOfASet(t *testing.T) {
	dir := testkit.Mount(t, "mkfs.ext4", "-q", "-m", "0")
	testkit.Programs(t, map[string]string{"virsh": "echo"})
	m := &machine{T: t, options: Options{StateDir: t.TempDir(), Peer: "dom0a", Toolstack: "virsh"}}
	const size = 8 << 20
	const forGuests = 256 << 20 // each disk is a guest's image to the other one
	for i := range 2 {
		s := &scene{T: t, user: new(quiet), options: m.options, old: make([]byte, size), new: randomBytes(size, uint64(i))}
		s.image = digestOf(t, s.new)
		s.options.Disk = fmt.Sprintf("domu1/xvd%c", 'a'+i)
		file := filepath.Join(dir, fmt.Sprint(i))
		testkit.Write(t, file, "")
		m.must(os.Truncate(file, size))
		device := testkit.Command(t, "", "losetup", "--find", "--show", file)
		testkit.Count(t, device)
		t.Cleanup(func() { testkit.Command(t, "", "losetup", "--detach", device) })
		s.options.Target = device
		m.must(s.hold(setB, s.old))
		m.disks = append(m.disks, s)
	}
	m.must(m.commit(setB))

	filler, err := os.Create(filepath.Join(dir, "filler"))
	m.must(err)
	defer filler.Close()
	var fs unix.Statfs_t
	m.must(unix.Fstatfs(int(filler.Fd()), &fs))
	m.must(unix.Fallocate(int(filler.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-forGuests-size*3/2))
	m.must(filler.Sync())

	m.hold(setA)
	err = m.commit(setA)
	testkit.WantStatus(t, "the commit", err, exit.CantCreate)
	if err == nil || !strings.Contains(err.Error(), "domu1/xvdb: no room for the image") {
		t.Errorf("it is refused by %v", err)
	}
	m.wantOldSet()
	m.must(os.Remove(filler.Name()))
	m.must(filler.Close())
	m.must(m.commit(setA))
	m.wantNewSet(setA)
}
