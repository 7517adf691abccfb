//go:build race

package standby

// The race detector makes the crashes cost three times as much, and one kind of target has all the goroutines
// that it can watch. The others are tried without it: see scripts/test.
func init() {
	kinds = []string{loopDevice}
	setKinds = [][]string{{file, loopDevice}}
}
