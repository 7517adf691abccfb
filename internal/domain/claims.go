package domain

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"xen-backup/internal/exit"
)

// Claim is a domain that has a file or device among its disks, whether it is active or not.
type Claim struct {
	Name   string
	UUID   string // "" if the toolstack keeps none
	Target string // the guest's name for the disk
}

func (c Claim) String() string {
	s := c.Name
	if c.UUID != "" {
		s += " (" + c.UUID + ")"
	}
	return s + ", as its disk " + c.Target
}

// Of reports whether the claim is that of a domain, of which the UUID may not be known.
// A domain keeps its UUID when it gets another name, and another one can have its name.
func (c Claim) Of(name, uuid string) bool {
	if c.UUID == "" || uuid == "" {
		return c.Name == name
	}
	return strings.EqualFold(c.UUID, uuid)
}

// Claims returns who, of the domains that the toolstacks of this host know, has path
// among its disks. Where there is no toolstack there are no domains. choice is as for
// Installed.
func Claims(ctx context.Context, choice, path string) ([]Claim, error) {
	toolstacks, err := Installed(choice, "", "")
	if err != nil {
		return nil, nil
	}
	l := Locator{Toolstacks: toolstacks}
	return l.claims(ctx, path, newVirsh("").volumePath)
}

func (l *Locator) claims(
	ctx context.Context, path string, volumePath func(context.Context, string, string) (string, error),
) (claims []Claim, err error) {
	seen := make(map[Claim]bool)
	for _, list := range l.lists() {
		var domains []*Domain
		listing, err := list.get(ctx)
		if err == nil {
			domains, err = listing.Documents(ctx)
		}
		if err != nil {
			return nil, exit.Fail(exit.Unavailable, "cannot tell whose disk %s is: %w", path, err)
		}
		for _, d := range domains {
			c := Claim{Name: d.Name, UUID: d.KeptUUID()}
			c.Target = d.targetOf(path, func(pool, volume string) (string, error) { return volumePath(ctx, pool, volume) })
			if c.Target != "" && !seen[c] {
				seen[c] = true
				claims = append(claims, c)
			}
		}
	}
	return claims, nil
}

// targetOf returns the guest's name for a file or device, "" if the domain does not have it.
func (d *Domain) targetOf(path string, volumePath func(pool, volume string) (string, error)) string {
	if strings.Contains(d.text, path) {
		return "(its configuration cannot be read)"
	}
	for _, disk := range d.Disks {
		if disk.Remote {
			continue
		}
		source := disk.Source
		if disk.Volume != "" {
			var err error
			if source, err = volumePath(disk.Pool, disk.Volume); err != nil {
				// Its pool is not active. It may be this one all the same.
				source = filepath.Join(filepath.Dir(path), filepath.Base(disk.Volume))
			}
		}
		if source != "" && sameImage(source, path) {
			return disk.Target
		}
	}
	return ""
}

// sameImage reports whether two paths are one file or device, or would be if they were there.
func sameImage(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	if err != nil {
		return false
	}
	if first.Mode().Type() == fs.ModeDevice && second.Mode().Type() == fs.ModeDevice {
		return first.Sys().(*syscall.Stat_t).Rdev == second.Sys().(*syscall.Stat_t).Rdev
	}
	return os.SameFile(first, second)
}

// MigratedAway says in words whether libvirt knows the domain as one that has left this
// host by a live migration; "" if not, or if it cannot be told. Whether its disks went
// with it or are the only good ones, nobody but the administrator can tell.
func MigratedAway(ctx context.Context, name string) string {
	listing, err := newVirsh("").List(ctx)
	if err != nil {
		return ""
	}
	a, err := listing.Ask(ctx, name)
	if err != nil || a.State != "shut off (migrated)" {
		return ""
	}
	return fmt.Sprintf("%s was migrated away from here (virsh: %s)", name, a.State)
}
