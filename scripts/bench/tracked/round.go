package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// summary is what --summary of a command has left.
type summary struct {
	ImageSize       int64 `json:"image_size"`
	BlockSize       int   `json:"block_size"`
	Hash, Digest    string
	BytesRead       int64 `json:"bytes_read"`
	BytesChanged    int64 `json:"bytes_changed"`
	TargetBytesRead int64 `json:"target_bytes_read"`
}

func (b *bench) summary(name string) (*summary, error) {
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		return nil, err
	}
	s := new(summary)
	return s, json.Unmarshal(text, s)
}

// round has the standby become the changed disk by what the storage tells, the other copy by a bare apply of the same
// delta; and then, of another such change, the standby by a comparison in full.
func (b *bench) round(r *row) error {
	if err := b.change(r.percent); err != nil {
		return err
	}
	old, err := os.ReadFile(b.dir + "/old")
	if err != nil {
		return err
	}
	since, delta := fmt.Sprintf("--since %s --basis %s/base", old, b.dir), b.dir+"/delta"
	err = b.sh("xb-snap changes --since %s %s >%s/list && xb-delta %s --extents %[3]s/list %[2]s >%[5]s && sync && echo 1 >/proc/sys/vm/drop_caches",
		old, b.snap, b.dir, since, delta)
	if err != nil {
		return err
	}
	if r.listed, err = lastLine(b.dir + "/list"); err != nil {
		return err
	}
	bare := func() error {
		return b.timed(&r.bare, nil, nil, "", "bare --spool "+b.dir+"/spool "+b.fs+"/b <"+delta)
	}
	ours := func() error {
		return b.timed(&r.wall, &r.sourceCPU, &r.targetCPU, "xb-snap changes --since "+string(old)+" "+b.snap+
			" | xb-delta "+since+" --summary "+b.dir+"/sent "+b.snap,
			"xb-patch --summary "+b.dir+"/applied "+b.fs+"/a")
	}
	first, second := bare, ours
	if len(r.wall)%2 == 1 {
		first, second = ours, bare
	}
	if err := errors.Join(first(), second()); err != nil {
		return err
	}
	sent, err := b.summary("sent")
	if err != nil {
		return err
	}
	applied, err := b.summary("applied")
	if err != nil {
		return err
	}
	r.changed, r.source, r.target = sent.BytesChanged, sent.BytesRead, applied.TargetBytesRead
	if err := b.keep(); err != nil || !b.full {
		return err
	}
	if err := b.change(r.percent); err != nil {
		return err
	}
	if err := b.sh("sync && echo 1 >/proc/sys/vm/drop_caches"); err != nil {
		return err
	}
	err = b.timed(&r.full, nil, nil, "xb-sig "+b.fs+"/a | tee "+b.dir+"/sig | xb-delta --summary "+b.dir+"/sent "+b.snap, "xb-patch "+b.fs+"/a")
	if err != nil {
		return err
	}
	if err := b.sh("xb-delta --signature %[1]s/sig %[2]s | bare %[3]s/b", b.dir, b.snap, b.fs); err != nil {
		return err
	}
	return b.keep()
}

// timed runs a pipeline of two sides, and adds to the figures its wall time and the CPU time of each side.
func (b *bench) timed(wall, sourceCPU, targetCPU *[]float64, source, target string) error {
	side := func(script string) *exec.Cmd {
		c := exec.Command("bash", "-c", "set -euo pipefail; "+script)
		c.Stderr = os.Stderr
		return c
	}
	begin := time.Now()
	here, there := side(source), side(target)
	if source != "" {
		out, err := here.StdoutPipe()
		if err != nil {
			return err
		}
		there.Stdin = out
		if err := here.Start(); err != nil {
			return err
		}
	}
	if err := there.Run(); err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	*wall = append(*wall, time.Since(begin).Seconds())
	use(there, targetCPU)
	if source == "" {
		return nil
	}
	if err := here.Wait(); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	use(here, sourceCPU)
	return nil
}

// use adds the CPU time of a side, with all its processes.
func use(c *exec.Cmd, cpu *[]float64) {
	if cpu != nil {
		*cpu = append(*cpu, (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds())
	}
}

// lastLine returns the bytes that the end line of a list tells of.
func lastLine(list string) (bytes int64, err error) {
	out, err := exec.Command("tail", "-n", "1", list).Output()
	if err != nil {
		return 0, err
	}
	var extents int64
	_, err = fmt.Sscanf(string(out), "end %d %d", &extents, &bytes)
	return bytes, err
}
