package main

import (
	"sync/atomic"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/standby"
	"xen-backup/internal/stream"
)

// session shows whoever started the run what it does: standby.User.
type session struct {
	*cli.Env
	mode      string // of --progress
	heartbeat bool

	start    time.Time
	read     atomic.Int64 // bytes, of targets
	progress *cli.Progress
	beat     cli.Heartbeat
}

// Begin begins to show progress, and the heartbeat: the source wants to know that this end
// is alive, and whether it moves.
func (s *session) Begin(moved func() bool) standby.Progress {
	s.start = time.Now()
	s.progress = s.StartProgress(s.mode)
	if s.heartbeat {
		shown := s.progress.Movement()
		s.beat.Out = s.Stdout
		s.beat.Moved = func() bool {
			a, b := shown.Moved(), moved()
			return a || b
		}
		s.beat.Start(s.Env)
	}
	return s.progress
}

// Commit has the run go on whatever becomes of the heartbeat's lines.
func (s *session) Commit() { s.beat.Commit() }

func (s *session) stop() {
	if s.progress != nil {
		s.beat.Stop()
		s.progress.Stop()
		s.progress = nil
	}
}

func (s *session) summarize(d rdiff.Delta, file string) error {
	summary := s.NewSummary(d.Source, s.start)
	summary.BytesRead, summary.BytesChanged, summary.BlocksChanged = d.Bytes, d.Changed(), d.Literals+d.Zeroes
	summary.TargetBytesRead = s.read.Load()
	return summary.Write(file)
}

// summarizeAll writes one summary of the deltas of a set: there is no digest of several images.
func (s *session) summarizeAll(deltas []rdiff.Delta, file string) error {
	summary := s.NewSummary(stream.Image{}, s.start)
	summary.Hash, summary.Digest, summary.TargetBytesRead = "", "", s.read.Load()
	for _, d := range deltas {
		summary.ImageSize += d.Source.Size
		summary.BytesRead, summary.BytesChanged = summary.BytesRead+d.Bytes, summary.BytesChanged+d.Changed()
		summary.BlocksChanged += d.Literals + d.Zeroes
	}
	return summary.Write(file)
}
