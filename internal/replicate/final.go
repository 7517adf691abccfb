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
// has to be the same when all disks were read.

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

// demandLast has a last copy fail if somebody may have written to its source since it was prepared. Without a witness only
// what is read as it is can be one: while xb-delta reads that, it looks itself.
func (c *copied) demandLast() {
	before := c.row.witness()
	if !c.Final || !c.ended.good() || before == "" && c.Snapshots == nil || blockdev.Untouched(before, c.row.witnessNow()) {
		return
	}
	c.ended = &ended{stages: []int{exit.Busy}}
	c.ended.said.add(c.row.Source + " was written to while its last copy was made, and the DomU is shut off: who else does?")
}

// isLast reports whether a disk that is held for its set is still what was read: others took their time since.
func (c *copied) isLast() bool {
	c.demandLast()
	return c.ended.good() || c.recordCopy()
}
