// Package lvm takes, watches and removes snapshots of logical volumes, and reads
// from LVM's and the kernel's own records what has changed between two of them.
//
// Whatever changes LVM's metadata is done by LVM's commands; what a device is
// right now is asked of the kernel (dm.Query), since that is quick,
// takes no lock and can't be out of date.
package lvm

import (
	"time"

	"xen-backup/internal/program"
)

// settings are pinned, whatever lvm.conf says: they shape what LVM prints. Of report/*
// these are all that a report with columns, units and format of its own depends on; with
// another separator of lists, for one, nothing would be seen to carry our tag.
const settings = `log { report_command_log=0 verbose=0 prefix="" }
report {
	aligned=1 buffered=1 headings=1 separator=" " list_item_separator="," prefixes=0 quoted=1 columns_as_rows=0
	compact_output=0 compact_output_cols="" mark_hidden_devices=1 two_word_unknown_device=0
	binary_values_as_numeric=0 time_format="%s"
	vgs_sort="vg_name" lvs_sort="vg_name,lv_name" segs_sort="vg_name,lv_name,seg_start"
}`

// After that long a command is asked to stop; it may have to wait for other LVM
// commands, which hold the volume group's lock.
const patience = 2 * time.Minute

// lvmCommand runs one of LVM's own commands, which then never asks a question.
func lvmCommand(name string, args ...string) error {
	return program.Run(patience, nil, name, append([]string{"--yes", "--config", settings}, args...)...)
}
