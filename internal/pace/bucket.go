package pace

import "time"

// Bucket limits a rate: it fills with so many tokens a second, holds those of a tenth of a second, and whoever takes
// more than are there waits until they would be.
type Bucket struct {
	Rate int64     // bytes a second; 0: no limit
	paid time.Time // when all that was taken is filled in again
}

const bucketDepth = time.Second / 10

// Take takes n bytes at the time now, and returns how long to wait before they may be used.
func (b *Bucket) Take(n int64, now time.Time) time.Duration {
	if b.Rate == 0 {
		return 0
	}
	if full := now.Add(-bucketDepth); b.paid.Before(full) {
		b.paid = full
	}
	b.paid = b.paid.Add(time.Duration(float64(n) / float64(b.Rate) * float64(time.Second)))
	return max(0, b.paid.Sub(now))
}
