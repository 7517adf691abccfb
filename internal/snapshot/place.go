package snapshot

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"xen-backup/internal/durable"
	"xen-backup/internal/state"
)

// What a host remembers of its snapshots may be lost, or be restored from a backup: then some are here that nothing
// names any more. And more than one host, or state directory, may see the same storage, where nothing names those of
// the others either. So each snapshot says itself by whom it was taken, a logical volume in a tag, a file in an
// attribute that only root can give, and nobody removes what another one has taken as nothing that is needed.

// placeTag is of a state directory.
const placeTag = "xen-backup.state="

// placeOf tells a state directory from all others, those of other hosts too, and is the same when what was in it is
// lost.
func placeOf(dir state.Dir) string {
	return fmt.Sprintf("%.8x", sha256.Sum256([]byte(machine()+"\n"+absolute(dir))))
}

func absolute(dir state.Dir) string {
	if path, err := filepath.Abs(string(dir)); err == nil {
		return path
	}
	return string(dir)
}

// machine names this host. Its name may change, or be another one's too, which its number is not meant to.
func machine() string {
	for _, file := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if id, err := os.ReadFile(file); err == nil && len(id) > 0 {
			return strings.TrimSpace(string(id))
		}
	}
	name, _ := os.Hostname()
	return name
}

// isForeign reports whether the tags of a volume say that another host or state directory has it. An older version has
// given none.
func isForeign(tags []string, dir state.Dir) bool {
	return slices.ContainsFunc(tags, func(t string) bool { return strings.HasPrefix(t, placeTag) }) &&
		!slices.Contains(tags, placeTag+placeOf(dir))
}

// markName is of the attribute of a file that a run takes. A point in time and what somebody takes for himself have none:
// they are nobody's to remove, whatever is remembered of them.
const markName = "trusted.xen-backup"

// mark has the file say by whom it is taken. Where files have no attributes it is known by its record alone.
func (s *fileSnapshot) mark() {
	if ownerWords().MatchString(string(s.Owner)) {
		unix.Fsetxattr(int(s.clone.Fd()), markName, []byte(placeOf(s.dir)+" "+string(s.Owner)), 0)
	}
}

// removeLost removes those snapshots of files that runs of this host have taken, and of which no record is left: nobody
// else would ever find them.
func removeLost(sources []string, dir state.Dir, words Words) {
	for _, source := range sources {
		if is, err := isFile(source); !is || err != nil {
			continue
		}
		if origin, err := realPath(source); err == nil {
			err = removeLostOf(origin, dir, words)
			if err != nil {
				words.Warn("snapshots of %s may be left that nothing names any more: %v", origin, err)
			}
		}
	}
}

func removeLostOf(origin string, dir state.Dir, words Words) error {
	paths := lookalikes(origin)
	if len(paths) == 0 {
		return nil
	}
	// A record is there before its file and goes after it: what had none when it was seen here, and has none now, will
	// have none. Its directory may have had another name then, but in the file's own there is which run it is of.
	files, bad, err := fileSnapshots(dir)
	if err != nil {
		return err
	}
	recorded := make(map[string]bool)
	for _, s := range files {
		recorded[runOf(s.Snapshot)] = true
	}
	for _, d := range bad {
		recorded[d.run()] = true
	}
	for _, path := range paths {
		if recorded[runOf(path)] || !isLost(path, dir) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		words.Warn("snapshot %s removed: nothing in %s names it any more", path, dir)
	}
	return durable.SyncDir(filepath.Dir(origin))
}

// runOf returns which run the snapshot of a file is of, by its name.
func runOf(path string) string { return path[max(0, len(path)-runLength):] }

// isLost reports whether a run of this host, which is over, has made the file.
func isLost(path string, dir state.Dir) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	mark := make([]byte, 256)
	n, err := unix.Fgetxattr(int(f.Fd()), markName, mark)
	if err != nil {
		return false
	}
	place, owner, _ := strings.Cut(string(mark[:n]), " ")
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular() && info.Sys().(*syscall.Stat_t).Nlink == 1 &&
		place == placeOf(dir) && Owner(owner).dead()
}
