// Xen's domains. In a Dom0 whose xenstore cannot be read nothing is known to be free.

package inuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"xen-backup/internal/dm"
)

// domains are the Xen domains that have the target as a disk. Two sources are read, and either one's yes counts: the
// kernel's own list of what xen-blkback serves, and xenstore, where a disk also stands that is served by a QEMU or
// whose domain is just being started.
func (h *host) domains(t *target) ([]string, error) {
	nodes, err := h.blkback(t)
	if err != nil {
		return nil, err
	}
	var store *xenstore // nil outside a Dom0: whoever isn't the backend of others has no such tree
	if dom0, err := h.isDom0(); err != nil {
		return nil, err
	} else if dom0 {
		if store, err = dialXenstore(h.xenstore); err != nil {
			return nil, fmt.Errorf("cannot read xenstore: %w", err)
		}
		defer store.Close()
		found, err := store.disks(t)
		if err != nil {
			return nil, fmt.Errorf("cannot read xenstore: %w", err)
		}
		for node := range found {
			nodes[node] = true
		}
	}
	var users []string
	for node := range nodes {
		users = append(users, describeDisk(store, node))
	}
	slices.Sort(users)
	return users, nil
}

// isDom0 reports whether this host may be serving disks to Xen domains. There are two signs, of which either may be
// missing: xenfs, at /proc/xen, may not be mounted, and the kernel may have no /sys/hypervisor
// (CONFIG_XEN_SYS_HYPERVISOR).
func (h *host) isDom0() (bool, error) {
	if strings.Contains(dm.ReadLine(h.proc+"/xen/capabilities"), "control_d") {
		return true, nil
	}
	hypervisor, err := os.ReadFile(h.sys + "/hypervisor/type")
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(hypervisor)) != "xen" {
		return false, nil
	} else if err != nil {
		return false, err
	}
	const featureDom0 = 1 << 11 // XENFEAT_dom0, xen/include/public/features.h
	features, err := strconv.ParseUint(dm.ReadLine(h.sys+"/hypervisor/properties/features"), 16, 64)
	if err != nil {
		return false, fmt.Errorf("cannot tell whether this is a Dom0: %w", err)
	}
	return features&featureDom0 != 0, nil
}

// blkback returns the xenstore nodes, as backend/vbd/DOMID/DISK, of the disks
// for which the kernel's xen-blkback has the target open.
func (h *host) blkback(t *target) (map[string]bool, error) {
	nodes := make(map[string]bool)
	devices, err := filepath.Glob(h.sys + "/bus/xen-backend/devices/vbd-*")
	for _, dir := range devices {
		rdev, err := dm.ParseMajorMinor(dm.ReadLine(dir+"/physical_device"), 16)
		if _, found := t.devices[rdev]; err == nil && found {
			nodes[dm.ReadLine(dir+"/nodename")] = true
		}
	}
	return nodes, err
}

// disks returns the nodes of the disks that are the target.
func (x *xenstore) disks(t *target) (map[string]bool, error) {
	nodes := make(map[string]bool)
	for _, kind := range []string{"backend/vbd", "backend/qdisk"} {
		domains, err := x.directory(kind)
		if err != nil {
			return nil, err
		}
		for _, domain := range domains {
			disks, err := x.directory(kind + "/" + domain)
			if err != nil {
				return nil, err
			}
			for _, disk := range disks {
				node := kind + "/" + domain + "/" + disk
				if is, err := x.isDisk(node, t); err != nil {
					return nil, err
				} else if is {
					nodes[node] = true
				}
			}
		}
	}
	return nodes, nil
}

// isDisk looks at a disk's number, which the hotplug script writes, and at its
// path, which is there from the first: "/dev/vg/lv" or, for a QEMU, "raw:/dev/vg/lv".
func (x *xenstore) isDisk(node string, t *target) (bool, error) {
	number, err := x.read(node + "/physical-device")
	if err != nil {
		return false, err
	}
	if rdev, err := dm.ParseMajorMinor(number, 16); err == nil {
		if _, found := t.devices[rdev]; found {
			return true, nil
		}
	}
	params, err := x.read(node + "/params")
	_, path, _ := strings.Cut(params, ":")
	return t.isPath(params) || t.isPath(path), err
}

// describeDisk names a disk and its domain as well as the store, if there is one, knows them.
func describeDisk(store *xenstore, node string) string {
	parts := strings.Split(node+"///", "/") // backend, kind, domain, disk
	kind, domain, disk := parts[1], parts[2], parts[3]
	by := map[string]string{"vbd": "xen-blkback", "qdisk": "qemu"}[kind]
	if store == nil {
		return fmt.Sprintf("disk %s of domain %s (%s)", disk, domain, by)
	}
	if dev, err := store.read(node + "/dev"); err == nil && dev != "" {
		disk = dev
	}
	if name, err := store.read("/local/domain/" + domain + "/name"); err == nil && name != "" {
		by = name + ", " + by
	}
	return fmt.Sprintf("disk %s of domain %s (%s)", disk, domain, by)
}
