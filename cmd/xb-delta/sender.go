package main

import (
	"io"
	"sync/atomic"
	"time"
)

// sender writes the delta, at a limited rate if one is given.
type sender struct {
	io.Writer
	rate int64         // bytes a second; 0: no limit
	sent *atomic.Int64 // bytes
	next time.Time     // when the next byte may go
}

func (s *sender) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		part := b[n:]
		if s.rate > 0 {
			part = part[:min(int64(len(part)), max(1, s.rate/10))]
			if now := time.Now(); s.next.Before(now) {
				s.next = now
			}
			time.Sleep(time.Until(s.next))
			s.next = s.next.Add(time.Duration(float64(len(part)) / float64(s.rate) * float64(time.Second)))
		}
		var m int
		m, err = s.Writer.Write(part)
		n += m
		s.sent.Add(int64(m))
	}
	return n, err
}
