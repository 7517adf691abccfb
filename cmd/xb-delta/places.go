package main

import (
	"fmt"
	"strings"
)

// places are the first ones at which the images differ.
type places struct {
	at   []int64 // bytes; of blocks that lie together the first one's
	more bool    // there are more
	end  int64   // of the last one
}

// maxPlaces is how many are named.
const maxPlaces = 8

func (p *places) add(off, n int64) {
	switch {
	case off == p.end && len(p.at) > 0:
	case len(p.at) < maxPlaces:
		p.at = append(p.at, off)
	default:
		p.more = true
	}
	p.end = off + n
}

// String is what --check says of them, behind how many they are.
func (p places) String() string {
	if len(p.at) == 0 {
		return ""
	}
	words := " at " + strings.ReplaceAll(strings.Trim(fmt.Sprint(p.at), "[]"), " ", ", ")
	if p.more {
		words += ", ..."
	}
	return words
}
