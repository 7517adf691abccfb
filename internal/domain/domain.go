// Package domain finds a domain's disks and whether it is active on this host, and keeps
// the documents of other hosts' domains. It never says no without an answer of every
// toolstack that is installed, and overlooks no disk: one that can't be copied is an error.
//
// It reads libvirt's domain XML (any driver) and the JSON of `xl list -l`, resolves every
// source to what it really is, and asks virsh and xl. A disk is judged by what its source
// resolves to, never by the driver's name: libvirt's libxl driver shows phy:/dev/VG/LV as
// a disk of type file with a driver called qemu.
package domain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/inuse"
	"xen-backup/internal/text"
)

// Domain is what one document says of a domain.
type Domain struct {
	Name  string
	UUID  string
	ID    string // "" in a document of an inactive domain
	Type  string // xen, kvm, qemu, test
	Disks []Disk

	NVRAM string // file with the variables of its UEFI firmware
	TPM   string // directory with the state of an emulated TPM

	Passing bool // the document is of what runs, not of what is kept: xl may have made up the UUID

	text string // of a document that could not be read, in place of Disks
}

// Disk is one disk of a domain, as its document has it.
type Disk struct {
	Target       string // the guest's name for it: xvda
	Device       string // disk, lun, cdrom or floppy
	Source       string // path on this host; "" if there is no medium
	Pool, Volume string // of libvirt's storage, in place of Source
	Remote       bool   // its data is not on this host, and every host reaches it
	Format       string // of the image; "" is raw
	ReadOnly     bool
	Shareable    bool
	Transient    bool
	Standalone   bool   // the document says that no backing store lies below
	Trouble      string // why the form alone makes it impossible to copy; "" if nothing
}

// Words are for the user.
type Words interface {
	Error(format string, args ...any) // what has failed although all else goes on
	Warn(format string, args ...any)
	Note(format string, args ...any) // what a user should know and a log may keep to itself
	Info(format string, args ...any)
}

// CheckNames refuses what cannot be the names of domains.
func CheckNames(names ...string) error {
	for _, name := range names {
		if strings.TrimSpace(name) != name || name != text.Printable(name) {
			return exit.Fail(exit.Usage, "bad name of a domain: %q", name)
		}
	}
	return nil
}

// KeptUUID returns the UUID that a document keeps, "" if there is none: xl gives a domain
// without one in its configuration another at every start.
func (d *Domain) KeptUUID() string {
	if d.Passing {
		return ""
	}
	return d.UUID
}

// checkTargets refuses a document in which a target is missing or ambiguous:
// --exclude and the order of disks would mean nothing in it.
func (d *Domain) checkTargets() error {
	seen := make(map[string]bool)
	for i, disk := range d.Disks {
		switch {
		case disk.Target == "":
			return fmt.Errorf("disk %d has no target", i+1)
		case !printable(disk.Target):
			return fmt.Errorf("disk %d has the target %q", i+1, disk.Target)
		case seen[disk.Target]:
			return fmt.Errorf("two disks have the target %s", disk.Target)
		}
		seen[disk.Target] = true
	}
	return nil
}

// Entry is a disk after judging it.
type Entry struct {
	Target string `json:"target"`
	Source string `json:"source"` // a name that stays: /dev/VG/LV for a logical volume
	Device string `json:"device"`
	Skip   string `json:"skip,omitempty"` // why it is not to be copied; "" if it is
	Failed bool   `json:"-"`              // Skip says why it can't be, although it should
	Notice string `json:"-"`              // what the user should hear of it
}

// IsNamed reports whether it is not copied, and yet stays in the document by which its domain is started on another host.
func (e *Entry) IsNamed() bool {
	return slices.Contains([]string{readOnly, shareable, transient}, e.Skip) && strings.HasPrefix(e.Source, "/")
}

// Judge decides about disks.
type Judge struct {
	Resolver Resolver
	// Users says in words who uses a file or device. An error has status Unavailable:
	// it can't be told, which is not "nobody".
	Users func(path string) ([]string, error)
	// Hidden reports whether a logical volume, by its UUID for device-mapper, is a pool or a
	// part of another volume.
	Hidden func(uuid string) (bool, error)
	// VolumePath asks libvirt for the path of a storage volume.
	VolumePath func(pool, volume string) (string, error)
	Exclude    []string // targets to leave out
}

// NewJudge returns one who judges the disks of this host. uri is libvirt's.
func NewJudge(ctx context.Context, uri string, exclude []string, hidden func(uuid string) (bool, error)) *Judge {
	libvirt := newVirsh(uri)
	return &Judge{
		Resolver: Resolver{Sys: "/sys", Dev: "/dev"},
		Users:    func(path string) ([]string, error) { return inuse.Users(path, ours) },
		Hidden:   hidden,
		VolumePath: func(pool, volume string) (string, error) {
			return libvirt.volumePath(ctx, pool, volume)
		},
		Exclude: exclude,
	}
}

