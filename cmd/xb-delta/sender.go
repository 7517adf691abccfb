package main

import (
	"io"
	"sync/atomic"
	"time"

	"xen-backup/internal/pace"
)

// sender writes the delta, at a limited rate if one is given.
type sender struct {
	io.Writer
	rate pace.Bucket
	sent *atomic.Int64 // bytes
}

func (s *sender) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		part := b[n:]
		if s.rate.Rate > 0 {
			part = part[:min(int64(len(part)), max(1, s.rate.Rate/10))]
			time.Sleep(s.rate.Take(int64(len(part)), time.Now()))
		}
		var m int
		m, err = s.Writer.Write(part)
		n += m
		s.sent.Add(int64(m))
	}
	return n, err
}
