package snapshot

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/lvm"
	"xen-backup/internal/text"
)

// What tells a snapshot of ours from anybody else's: a logical volume has two tags and a
// name, a file has a record in the state directory (record.go) and a name. Nothing that
// lacks one of them is ever removed or emptied. But a record may be lost: see place.go.

// The tags of a logical volume that xb-snap made. Only a snapshot that has both
// and a name as lvm.Order gives it is ever removed.
const (
	tag      = "xen-backup"
	ownerTag = "xen-backup.owner="
)

var volumeName = text.Pattern(`^xb-.+-[a-z2-7]{8}$`)

// isOurs reports whether xb-snap took it. Somebody may use a tag or a name like ours
// for a volume of his own, so all that it gives a snapshot must be there.
func isOurs(v *lvm.Volume) bool {
	hasOwner := slices.ContainsFunc(v.Tags, func(t string) bool { return strings.HasPrefix(t, ownerTag) })
	return hasOwner && volumeName().MatchString(v.Name) && (v.Thin() || v.ThickSnapshot())
}

// isFileName reports whether the snapshot of a file may have this path.
func isFileName(path string) bool {
	return filepath.IsAbs(path) && blockdev.FileSnapshot().MatchString(filepath.Base(path))
}

// isIts reports whether a file that the record names is the one that it was made for, and
// not another one that somebody has put there. Of ours there is one name only, and nobody
// may write, unless it was made for that.
func (s *fileSnapshot) isIts(info fs.FileInfo) bool {
	stat := info.Sys().(*syscall.Stat_t)
	return info.Mode().IsRegular() && info.Mode().Perm() == s.mode() && stat.Nlink <= 1
}
