// Package lvm takes, watches and removes snapshots of logical volumes, and reads
// from LVM's and the kernel's own records what has changed between two of them.
//
// Whatever changes LVM's metadata is done by LVM's commands; what a device is
// right now is asked of the kernel (blockdev.DeviceMapper), since that is quick,
// takes no lock and can't be out of date.
package lvm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/exit"
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

// run runs a program with its standard output going to stdout. The error of one
// that fails holds what it said; that of one that is not installed is
// exec.ErrNotFound and has status Unavailable.
//
// LVM in mid-work must never be killed: it suspends devices, and an origin that
// stays suspended freezes its guest for good. So it runs in a process group of
// its own (a ^C at the terminal is ours to handle), and at its time limit it gets
// signals that it holds back while it has something suspended, but never SIGKILL.
func run(limit time.Duration, stdout io.Writer, name string, args ...string) error {
	path, err := program.Find(name)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Stdout, c.Stderr = stdout, &said
	c.WaitDelay = 5 * time.Second // a daemon that it started may keep its output open
	if err := c.Start(); err != nil {
		return exit.Fail(exit.Unavailable, "cannot run %s: %w", name, err)
	}
	late := time.AfterFunc(limit, func() {
		c.Process.Signal(syscall.SIGINT) // the only one that ends LVM's wait for a lock
		c.Process.Signal(syscall.SIGTERM)
	})
	err = c.Wait()
	switch {
	case !late.Stop():
		return fmt.Errorf("%s did not end within %v", name, limit)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	if words := complaint(said.String()); words != "" {
		return fmt.Errorf("%s: %s", name, words)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// lvmCommand runs one of LVM's own commands, which then never asks a question.
func lvmCommand(name string, args ...string) error {
	return run(patience, io.Discard, name, append([]string{"--yes", "--config", settings}, args...)...)
}

// complaint makes one line of what a program said on standard error, without
// warnings unless there is nothing else.
func complaint(said string) string {
	var errs, all []string
	for line := range strings.Lines(said) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ".")
		if line == "" {
			continue
		}
		all = append(all, line)
		if !strings.HasPrefix(line, "WARNING") && !strings.HasPrefix(line, "File descriptor") {
			errs = append(errs, line)
		}
	}
	if len(errs) == 0 {
		errs = all
	}
	return strings.Join(errs, "; ")
}
