// Package inuse finds out who uses a block device or an image file: the block layer (mounts, swap, devices made of
// it), processes, and Xen's domains by way of xen-blkback and xenstore. It promises that "nobody" is said only where
// all of these could be asked: whatever cannot be is an error with status Unavailable.
package inuse

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
)

// Check returns nil if nobody but this process uses f, an open block device or regular file called path. Else the
// error has status Busy and names the users; it has status Unavailable if that cannot be found out, which above all
// in a Dom0 must never be taken for "free": xen-blkback holds a disk without O_EXCL, so no open of ours would fail.
//
// A mount, swap, a device above or a domain counts at once. Somebody who has it open counts after 5 s only: udev
// looks into every device after each close.
func Check(f *os.File, path string) error { return thisHost.check(f, path) }

// An open that lasts longer is no look at the device. It is counted in looks of our own: where the host stands still
// for seconds, whoever looks stood still as well.
const (
	lookLasts  = 5 * time.Second
	retryEvery = 250 * time.Millisecond
	looks      = int(lookLasts / retryEvery)
)

// WaitForLooks calls over again and again, until it reports true or for as long as a mere look at a device may
// last. It returns what over said last.
func WaitForLooks(over func() (bool, error)) (bool, error) {
	for look := 0; ; look++ {
		if done, err := over(); done || err != nil || look == looks {
			return done, err
		}
		time.Sleep(retryEvery)
	}
}

// Users says in words who uses the block device or regular file path: "mounted on /srv", "held by dm-3 (vg-other)".
// It includes who has it open just now, even if only to read, but not this process and those whose name (proc(5),
// comm) is to be ignored. Processes that the caller may not look at are not seen: for the whole truth it takes root.
// Its errors have status Unavailable.
func Users(path string, ignore func(comm string) bool) ([]string, error) {
	return thisHost.allUsers(path, ignore)
}

func (h *host) allUsers(path string, ignore func(comm string) bool) ([]string, error) {
	stat := func() (os.FileInfo, error) { return os.Stat(path) } // unopened, it needs no permission
	u, err := h.users(stat, path, func(o opener) bool { return ignore(o.comm) })
	return u.all(), err
}

func (h *host) check(f *os.File, path string) error {
	var u users
	_, err := WaitForLooks(func() (_ bool, err error) {
		u, err = h.users(f.Stat, path, opener.undisturbed)
		return len(u.passing) == 0 || len(u.lasting) > 0, err
	})
	if err == nil && len(u.all()) > 0 {
		err = exit.Fail(exit.Busy, "%s is in use: %s", path, strings.Join(u.all(), ", "))
	}
	return err
}

// IsOpen reports whether another process has a file open, or anybody a device.
func IsOpen(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	h := &thisHost
	t, err := h.target(info)
	if err != nil {
		return false, err
	}
	if t.rdev != 0 {
		d, err := h.query(t.rdev)
		return d != nil && d.OpenCount > 0, err
	}
	pids, err := h.pids()
	self := strconv.Itoa(os.Getpid())
	for _, pid := range pids {
		if n, _ := h.opens(pid, t); n > 0 && pid != self {
			return true, nil
		}
	}
	return false, err
}

// users are the users of a device, in words.
type users struct {
	lasting []string // who is sure to stay
	passing []string // who may be gone in a moment
}

func (u users) all() []string { return slices.Concat(u.lasting, u.passing) }

// host is where users are looked for.
type host struct {
	proc, sys string
	xenstore  []string                              // sockets and devices that lead to xenstored, the best first
	query     func(rdev uint64) (*dm.Device, error) // device-mapper
}

var thisHost = host{
	proc:     "/proc",
	sys:      "/sys",
	xenstore: []string{"/run/xenstored/socket", "/var/run/xenstored/socket", "/dev/xen/xenbus", "/proc/xen/xenbus"},
	query:    dm.Query,
}

// users looks for the users of what stat is of and is called path, without the processes that are to be ignored.
func (h *host) users(stat func() (os.FileInfo, error), path string, ignore func(opener) bool) (users, error) {
	info, err := stat()
	var u users
	if err == nil {
		u, err = h.look(info, path, ignore)
	}
	if err != nil {
		return users{}, exit.Fail(exit.Unavailable, "cannot tell who uses %s: %w", path, err)
	}
	return u, nil
}

func (h *host) look(info os.FileInfo, path string, ignore func(opener) bool) (u users, err error) {
	t, err := h.target(info)
	if err != nil {
		return u, err
	}
	// Where these are not mounted, to find nobody would mean nothing.
	for _, dir := range []string{h.proc + "/self", h.sys + "/dev/block"} {
		if _, err := os.Stat(dir); err != nil {
			return u, err
		}
	}
	sources := []func(*target) ([]string, error){h.mounts, h.btrfs, h.swaps, h.holders, h.loops, h.domains}
	for _, source := range sources {
		found, err := source(t)
		if err != nil {
			return u, err
		}
		u.lasting = append(u.lasting, found...)
	}
	processes, known, err := h.processes(t, ignore)
	if err != nil {
		return u, err
	}
	u.passing = processes
	if len(u.all()) == 0 && t.rdev != 0 {
		u.passing, err = h.unlisted(t, path, known)
	}
	return u, err
}

// unlisted finds users that no table names, in the kernel or out of our sight. The open count of a dm device includes
// them all. Of another device at least those show that claim it, as a file system does that was unmounted lazily.
func (h *host) unlisted(t *target, path string, known int) ([]string, error) {
	d, err := h.query(t.rdev)
	switch {
	case err != nil:
		return nil, err
	case d != nil && d.OpenCount > known:
		return []string{fmt.Sprintf("opened %d times by the kernel or an unknown process", d.OpenCount-known)}, nil
	case d == nil && known == 0 && claimed(path): // else it may be a known one that claims it
		return []string{"claimed by the kernel or an unknown process"}, nil
	}
	return nil, nil
}

// claimed reports whether somebody has a device open exclusively (O_EXCL, see open(2)).
func claimed(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_EXCL, 0)
	if err != nil {
		return errors.Is(err, syscall.EBUSY)
	}
	f.Close()
	return false
}
