package snapshot

import (
	"errors"
	"fmt"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
)

// Identity returns what a snapshot is known by, as long as it certainly is what it was: if two answers are equal,
// nobody has written to it between them and it is the same one. Of a logical volume these are its UUID, its origin's
// and its size, while nobody may write to it; of a file its file system, subvolume, inode, generation, size and times.
// Where that cannot be told, for who may write to it or where its content is lost, it is an error, of status
// BadSnapshot.
func Identity(path string) (string, error) {
	is, err := isFile(path)
	switch {
	case err != nil:
		return "", err
	case is:
		return fileIdentity(path)
	}
	return lvm.Identity(path)
}

// fileIdentity goes by the times that only the kernel sets: root can write to any file.
func fileIdentity(path string) (string, error) {
	f, err := blockdev.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.OS().Stat()
	if err != nil {
		return "", err
	}
	switch {
	case f.Size() == 0:
		return "", blockdev.GivenUp(path)
	case info.Mode().Perm()&0o222 != 0:
		return "", exit.Fail(exit.BadSnapshot, "%s can be written to: nobody can tell that it is what it was", path)
	}
	id, err := blockdev.IdentityOf(f.OS())
	if errors.Is(err, errors.ErrUnsupported) {
		return "", exit.Fail(exit.Usage, "%s: nobody can tell that it is what it was: it is neither on XFS nor on btrfs", path)
	} else if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s file %s, %d bytes of %s, changed %s", id.FileSystem, id.Handle, id.Size, id.Modified, id.Changed), nil
}
