package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// Pairs are JSON files, one for each pair of a disk (DOMU/DISK) and a peer, in a directory of their own, which programs
// that do not know them do not see. Whoever changes them has their lock.
type Pairs struct {
	Dir  Dir
	Name string // of the directory
	What string // is kept there, for messages
}

func (p Pairs) directory() string { return filepath.Join(string(p.Dir), p.Name) }

// File is where a pair is kept.
func (p Pairs) File(disk, peer string) string {
	return filepath.Join(p.directory(), url.PathEscape(disk), url.PathEscape(peer)+".json")
}

// CheckPair refuses what cannot be part of a file's name.
func CheckPair(disk, peer string) error {
	for _, name := range []string{disk, peer} {
		if name == "" || strings.HasPrefix(name, ".") || len(url.PathEscape(name)) > 200 {
			return exit.Fail(exit.Usage, "bad name of a disk or host: %q", name)
		}
	}
	return nil
}

// Lock keeps others away that would change something, until it is released: what is counted is read before it is
// written. One who has it is waited for so long.
func (p Pairs) Lock(patience time.Duration) (release func(), err error) {
	release, err = durable.LockFile(filepath.Join(p.directory(), ".lock"), patience)
	if err != nil {
		return nil, exit.Fail(exit.StatusOf(err), "cannot lock %s: %w", p.What, err)
	}
	return release, nil
}

// Read reads what is kept of a pair into v, and reports whether there is anything. What cannot be understood, or does not
// pass the check, is an error with status Config.
func (p Pairs) Read(disk, peer string, v any, check func(disk, peer string) error) (found bool, err error) {
	file := p.File(disk, peer)
	text, err := durable.ReadSmall(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, exit.Fail(exit.IOError, "cannot read %s: %w", p.What, err)
	}
	if err = json.Unmarshal(text, v); err == nil {
		err = check(disk, peer)
	}
	if err != nil {
		return false, exit.Fail(exit.Config, "%s cannot be used: %w", file, err)
	}
	return true, nil
}

// Write keeps v, durably. It needs the lock.
func (p Pairs) Write(disk, peer string, v any) error {
	p.sweep(disk)
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return exit.Fail(exit.Internal, "%s: %w", p.What, err)
	}
	return durable.WriteFile(p.File(disk, peer), append(text, '\n'))
}

// Remove removes what is kept of a pair, durably. It needs the lock.
func (p Pairs) Remove(disk, peer string) error {
	p.sweep(disk)
	file := p.File(disk, peer)
	err := os.Remove(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return exit.Fail(exit.CantCreate, "cannot remove %s: %w", p.What, err)
	}
	return durable.SyncDir(filepath.Dir(file))
}

// sweep removes what was left by those that were killed while they wrote.
func (p Pairs) sweep(disk string) {
	path := filepath.Join(p.directory(), url.PathEscape(disk))
	left, _ := os.ReadDir(path)
	for _, file := range left {
		if strings.HasPrefix(file.Name(), ".") {
			os.Remove(filepath.Join(path, file.Name()))
		}
	}
}

// Each calls see with each pair of the disks that are wanted, in the order of their names; with an error, and no peer, if
// those of a disk cannot be listed.
func (p Pairs) Each(wanted func(disk string) bool, see func(disk, peer string, err error)) error {
	disks, err := os.ReadDir(p.directory())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return exit.Fail(exit.IOError, "cannot read %s: %w", p.What, err)
	}
	for _, d := range disks {
		disk, err := url.PathUnescape(d.Name())
		if err != nil || !d.IsDir() || !wanted(disk) {
			continue
		}
		files, err := os.ReadDir(filepath.Join(p.directory(), d.Name()))
		if err != nil {
			see(disk, "", exit.Fail(exit.IOError, "cannot read %s: %w", p.What, err))
		}
		for _, f := range files {
			peer, isOne := strings.CutSuffix(f.Name(), ".json")
			if peer, err = url.PathUnescape(peer); err == nil && isOne && !strings.HasPrefix(peer, ".") {
				see(disk, peer, nil)
			}
		}
	}
	return nil
}
