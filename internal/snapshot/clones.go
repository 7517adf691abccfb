package snapshot

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/state"
)

// While a file is cloned its writers wait. On XFS each base has the guest's writes scatter the file over more extents,
// and the next clone takes longer. So a host remembers of which files that took too long, and how often in a row.

// slowClone is how long a clone may take: a guest notices what takes longer.
var slowClone = 300 * time.Millisecond

// countLimit bounds what it costs to count the extents of a file, of which only people are told.
const countLimit = time.Second

// slowClones are the clones of a file that took too long: a file STATE_DIR/clones/HASH.json, which is not there if the
// last one did not.
type slowClones struct {
	Origin  string  `json:"origin"`
	InARow  int     `json:"in_a_row"`
	Seconds float64 `json:"seconds"` // of the last one
	Extents int64   `json:"extents,omitempty"`
	System  string  `json:"file_system,omitempty"`
}

// String says what that does to the guest, and what helps.
func (s *slowClones) String() string {
	extents, cure := "", "run xfs_fsr "+s.Origin+" while no base is kept, or put it on btrfs or a thin volume"
	if s.Extents > 0 {
		extents = fmt.Sprintf(", which has %d extents", s.Extents)
	}
	if strings.HasPrefix(s.System, "btrfs ") {
		cure = "run btrfs filesystem defragment " + s.Origin + " while no base is kept, or put it on a thin volume"
	}
	return fmt.Sprintf("the guest's writes waited %.1f s for the last snapshot of %s%s, and too long for the one before: %s",
		s.Seconds, s.Origin, extents, cure)
}

func slowClonesFile(dir state.Dir, origin string) string {
	return filepath.Join(string(dir), "clones", fmt.Sprintf("%x.json", sha256.Sum256([]byte(origin))))
}

// slowClonesOf returns what is remembered of a file; what cannot be read is as nothing.
func slowClonesOf(dir state.Dir, origin string) slowClones {
	var s slowClones
	text, err := durable.ReadSmall(slowClonesFile(dir, origin))
	if err != nil || json.Unmarshal(text, &s) != nil || s.Origin != origin {
		return slowClones{Origin: origin}
	}
	return s
}

// rememberClone remembers how long the clone took, if it is for the next run to know.
func (s *fileSnapshot) rememberClone(dir state.Dir) error {
	file := slowClonesFile(dir, s.Origin)
	if s.CloneSeconds <= slowClone.Seconds() {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return exit.Fail(exit.CantCreate, "cannot remove what is over: %w", err)
		}
		return nil
	}
	slow := slowClonesOf(dir, s.Origin)
	slow.InARow, slow.Seconds, slow.Extents = slow.InARow+1, s.CloneSeconds, s.Extents
	if s.Identity != nil {
		slow.System = s.Identity.FileSystem
	}
	text, err := json.Marshal(slow)
	if err != nil {
		return exit.Fail(exit.Internal, "memory of clones: %w", err)
	}
	return durable.WriteFile(file, append(text, '\n'))
}
