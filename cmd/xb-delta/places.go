package main

// places are the first ones at which the images differ.
type places struct {
	at  []int64 // bytes; of blocks that lie together the first one's
	end int64   // of the last one
}

// maxPlaces is how many are named.
const maxPlaces = 8

func (p *places) add(off, n int64) {
	if off != p.end && len(p.at) < maxPlaces || len(p.at) == 0 {
		p.at = append(p.at, off)
	}
	p.end = off + n
}
