package snapshot

import (
	"slices"
	"sync"

	"xen-backup/internal/dm"
	"xen-backup/internal/lvm"
	"xen-backup/internal/state"
)

// volumeWatch lists the thin snapshots that xb-snap took. LVM is asked only when there
// is another set of them, and in the background: it may have to wait for its locks,
// and the file systems must be watched meanwhile.
type volumeWatch struct {
	dir state.Dir
	sync.Mutex
	names   []string // active devices that look like our snapshots, when LVM was asked
	asking  bool
	volumes []*Snapshot
	err     error
}

// list returns what LVM said last.
func (w *volumeWatch) list() ([]*Snapshot, error) {
	w.Lock()
	defer w.Unlock()
	names := dm.VolumeSnapshots()
	if !w.asking && (w.err != nil || !slices.Equal(names, w.names)) {
		w.asking, w.names = true, names
		go w.ask()
	}
	return w.volumes, w.err
}

func (w *volumeWatch) ask() {
	volumes, err := lvm.List()
	w.Lock()
	defer w.Unlock()
	w.asking, w.err = false, err
	if err != nil {
		return
	}
	w.volumes = nil
	for _, s := range takenVolumes(volumes, w.dir) {
		if s.sharesRoom() {
			w.volumes = append(w.volumes, s)
		}
	}
}
