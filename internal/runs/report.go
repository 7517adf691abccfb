package runs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Report is what the wrapper tells of a step of a run.
type Report struct {
	DomU, Disk     string // no disk: it is of the whole DomU
	Peer           string // "": of all of them
	Source, Target string
	Step           Step
	Stages         []int // exit statuses, as the shell saw them
	Stalled        int   // seconds without progress, after which the stages were ended; 0: they were not
	Sent           *Sent // by a copy that was good
	Unsent         error // why it is not known what was sent
	Verified       bool
	Missed         string // what of it runs before had not copied, in words; "": nothing, as far as it is known
	Final          bool   // the DomU was shut off
	Witness        string // of a source then, before it was read; "": that of now
	DryRun         bool   // nothing was done: nothing is remembered
	Taken          time.Time
	Set            string
	Last           time.Time // when both hosts last had one image, if that is known
	words          []string  // what the programs said
}

// Line is a line for the log.
type Line struct{ Level, Text string }

// newLine makes one line of a text, whatever names are in it.
func newLine(level, text string) Line { return Line{level, bounded(text, 4*maxLine)} }

// The log's levels.
const (
	errorLevel   = "err"
	warningLevel = "warning"
	infoLevel    = "info"
)

const timeForm = "2006-01-02T15:04:05Z"

// What programs of another host say is bounded before it gets into a log, or is remembered.
const (
	maxLines      = 100
	maxLine       = 1000
	maxRemembered = 500
)

// ReadWords reads what all stages said, to the end: nobody shall wait for a reader. Heartbeats, blank lines, what a
// stage says of the end of its neighbour, and what --words calls information are no words.
func (r *Report) ReadWords(in io.Reader) error {
	lines := bufio.NewReaderSize(in, 1<<16)
	dropped := 0
	for {
		line, prefix, err := lines.ReadLine()
		if err == io.EOF {
			break
		}
		if err != nil {
			return exit.Fail(exit.IOError, "standard input: %w", exit.Cause(err))
		}
		word := bounded(string(line), maxLine)
		for prefix && err == nil {
			_, prefix, err = lines.ReadLine()
		}
		if level, rest, is := strings.Cut(word, " "); is && (level == errorLevel || level == warningLevel) {
			word = rest
		}
		switch strings.TrimSpace(word) {
		case "", "progress", "waiting", "xb-delta: standard output: broken pipe":
		default:
			if strings.HasPrefix(word, "info ") {
				continue
			}
			if len(r.words) < maxLines {
				r.words = append(r.words, word)
			} else {
				dropped++
			}
		}
	}
	if dropped > 0 {
		r.words = append(r.words, fmt.Sprintf("(and %d more lines)", dropped))
	}
	return nil
}

// bounded returns a text without what could steer a terminal, cut to so many bytes.
func bounded(s string, size int) string {
	s = text.Printable(strings.NewReplacer("\t", " ", "\n", "; ").Replace(strings.TrimRight(s, "\r\n\t ")))
	if len(s) <= size {
		return s
	}
	s = s[:size]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "..."
}

// takeSentence takes the first of the words for what did not succeed.
func (r *Report) takeSentence() string {
	if len(r.words) == 0 {
		return "it failed"
	}
	first := r.words[0]
	r.words = r.words[1:]
	return first
}

// place names the standby.
func (r *Report) place() string { return r.Peer + ":" + r.Target }

// about names the DomU and its disk.
func (r *Report) about() string {
	if r.Disk == "" {
		return "DomU " + r.DomU
	}
	return "DomU " + r.DomU + ", disk " + r.Disk
}

// lines returns what is to be logged of what the programs said.
func (r *Report) lines(level string) (lines []Line) {
	prefix := "## " + r.about() + ": "
	switch {
	case r.Target != "":
		prefix = "#### " + r.about() + ", " + r.place() + ": "
	case r.Peer != "":
		prefix = "### " + r.about() + ", remote Dom0 " + r.Peer + ": "
	}
	for _, word := range r.words {
		lines = append(lines, newLine(level, prefix+word))
	}
	return lines
}

// failed returns the line for the log that says what went wrong, and what is to be remembered of it.
func (r *Report) failed(cause int) (line Line, words string) {
	sentence, why := r.sentence(cause), r.meaning(cause)
	words = sentence
	switch {
	case len(r.words) > 0 && r.Stalled == 0 && !r.isTooOld():
		words += ": " + strings.TrimSpace(r.words[0]) // it knows more than what its status means
	case why != "":
		words += ": " + why
	}
	if why != "" {
		sentence += ": " + why
	}
	return r.errorLine(cause, sentence), bounded(words, maxRemembered)
}

func (r *Report) errorLine(status int, sentence string) Line {
	return newLine(errorLevel, fmt.Sprintf("### ERROR %d: %s: %s", status, r.about(), sentence))
}

// lastWritten tells of an image file when it was written to; volumes do not know it.
func (r *Report) lastWritten() string {
	info, err := os.Stat(r.Source)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return " Last written to: here at " + info.ModTime().UTC().Format(timeForm) + "."
}