// ours reports whether a process, by its comm, is a command of xen-backup: a standby that
// xb-patch writes to is no running domain.
func ours(comm string) bool { return strings.HasPrefix(comm, "xb-") }

// Disks judges all disks of d, in the document's order.
func (j *Judge) Disks(d *Domain) []Entry {
	entries := []Entry{}
	for _, disk := range d.Disks {
		e := Entry{Target: disk.Target, Device: disk.Device, Source: disk.Source}
		if e.Skip = disk.leftOut(); slices.Contains(j.Exclude, disk.Target) {
			e.Skip = "excluded"
		}
		switch e.Skip {
		case "":
			if err := j.resolve(disk, &e); err != nil {
				e.Skip, e.Failed = err.Error(), true
			}
		case shareable, transient:
			e.Notice = "left out: it is " + e.Skip
		}
		entries = append(entries, e)
	}
	return entries
}

// InUse says which disk of d that its guest would write to is in use and by whom:
// "xvda (/dev/vg/lv) is in use: mounted on /srv"; "" if there is none. Whether it
// is to be copied or can be does not matter.
func (j *Judge) InUse(d *Domain) (string, error) {
	for _, disk := range d.Disks {
		if why := disk.leftOut(); why != "" && why != transient {
			continue
		}
		path, err := j.path(disk)
		if err != nil {
			continue
		}
		found, _ := j.Resolver.Resolve(path)
		if !found.exists {
			continue
		}
		users, err := j.Users(found.Path)
		if err != nil {
			return "", err
		}
		if len(users) > 0 {
			return fmt.Sprintf("%s (%s) is in use: %s", disk.Target, found.Path, strings.Join(users, ", ")), nil
		}
	}
	return "", nil
}

// isMedium reports whether it can be taken out of its drive.
func (d *Disk) isMedium() bool { return d.Device == "cdrom" || d.Device == "floppy" }

// source names a disk's source in words, as the document has it.
func (d *Disk) source() string {
	if d.Volume != "" {
		return "storage volume " + d.Pool + "/" + d.Volume
	}
	return d.Source
}

// path returns the path of a disk's source.
func (j *Judge) path(d Disk) (string, error) {
	if d.Volume == "" {
		return d.Source, nil
	}
	path, err := j.VolumePath(d.Pool, d.Volume)
	if err != nil {
		return "", fmt.Errorf("storage volume %s/%s cannot be resolved: %w", d.Pool, d.Volume, err)
	}
	return path, nil
}

// Reasons to leave a disk out that may surprise its owner.
const (
	readOnly  = "read-only"
	shareable = "shareable" // others write to it too: there is no moment in which it is whole
	transient = "transient" // its changes are to be forgotten
)

// leftOut returns why a disk is never copied, "" if it is.
func (d *Disk) leftOut() string {
	switch {
	case d.isMedium():
		return d.Device
	case d.ReadOnly:
		return readOnly
	case d.Shareable:
		return shareable
	case d.Transient:
		return transient
	case d.Source == "" && d.Volume == "" && d.Trouble == "":
		return "empty"
	}
	return ""
}

// resolve fills in e's source, or returns why the disk can't be copied.
func (j *Judge) resolve(d Disk, e *Entry) error {
	if d.Trouble != "" {
		return fmt.Errorf("%s", d.Trouble)
	}
	if d.Volume != "" {
		e.Source = d.Pool + "/" + d.Volume
	}
	path, err := j.path(d)
	if err != nil {
		return err
	}
	e.Source = path
	if !printable(e.Source) || !strings.HasPrefix(e.Source, "/") {
		return fmt.Errorf("source %q is not the path of a file or device", e.Source)
	}
	found, err := j.Resolver.Resolve(e.Source)
	if isMissing(err) {
		// No error: the document may be another host's, and whoever opens the
		// disk fails loudly.
		e.Notice = err.Error()
	} else if err != nil {
		return err
	}
	e.Source = found.Path
	if err := j.checkVolume(found); err != nil {
		return err
	}
	return checkFormat(d, found)
}

// checkVolume refuses a logical volume that no guest can mean.
func (j *Judge) checkVolume(s Source) error {
	if s.volume == "" {
		return nil
	}
	hidden, err := j.Hidden(s.volume)
	switch {
	case err != nil:
		return fmt.Errorf("%s: cannot tell what kind of logical volume it is: %w", s.Path, err)
	case hidden:
		return fmt.Errorf("%s is a hidden device of LVM: a pool, or a part of another volume", s.Path)
	}
	return nil
}

// printable reports whether s can stand in a line of our output, as it is.
func printable(s string) bool { return !strings.Contains(s, "\t") && text.Printable(s) == s }
