// Package allow decides what another host may touch here whose key can do nothing but replicate. What no line of
// gate.conf gives it is refused. A device or file is judged when it is open, by what it is, and never by the name that
// led to it: names can be made to lead elsewhere between a look and an act.
package allow

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Rules are what one host may touch. Nil rules are those of this host's own administrator: all is allowed.
type Rules struct {
	file, peer string
	rules      []rule
	permits    []permit
}

// DomU refuses a DomU of which the peer may have no disk.
func (r *Rules) DomU(name string) error {
	if r == nil || slices.ContainsFunc(r.rules, func(l rule) bool {
		domu, _, _ := strings.Cut(string(l.disk), "/")
		return pattern(domu).matches(name)
	}) {
		return nil
	}
	return r.refuse("the DomU "+name, name+"/DISK TARGET")
}

// May refuses what the peer may not have done with a DomU.
func (r *Rules) May(verb Verb, domu string) error {
	if r == nil || slices.ContainsFunc(r.permits, func(p permit) bool { return p.verb == verb && p.domu.matches(domu) }) {
		return nil
	}
	return r.refuse("to "+string(verb)+" the DomU "+domu, domu+" "+string(verb))
}

// Disk refuses a DOMU/DISK of which the peer may have no standby here.
func (r *Rules) Disk(disk string) error {
	if r == nil || slices.ContainsFunc(r.rules, func(l rule) bool { return l.disk.matches(disk) && !l.documentOnly }) {
		return nil
	}
	return r.refuse("the disk "+disk, disk+" TARGET")
}

// Open refuses a device or file that is open unless it may be the standby of disk; of any disk of the peer's if that is "".
func (r *Rules) Open(f *os.File, disk string) error {
	if r == nil {
		return nil
	}
	t, err := identify(f)
	return r.judge(t, err, disk, rule.isWritable)
}

// Path is Open for what is not open yet. It spares a command that will be refused all that comes before that, and
// is no proof; but of what does not exist it is all that can be said.
func (r *Rules) Path(path, disk string) error {
	if r == nil {
		return nil
	}
	t, err := look(path)
	return r.judge(t, err, disk, rule.isWritable)
}

// Named refuses a path that no document of the DomU may name as that disk.
func (r *Rules) Named(path, disk string) error {
	if r == nil {
		return nil
	}
	t, err := look(path)
	if t.odd == aDirectory { // of a TPM
		t.odd = ""
	}
	return r.judge(t, err, disk, func(rule) bool { return true })
}

// Network refuses a document of the DomU whose disk is on no host.
func (r *Rules) Network(disk string) error {
	if r == nil || slices.ContainsFunc(r.rules, func(l rule) bool { return l.target == network && l.disk.matches(disk) }) {
		return nil
	}
	return r.refuse("the network disk "+disk, disk+" network document-only")
}

// Volume refuses to have a missing logical volume created.
func (r *Rules) Volume(path, disk string) error {
	if r == nil {
		return nil
	}
	t, err := look(path)
	return r.judge(t, err, disk, func(l rule) bool { return l.createLV })
}

// Place opens the directory in which a missing file is to be created, and refuses it unless a file of that name in it
// is allowed. The name leads to that directory, wherever it is by then: the file is made by the path that is returned.
func (r *Rules) Place(path, disk string) (dir *os.File, place string, err error) {
	if dir, err = openPath(filepath.Dir(path), unix.O_DIRECTORY); err != nil {
		return nil, "", err
	}
	base := filepath.Base(path)
	if r != nil {
		real, err := pathOf(dir)
		if err = r.judge(thing{path: path, names: []string{filepath.Join(real, base)}}, err, disk, rule.isWritable); err != nil {
			dir.Close()
			return nil, "", err
		}
	}
	return dir, filepath.Join(self(dir), base), nil
}

// judge looks for a line that is of the disk and of one of a thing's names, and gives what is wanted.
func (r *Rules) judge(t thing, err error, disk string, gives func(rule) bool) error {
	if err != nil {
		return exit.Fail(exit.Refused, "cannot tell what %s is: %w", t.path, err)
	}
	if t.odd != "" {
		return exit.Fail(exit.Refused, "%s: %s", t.path, t.odd)
	}
	for _, l := range r.rules {
		if gives(l) && (disk == "" || l.disk.matches(disk)) && t.is(l.target) {
			return nil
		}
	}
	what, name := t.path, t.path
	if disk != "" {
		what += " as " + disk
	}
	if len(t.names) > 0 {
		name = t.names[len(t.names)-1]
	}
	return r.refuse(what, cmp.Or(disk, "DOMU/DISK")+" "+text.Operand(name))
}

