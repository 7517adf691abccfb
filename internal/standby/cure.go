package standby

import (
	"cmp"
	"os"
	"strings"
)

// What is to be done about a refusal is told in the words of whoever has to do it: options of this program, or, of a
// run of xen-backup.sh, the settings and commands of its administrator.

// cure returns plain, or managed where the run is one of xen-backup.sh.
func (t *target) cure(plain, managed string) string {
	if t.Managed {
		return managed
	}
	return plain
}

// forceCure is what overwrites changes that exist nowhere else.
func (t *target) forceCure() string {
	name, _, _ := strings.Cut(t.Disk, "/")
	return t.cure("--force-diverged", "on "+cmp.Or(t.Peer, "the source host")+": xen-backup.sh --force-diverged "+name)
}

// spoolCure is what has a first copy be compared before it is written.
func (t *target) spoolCure() string { return t.cure("without --in-place", "with FIRST_COPY=spool") }

// here is this host's name, where something is to be done.
func here() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "this host"
	}
	return name
}
