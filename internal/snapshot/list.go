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
func List(dir state.Dir, words Words) ([]*Snapshot, error) {
	found, err := taken(dir)
	found.warnOfDamaged(words.Warn)
	return found.all, errors.Join(err, addPeers(found.all, dir))
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

// inventory is what xb-snap took. Even with an error, what is in it is there.
type inventory struct {
	all     []*Snapshot
	damaged []*damaged
	volumes *lvm.Volumes // nil on a host without LVM, or where that was not asked
}

// taken finds all snapshots.
func taken(dir state.Dir) (*inventory, error) {
	found, fileErr := takenFiles(dir)
	volumes, err := lvm.List()
	if errors.Is(err, exec.ErrNotFound) { // a host without LVM
		return found, fileErr
	} else if err != nil {
		return found, errors.Join(fileErr, err)
	}
	found.all, found.volumes = append(found.all, takenVolumes(volumes, dir)...), volumes
	return found, fileErr
}

// takenAmong finds all snapshots that can be among these paths: LVM is not asked for files.
func takenAmong(paths []string, dir state.Dir) (*inventory, error) {
	for _, path := range paths {
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || blockdev.BelowDev(path) {
			return taken(dir)
		}
	}
	return takenFiles(dir)
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
