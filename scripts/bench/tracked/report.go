package main

import (
	"fmt"
	"slices"

	"xen-backup/internal/text"
)

// row are the figures of one size and share of change, of all rounds.
type row struct {
	size                 int64
	percent              float64
	listed, changed      int64
	source, target       int64 // bytes read
	wall, bare, full     []float64
	sourceCPU, targetCPU []float64
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// report prints the tables, and returns how many bars are missed.
func report(s settings, rows []*row) (missed int) {
	fmt.Printf("%s of data, medians of %d rounds; wall in s, CPU in s of the source's side and of the target's:\n\n", text.FormatSize(s.data), s.rounds)
	fmt.Println("| image | changed | listed MiB | read here / listed | read there / changed | tracked | bare apply | full | CPU here | CPU there |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	share := func(a, b int64) string {
		if b == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", float64(a)/float64(b))
	}
	for _, r := range rows {
		full := "-"
		if len(r.full) > 0 {
			full = fmt.Sprintf("%.2f", median(r.full))
		}
		fmt.Printf("| %s | %g %% | %.1f | %s | %s | %.2f | %.2f | %s | %.2f | %.2f |\n", text.FormatSize(r.size), r.percent,
			float64(r.listed)/(1<<20), share(r.source, r.listed), share(r.target, r.changed), median(r.wall), median(r.bare), full,
			median(r.sourceCPU), median(r.targetCPU))
	}
	fmt.Println()
	bar := func(what string, value, most float64) {
		word := "ok"
		if value > most {
			word, missed = "MISSED", missed+1
		}
		fmt.Printf("- %s: %s %.2f, at most %.2f\n", word, what, value, most)
	}
	for _, r := range rows {
		name := fmt.Sprintf("%s, %g %%:", text.FormatSize(r.size), r.percent)
		if r.listed > 0 {
			bar(name+" read here, times the listed", float64(r.source)/float64(r.listed), 2.1)
			bar(name+" read there, times the changed", float64(r.target)/float64(max(1, r.changed)), 3.1)
		} else {
			bar(name+" bytes read, here and there", float64(r.source+r.target), 0)
			bar(name+" CPU s here", median(r.sourceCPU), 0.1)
			bar(name+" CPU s there", median(r.targetCPU), 0.1)
		}
		bar(name+" wall s, of a bare apply and some", median(r.wall), 1.2*median(r.bare)+0.15)
		for _, o := range rows {
			if o.percent == r.percent && o.size < r.size && o.size == rows[0].size && r.size == rows[len(rows)-1].size {
				bar(name+" wall, times that of "+text.FormatSize(o.size), median(r.wall)/median(o.wall), 1.2)
			}
		}
	}
	return missed
}
