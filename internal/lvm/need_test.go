package lvm

import (
	"fmt"
	"strings"
	"testing"

	"xen-backup/internal/extent"
)

const dump = `<superblock uuid="" time="3" transaction="4" version="2" data_block_size="128" nr_data_blocks="512">
  <def name="7"><single_mapping origin_block="2" data_block="9" time="9"/></def>
  <device dev_id="1" mapped_blocks="8" transaction="0" creation_time="0" snap_time="2">
    <range_mapping origin_begin="10" data_begin="0" length="5" time="1"/>
    <ref name="7"/>
    <single_mapping origin_block="20" data_block="7" time="2"/>
    <range_mapping origin_begin="30" data_begin="20" length="4" time="3"/>
  </device>
</superblock>`

// TestParseDump: shared is what is older than the last snapshot, and what is told of
// several volumes.
func TestParseDump(t *testing.T) {
	parse := func(text string) (own string, err error) {
		err = parseDump(strings.NewReader(text), func(begin, length int64) { own += fmt.Sprintf("%d+%d ", begin, length) })
		return own, err
	}
	if own, err := parse(dump); err != nil || own != "20+1 30+4 " {
		t.Errorf("%q, %v", own, err)
	}
	for n := range len(dump) - 1 {
		if own, err := parse(dump[:n]); err == nil {
			t.Errorf("the first %d bytes: %q", n, own)
		}
	}
	for _, change := range [][2]string{{"<single_mapping origin", "<other origin"}, {`snap_time="2"`, ""},
		{`length="5"`, `length="x"`},
		{`time="3"/>`, `/>`}, {"</device>", `</device><device snap_time="1"/>`}} {
		if own, err := parse(strings.Replace(dump, change[0], change[1], 1)); err == nil {
			t.Errorf("%q: %q", change, own)
		}
	}
}

func TestThinWritesOverlap(t *testing.T) {
	w := &ThinWrites{blocks: extent.NewSet(100, 10_000), blockSize: 100}
	for _, off := range []int64{1000, 1150, 5010, 9990} {
		w.Add(off, 10)
	}
	for _, test := range []struct{ begin, length, want int64 }{{0, 100, 400}, {0, 10, 0}, {10, 1, 100}, {11, 1, 100},
		{12, 38, 0}, {10, 41, 300}, {99, 50, 100}} {
		if got := w.overlap(test.begin, test.length); got != test.want {
			t.Errorf("%d blocks from %d: %d bytes, want %d", test.length, test.begin, got, test.want)
		}
	}
}
