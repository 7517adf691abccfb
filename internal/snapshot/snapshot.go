// Package snapshot takes snapshots of logical volumes, thick or thin, and of files on a
// file system with reflinks, and takes them away again.
//
// What it promises: snapshots of several disks are taken all or none, whether a step fails
// or a signal comes in between. Each has an owner, and is a leftover when that is dead.
// Nothing is ever removed or emptied that this package has not made. And no snapshot stops
// a guest: where one takes the room that a guest needs, the snapshot gives way.
package snapshot

// Words are for the user.
type Words interface {
	Warn(format string, args ...any)
	Info(format string, args ...any)
}

// Tell hands over the paths of snapshots, of which the user must know. An error says that
// nobody was told.
type Tell func(paths ...string) error
