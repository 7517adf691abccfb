package snapshot

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Owner is the process that uses a snapshot: when it is dead, the snapshot is a
// leftover. It is written as PID.START.BOOT: the process's start time in clock
// ticks and the first eight characters of the kernel's boot id tell it from a
// later one with the same number.
type Owner string

const nobody Owner = "none" // kept until somebody removes it by name

// A snapshot that is the base of peers has no process: it stays until what is remembered of bases (room base) says that
// it is none any more, or it is removed by name, or must give way to a guest. The peer that it was first kept for is
// named for people: it may be the base of others, too.
const basePrefix = "base:"

var notInTags = text.Pattern(`[^A-Za-z0-9_+.:/-]`)

func baseOf(peer string) Owner {
	return Owner(basePrefix + inTag(peer))
}

// inTag returns a word as it may stand in a tag of LVM, and ofTag what it was.
func inTag(word string) string {
	return notInTags().ReplaceAllStringFunc(word, func(c string) string { return fmt.Sprintf("#%x", c) })
}

var hexInTags = text.Pattern(`#[0-9a-f]{2}`)

func ofTag(word string) string {
	return hexInTags().ReplaceAllStringFunc(word, func(c string) string {
		b, _ := hex.DecodeString(c[1:])
		return string(b)
	})
}

func (o Owner) isBase() bool { return strings.HasPrefix(string(o), basePrefix) }

// A point in time has no process either. Its owner names the set that the image came in, "-" for an image that came alone.
const pointPrefix = "point:"

func pointOf(set string) Owner { return Owner(pointPrefix + cmp.Or(set, "-")) }

func (o Owner) isPoint() bool { return strings.HasPrefix(string(o), pointPrefix) }

// FindOwner returns the owner that a word stands for: a process id or "none"; by default
// the parent of this process, which itself ends at once.
func FindOwner(word string) (Owner, error) {
	if word == string(nobody) {
		return nobody, nil
	}
	pid := os.Getppid()
	if word != "" {
		var err error
		if pid, err = strconv.Atoi(word); err != nil || pid <= 0 {
			return "", exit.Fail(exit.Usage, "--owner %s: want a process id or none", word)
		}
	}
	start, err := startTime(pid)
	if err != nil {
		return "", exit.Fail(exit.Usage, "the owner of the snapshots, process %d, is not running: see --owner", pid)
	}
	boot, err := bootID()
	return Owner(fmt.Sprintf("%d.%s.%s", pid, start, boot)), err
}

var ownerWords = text.Pattern(`^([1-9][0-9]{0,9})\.([0-9]+)\.([0-9a-f]{8})$`)

// dead reports whether the owner can never come back to its snapshot. Of an owner
// that it can't read, it doesn't say so.
func (o Owner) dead() bool {
	words := ownerWords().FindStringSubmatch(string(o))
	if words == nil {
		return false
	}
	boot, err := bootID()
	if err != nil {
		return false
	}
	pid, _ := strconv.Atoi(words[1])
	start, err := startTime(pid)
	return boot != words[3] || err != nil || start != words[2]
}

// String describes the owner for list.
func (o Owner) String() string {
	switch pid, _, ok := strings.Cut(string(o), "."); {
	case o == nobody:
		return "no owner"
	case o.isBase():
		return "base"
	case o.isPoint():
		return "point in time"
	case !ok:
		return "unknown owner"
	case o.dead():
		return "dead " + pid
	default:
		return "process " + pid
	}
}

// startTime returns when a process started, in clock ticks since boot (field 22
// of proc_pid_stat(5)). A zombie is an error: it uses nothing any more.
func startTime(pid int) (string, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name, field 2, is in parentheses and may itself have some, and blanks.
	fields := strings.Fields(string(line[strings.LastIndexByte(string(line), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(id) < 8 {
		return "", exit.Fail(exit.Internal, "cannot tell this boot from another: %v", err)
	}
	return string(id[:8]), nil
}
