// Transcript makes an image of what scripts/demo says: an SVG whose text is text, readable on a light page and on a dark
// one. Anew:
//
//	scripts/demo | go run ./scripts/packaging/transcript >scripts/packaging/doc/demo.svg
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	columns = 116
	indent  = "       " // of what goes on in a next line
	advance = 7.9       // pixels a column: the widest that a font of this size has
	height  = 17        // pixels a line
	margin  = 14
)

// kinds are what lines are shown as, the first that matches.
var kinds = []struct {
	class string
	lines *regexp.Regexp
}{
	{"t", regexp.MustCompile(`^== `)},
	{"c", regexp.MustCompile(`^ {3}[a-z0-9]+# `)},
	{"e", regexp.MustCompile(`ERROR|CRITICAL|^ {3}status [1-9]`)},
	{"s", regexp.MustCompile(`^ {3}status 0`)},
}

const style = `text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;` +
	`white-space:pre;fill:#24292f}rect{fill:#f6f8fa;stroke:#d0d7de}` +
	`.t{font-weight:bold;fill:#0550ae}.c{font-weight:bold}.e{fill:#a40e26}.s{fill:#57606a}` +
	`@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#161b22;stroke:#30363d}` +
	`.t{fill:#79c0ff}.e{fill:#ff7b72}.s{fill:#8b949e}}`

func main() {
	if err := draw(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "transcript:", err)
		os.Exit(1)
	}
}

// draw writes the image of what in says.
func draw(in io.Reader, out io.Writer) error {
	var body strings.Builder
	rows := 0
	lines := bufio.NewScanner(in)
	last := ""
	for lines.Scan() {
		last = plain(lines.Text())
		if rows == 0 && last == "" {
			continue
		}
		pieces := wrap(last)
		if last != "" {
			fmt.Fprintf(&body, `<text x="%d" y="%d"%s>%s`, margin, margin+(rows+1)*height-4, classOf(last), escape(pieces[0]))
			for _, piece := range pieces[1:] {
				fmt.Fprintf(&body, `<tspan x="%.0f" dy="%d">%s</tspan>`, margin+advance*float64(len(indent)), height, escape(piece))
			}
			body.WriteString("</text>\n")
		}
		rows += len(pieces)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if last != "demo: all shown" {
		return errors.New("the demo has not shown all")
	}
	_, err := fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" xml:space="preserve">`+
		"<title>What scripts/demo says</title><style>%s</style>\n"+`<rect width="100%%" height="100%%" rx="6"/>`+"\n%s</svg>\n",
		2*margin+advance*columns, 2*margin+rows*height, style, body.String())
	return err
}

// plain is a line without what moves the cursor: tabs become blanks.
func plain(line string) string {
	var b strings.Builder
	for _, r := range line {
		switch {
		case r == '\t':
			b.WriteString(strings.Repeat(" ", 8-utf8.RuneCountInString(b.String())%8))
		case unicode.IsPrint(r):
			b.WriteRune(r)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// wrap takes a line apart, behind blanks where it can; together the pieces are the line.
func wrap(line string) (pieces []string) {
	rest, room := []rune(line), columns
	for len(rest) > room {
		at := room
		for at > room/2 && rest[at-1] != ' ' {
			at--
		}
		if rest[at-1] != ' ' {
			at = room
		}
		pieces, rest, room = append(pieces, string(rest[:at])), rest[at:], columns-len(indent)
	}
	return append(pieces, string(rest))
}

func classOf(line string) string {
	for _, kind := range kinds {
		if kind.lines.MatchString(line) {
			return ` class="` + kind.class + `"`
		}
	}
	return ""
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
