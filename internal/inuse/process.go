// Processes that have the target open, by whatever name. One that ends while it is looked at is no user.

package inuse

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
)

// pids lists the processes.
func (h *host) pids() ([]string, error) {
	proc, err := os.Open(h.proc)
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	pids := names[:0]
	for _, name := range names {
		if '1' <= name[0] && name[0] <= '9' {
			pids = append(pids, name)
		}
	}
	return pids, err
}

// opener is a process that has the target open.
type opener struct {
	comm      string // its name, cut to 15 bytes (proc(5))
	guest     string // the domain that it runs, if it is a QEMU
	readsFile bool   // the target is a regular file, which it has open for reading only
}

// undisturbed reports whether it is no user to whoever writes to the target: xb-sig reads the target of its own
// xb-patch, and readers of a regular file are not disturbed in what they were promised. A QEMU is: one that waits for
// its guest to arrive from another host reads only until then.
func (o opener) undisturbed() bool { return o.comm == "xb-sig" || o.readsFile && o.guest == "" }

// processes finds who has the target open. known is the number of descriptors on it in this process, and in those
// that are to be ignored.
func (h *host) processes(t *target, ignore func(opener) bool) (users []string, known int, err error) {
	pids, err := h.pids()
	if err != nil {
		return nil, 0, err
	}
	self, _ := os.Readlink(h.proc + "/self")
	for _, pid := range pids {
		n, writes := h.opens(pid, t)
		if n == 0 {
			continue
		}
		o := opener{
			comm:      dm.ReadLine(h.proc + "/" + pid + "/comm"),
			guest:     guestOf(dm.ReadLine(h.proc + "/" + pid + "/cmdline")),
			readsFile: t.rdev == 0 && !writes,
		}
		if pid == self || ignore(o) {
			known += n
			continue
		}
		name := o.comm
		if o.guest != "" {
			name += ", guest " + o.guest
		}
		users = append(users, fmt.Sprintf("process %s (%s) has it open", pid, name))
	}
	return users, known, nil
}

// opens counts a process's descriptors on the target, and reports whether one is for writing. A process that ends
// while it is looked at has none.
func (h *host) opens(pid string, t *target) (n int, writes bool) {
	dir := h.proc + "/" + pid + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return 0, false
	}
	defer d.Close()
	fds, _ := d.Readdirnames(-1)
	for _, fd := range fds {
		if !t.isPath(dir + "/" + fd) {
			continue
		}
		if flags := h.openFlags(pid, fd); flags&unix.O_PATH == 0 { // else it only names the file
			n++
			writes = writes || flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return n, writes
}

// openFlags are the flags that a descriptor was opened with; 0 if it is gone.
func (h *host) openFlags(pid, fd string) uint64 {
	info, _ := os.ReadFile(h.proc + "/" + pid + "/fdinfo/" + fd)
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return flags
		}
	}
	return 0
}

// AnyGuestFile reports whether is(path) for the file of any guest of this host: one that a QEMU has open, or one
// below a loop device, as Xen makes them.
func AnyGuestFile(is func(path string) bool) bool { return thisHost.anyGuestFile(is) }

func (h *host) anyGuestFile(is func(path string) bool) bool {
	loops, _ := filepath.Glob(h.sys + "/block/loop*/loop/backing_file")
	for _, loop := range loops {
		if is(dm.ReadLine(loop)) {
			return true
		}
	}
	pids, _ := h.pids()
	for _, pid := range pids {
		if guestOf(dm.ReadLine(h.proc+"/"+pid+"/cmdline")) == "" {
			continue
		}
		fds, _ := filepath.Glob(h.proc + "/" + pid + "/fd/*")
		if slices.ContainsFunc(fds, is) {
			return true
		}
	}
	return false
}

// AnyGuest reports whether a guest of this host is seen to run, at little cost: one that xen-blkback serves, or a QEMU.
func AnyGuest() bool { return thisHost.anyGuest() }

func (h *host) anyGuest() bool {
	disks, _ := filepath.Glob(h.sys + "/bus/xen-backend/devices/vbd-*")
	pids, _ := h.pids()
	return len(disks) > 0 || slices.ContainsFunc(pids, func(pid string) bool {
		return guestOf(dm.ReadLine(h.proc+"/"+pid+"/cmdline")) != ""
	})
}

// guestOf returns the domain that a QEMU runs, given its NUL-separated command line with "-name
// guest=domu1,debug-threads=on" (libvirt) or "-name domu1" (xl); "" for any other program. Distributions name QEMU
// variously: qemu-system-x86_64, qemu-kvm, xen-qemu-system-i386, kvm.
func guestOf(cmdline string) string {
	args := strings.Split(cmdline, "\x00")
	if program := filepath.Base(args[0]); !strings.Contains(program, "qemu") && program != "kvm" {
		return ""
	}
	for i, arg := range args[:len(args)-1] {
		if arg == "-name" {
			guest, _, _ := strings.Cut(args[i+1], ",")
			return strings.TrimPrefix(guest, "guest=")
		}
	}
	return ""
}
