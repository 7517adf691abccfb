package text

import (
	"regexp"
	"sync"
)

// Pattern compiles a regular expression when it is first asked for: a program is started for each disk and each question,
// uses few of them, and all of them were 129 of the 409 page faults of a start. It panics if the expression is none.
func Pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
