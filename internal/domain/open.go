package domain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"xen-backup/internal/cli"
)

// Opens finds out whether somebody has a disk open, other than the commands of
// xen-backup: a standby that xb-patch writes to is no running domain.
type Opens struct {
	Sys, Proc string // where sysfs and procfs are
}

// Open tells whether a source is open. An error has status Unavailable: it can't
// be told, which is not "no".
func (o Opens) Open(ctx context.Context, s Source) (bool, error) {
	ours, others := o.descriptors(s)
	switch {
	case others > 0:
		return true, nil
	case s.DM:
		// The kernel's users, blkback and mounts, hold no descriptor.
		count, err := openCount(ctx, s)
		return count > ours, err
	case s.Block && (o.blkback(s.Rdev) || claimed(s.Path)):
		return true, nil
	}
	return o.looped(s.Path) || o.swapped(s.Path), nil
}

// openCount asks device-mapper how often a device is open; from lvs, which only
// tells whether, it is 0 or 1.
func openCount(ctx context.Context, s Source) (int, error) {
	out, err := output(ctx, patience, "dmsetup", "info", "-c", "--noheadings", "-o", "open",
		"-j", fmt.Sprint(major(s.Rdev)), "-m", fmt.Sprint(minor(s.Rdev)))
	if err == nil {
		count, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			return 0, cli.Fail(cli.Unavailable, "dmsetup prints no open count: %w", err)
		}
		return count, nil
	}
	out, lvsErr := output(ctx, patience, "lvs", "--noheadings", "-o", "lv_device_open", s.Path)
	if lvsErr != nil {
		return 0, cli.Fail(cli.Unavailable, "cannot tell whether %s is open: %w", s.Path, err)
	}
	switch answer := strings.TrimSpace(string(out)); answer {
	case "open":
		return 1, nil
	case "":
		return 0, nil
	default: // LVM's advisories go to standard output, too
		return 0, cli.Fail(cli.Unavailable, "lvs prints %.60q, and no open state of %s", answer, s.Path)
	}
}

// descriptors counts the file descriptors of all processes that stand for the
// source: those of xen-backup's commands and all others. Processes that can't be
// looked into, having ended meanwhile, count nothing.
func (o Opens) descriptors(s Source) (ours, others int) {
	processes, _ := filepath.Glob(o.Proc + "/[0-9]*")
	for _, process := range processes {
		if filepath.Base(process) == strconv.Itoa(os.Getpid()) {
			continue
		}
		count := 0
		descriptors, _ := os.ReadDir(process + "/fd")
		for _, fd := range descriptors {
			if info, err := os.Stat(process + "/fd/" + fd.Name()); err == nil && s.same(info) {
				count++
			}
		}
		if count == 0 {
			continue
		}
		if name, _ := os.ReadFile(process + "/comm"); strings.HasPrefix(string(name), "xb-") {
			ours += count
		} else {
			others += count
		}
	}
	return ours, others
}

// same compares by device number: each mount namespace has its own nodes.
func (s *Source) same(info fs.FileInfo) bool {
	if !s.Block {
		return os.SameFile(s.info, info)
	}
	return info.Mode().Type() == fs.ModeDevice && info.Sys().(*syscall.Stat_t).Rdev == s.Rdev
}

// blkback tells whether Xen's block backend in this kernel serves the device.
func (o Opens) blkback(rdev uint64) bool {
	files, _ := filepath.Glob(o.Sys + "/bus/xen-backend/devices/vbd-*/physical_device")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if strings.TrimSpace(string(text)) == fmt.Sprintf("%x:%x", major(rdev), minor(rdev)) {
			return true
		}
	}
	return false
}

// claimed tells whether the kernel itself uses a block device, by a mount, as swap or
// for a RAID: those open it exclusively (O_EXCL, see open(2)).
func claimed(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_EXCL, 0)
	if err != nil {
		return errors.Is(err, syscall.EBUSY)
	}
	f.Close()
	return false
}

// swapped tells whether a file is in use as swap.
func (o Opens) swapped(path string) bool {
	text, _ := os.ReadFile(o.Proc + "/swaps")
	for line := range strings.Lines(string(text)) {
		// a blank in a name stands there as \040
		if name, _, _ := strings.Cut(line, " "); strings.ReplaceAll(name, `\040`, " ") == path {
			return true
		}
	}
	return false
}

// looped tells whether a file or device is what a loop device stands on; blkback
// serves files by those.
func (o Opens) looped(path string) bool {
	files, _ := filepath.Glob(o.Sys + "/block/loop*/loop/backing_file")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if strings.TrimSuffix(string(text), "\n") == path {
			return true
		}
	}
	return false
}