func (r *Rules) refuse(what, line string) error {
	return exit.Fail(exit.Refused, "%s is not for %s: no line of %s on this host allows it; this one would:\n%s %s",
		what, r.peer, r.file, r.peer, line)
}

// thing is a device or file, or a place where one could be.
type thing struct {
	path  string   // by which it was asked for
	names []string // that are certainly its own; the last one is the best
	rdev  uint64   // of a device
	odd   string   // why it can be no standby
}

const aDirectory = "it is a directory"

// is reports whether a target in gate.conf means the thing.
func (t thing) is(target pattern) bool {
	if slices.ContainsFunc(t.names, target.matches) {
		return true
	}
	// The names below /dev/disk are links that udev makes.
	var stat unix.Stat_t
	return t.rdev != 0 && strings.HasPrefix(string(target), "/dev/disk/") && !strings.Contains(string(target), "*") &&
		unix.Stat(string(target), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK && stat.Rdev == t.rdev
}

// identify finds the names of what is open.
func identify(f *os.File) (t thing, err error) {
	t.path = f.Name()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return t, err
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		t.rdev = stat.Rdev
		t.names, err = deviceNames(stat.Rdev)
	case unix.S_IFREG:
		var path string
		if path, err = fileName(f, &stat); err == nil {
			t.names = []string{path}
		}
		if stat.Nlink > 1 {
			t.odd = "the file has other names, too (hard links), and they may be another's"
		}
	case unix.S_IFDIR:
		var path string
		path, err = fileName(f, &stat)
		t.names, t.odd = []string{path}, aDirectory
	default:
		t.odd = "it is neither a block device nor a regular file"
	}
	return t, err
}

// deviceNames are what the kernel calls a device. A logical volume also has the name that LVM gives it, if it is one by
// its UUID: that alone tells it from other devices of device-mapper, and from its own hidden parts.
func deviceNames(rdev uint64) (names []string, err error) {
	sys := dm.SysDir(rdev)
	name, uuid := dm.ReadLine(sys+"/dm/name"), dm.ReadLine(sys+"/dm/uuid")
	if name == "" {
		sys, err = filepath.EvalSymlinks(sys)
		return []string{"/dev/" + filepath.Base(sys)}, err
	}
	if dm.IsHidden(uuid) {
		return nil, nil
	}
	names = []string{"/dev/mapper/" + name}
	if vg, lv, ok := dm.SplitName(name); ok && dm.IsLVM(uuid) {
		names = append(names, "/dev/"+vg+"/"+lv)
	}
	return names, nil
}

// fileName is the path by which a file was opened, its links resolved by the kernel, if it still is the file's.
func fileName(f *os.File, opened *unix.Stat_t) (string, error) {
	path, err := pathOf(f)
	if err != nil {
		return "", err
	}
	var there unix.Stat_t
	if err := unix.Lstat(path, &there); err != nil || there.Dev != opened.Dev || there.Ino != opened.Ino {
		return "", errors.New("it was removed or replaced")
	}
	return path, nil
}

// look finds the names of what a path leads to, or would lead to if there were anything.
func look(path string) (t thing, err error) {
	f, err := openPath(path, 0)
	if err == nil {
		defer f.Close()
		t, err = identify(f)
		t.path = path
		return t, err
	}
	t = thing{path: path, names: []string{filepath.Clean(path)}}
	if vg, lv, ok := dm.PathOfVolume(path); ok {
		t.names = []string{"/dev/mapper/" + dm.VolumeName(vg, lv), "/dev/" + vg + "/" + lv}
		return t, nil
	}
	dir, err := openPath(filepath.Dir(path), unix.O_DIRECTORY)
	if err != nil {
		return t, nil // nothing is there, whatever its name would be
	}
	defer dir.Close()
	real, err := pathOf(dir)
	t.names = []string{filepath.Join(real, filepath.Base(path))}
	return t, err
}

// openPath opens what a path leads to, without touching it.
func openPath(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|mode, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func pathOf(f *os.File) (string, error) { return os.Readlink(self(f)) }

// self is a path of what is open that cannot lead elsewhere.
func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
