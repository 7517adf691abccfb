package snapshot

import (
	"errors"
	"os"
	"os/exec"
	"slices"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// List returns all snapshots that xb-snap took. Even with an error, those that it
// returns are there.
func List(dir state.Dir) ([]*Snapshot, error) {
	all, _, err := taken(dir)
	return all, errors.Join(err, addPeers(all, dir))
}

// addPeers has the snapshots that are bases know whose.
func addPeers(all []*Snapshot, dir state.Dir) error {
	chains, err := base.All(dir)
	for _, c := range chains {
		for _, r := range c.Records() {
			for _, s := range all {
				if s.Path == r.Snapshot && s.Owner.isBase() && !slices.Contains(s.Peers, r.Peer) {
					s.Peers = append(s.Peers, r.Peer)
				}
			}
		}
	}
	return err
}

// taken returns all snapshots, and what LVM said, nil on a host without it.
func taken(dir state.Dir) ([]*Snapshot, *lvm.Volumes, error) {
	all, fileErr := takenFiles(dir)
	volumes, err := lvm.List()
	if errors.Is(err, exec.ErrNotFound) { // a host without LVM
		return all, nil, fileErr
	} else if err != nil {
		return all, nil, errors.Join(fileErr, err)
	}
	return append(all, takenVolumes(volumes, dir)...), volumes, fileErr
}

// takenAmong returns all snapshots that can be among these paths: LVM is not asked for files.
func takenAmong(paths []string, dir state.Dir) ([]*Snapshot, *lvm.Volumes, error) {
	for _, path := range paths {
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || blockdev.BelowDev(path) {
			return taken(dir)
		}
	}
	all, err := takenFiles(dir)
	return all, nil, err
}

// Check says in words how full the snapshot at path is. The error's status is BadSnapshot
// if its content is not to be had.
func Check(path string, dir state.Dir) (string, error) {
	use, err := checkFile(path, dir)
	if err == nil && use == "" {
		use, err = lvm.Check(path)
	}
	return use, err
}
