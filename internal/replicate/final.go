package replicate

import (
	"net/url"
	"strconv"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
)

// The last copy before a move is of a DomU that is shut off, so it can be read as it is: all that it has written is in its
// disks. Only where a base is kept are snapshots taken, since these can be compared with one. What is written to a disk
// after that, or after it was read, by whomever, would be lost by the move. So each source has a witness of before, and it
// has to be the same when all disks were read, which become the new ones only then, be it one alone; and at the end.

// witness has rows tell of their sources as these are, and reports whether that can be told of all.
func witness(rows []*Row) bool {
	all, of := true, map[string]string{}
	for _, row := range rows {
		w, is := of[row.Source]
		if !is {
			w = row.witnessNow()
			of[row.Source] = w
		}
		if all = all && w != ""; w != "" {
			row.Witness = url.QueryEscape(w)
		}
	}
	return all
}

func (r *Row) witnessNow() string {
	size, err := strconv.ParseInt(r.Size, 10, 64)
	if err != nil {
		return ""
	}
	return runs.Witness(local(r.Source), size)
}

// witness returns that of the source when the copy was prepared, "" if there is none.
func (r *Row) witness() string {
	w, err := url.QueryUnescape(r.Witness)
	if err != nil || r.Witness == none {
		return ""
	}
	return w
}

// isLast reports whether nobody has written to the source of a last copy since it was prepared, as far as its witnesses can
// tell. If somebody has, that fails, and it is said what the standby is. What cannot be told is refused before the commit,
// unless it is read as it is and has no witness: xb-delta looks itself while it reads. After the commit a base that was
// kept may have taken the place of another one, and a volume of which a snapshot is gone may have had it merged.
func (c *copied) isLast(committed bool) bool {
	before := c.row.witness()
	if !c.Final || before == "" && c.Snapshots == nil {
		return true
	}
	now := c.row.witnessNow()
	touched, standby := !blockdev.Untouched(before, now), "the standby stays what it was"
	if committed {
		changed, known := blockdev.Changed(before, now)
		touched, standby = changed && known, "the standby is new, but has nothing of that"
	}
	if !touched {
		return true
	}
	e := &ended{stages: []int{exit.Busy}}
	e.said.add("find out who writes to it, and try again; " + standby)
	return c.record(c.reportOf(c.row, runs.Last), e)
}

// areLast looks at all disks: others took their time since one was read, and so did the commit.
func (d *delivery) areLast(committed bool) (good []*copied) {
	return each(d.disks, 1, func(c *copied) bool { return c.isLast(committed) })
}
