package allow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// gate.conf has a line for each disk that a host may keep a standby of here, and for each DomU that it may start here:
//
//	PEER DOMU/DISK TARGET [create-lv] [document-only]
//	PEER DOMU [promote] [memory]
//
// PEER is the name that the key of that host has in authorized_keys, TARGET an absolute path as this host has it, without
// links, or such a one as a file: URI. In DOMU/DISK and in a plain TARGET * stands for any characters but /. A TARGET that
// is a logical volume is called /dev/VG/LV. Empty lines, and what begins with #, mean nothing.
//
// TARGET network, of a document-only line, is any disk that is reached over the network.
//
// create-lv lets a missing volume be created. document-only lets a document of the DomU name TARGET as that disk, and
// nobody write to it or read it.

const network = "network"

// A Verb is what another host may have done with a DomU here.
type Verb string

const (
	Promote Verb = "promote" // start it from its standbys
	Memory  Verb = "memory"  // bring its memory here, restore it from that, let it go on, or give that up
)

// Verbs are all of them.
var Verbs = []string{string(Promote), string(Memory)}

// permit lets a peer have something done with some DomUs.
type permit struct {
	domu pattern
	verb Verb
}

// rule is one line of one peer's.
type rule struct {
	disk, target           pattern
	createLV, documentOnly bool
}

func (l rule) isWritable() bool { return !l.documentOnly }

// Read returns what file allows a peer. A file that is not there allows nothing. One that somebody else than root could
// have written to is none.
func Read(file, peer string) (*Rules, error) {
	r := &Rules{file: file, peer: peer}
	content, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, exit.Fail(exit.Config, "cannot read what %s may do here: %w", peer, err)
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		if err := r.add(strings.Fields(line)); err != nil {
			return nil, exit.Fail(exit.Config, "%s: line %d: %w", file, number, err)
		}
	}
	return r, nil
}

func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		return nil, fmt.Errorf("others than root may write to %s: chown root %s; chmod 644 %s", file, file, file)
	}
	return durable.ReadSmall(file)
}

// add takes the words of a line. Those of other peers have to be right, too.
func (r *Rules) add(words []string) error {
	switch {
	case len(words) == 0 || words[0][0] == '#':
		return nil
	case len(words) < 3:
		return errors.New("want PEER DOMU/DISK TARGET, or PEER DOMU promote|memory")
	case !strings.Contains(words[1], "/"):
		return r.addPermits(words)
	}
	l := rule{disk: pattern(words[1])}
	if strings.Count(words[1], "/") != 1 || words[1][0] == '/' || strings.HasSuffix(words[1], "/") {
		return fmt.Errorf("%q is neither DOMU/DISK, as in domu1/xvda, nor a DOMU", words[1])
	}
	path, err := text.Path(words[2])
	switch {
	case words[2] == network:
	case err != nil:
		return err
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return fmt.Errorf("%q is no absolute path without detours", path)
	case path != words[2] && strings.Contains(path, "*"):
		return fmt.Errorf("a file whose name has a * cannot be named here")
	}
	l.target = pattern(path)
	for _, word := range words[3:] {
		switch word {
		case "create-lv":
			l.createLV = true
		case "document-only":
			l.documentOnly = true
		default:
			return fmt.Errorf("%q is neither create-lv nor document-only", word)
		}
	}
	switch {
	case l.createLV && l.documentOnly:
		return errors.New("create-lv and document-only exclude each other")
	case l.target == network && !l.documentOnly:
		return errors.New("network goes with document-only")
	}
	if words[0] == r.peer {
		r.rules = append(r.rules, l)
	}
	return nil
}

// addPermits takes the words of a line PEER DOMU VERB...
func (r *Rules) addPermits(words []string) error {
	for _, word := range words[2:] {
		if !slices.Contains(Verbs, word) {
			return fmt.Errorf("%q is nothing that can be done with the DomU %s; a disk is DOMU/DISK, as in domu1/xvda", word, words[1])
		}
		if words[0] == r.peer {
			r.permits = append(r.permits, permit{pattern(words[1]), Verb(word)})
		}
	}
	return nil
}

// pattern is a name in which * stands for any characters but /.
type pattern string

func (p pattern) matches(name string) bool {
	head, tail, is := strings.Cut(string(p), "*")
	rest, found := strings.CutPrefix(name, head)
	if !is || !found {
		return string(p) == name
	}
	for i := 0; ; i++ {
		if pattern(tail).matches(rest[i:]) {
			return true
		}
		if i == len(rest) || rest[i] == '/' {
			return false
		}
	}
}
