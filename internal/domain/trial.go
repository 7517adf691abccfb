package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

// Trial is a test copy, as TestCopy has made it, that is started to see whether it lives. It is removed, whatever
// happens to this process: by this process, else, if it was killed, before the next trial of that name.
type Trial struct {
	TestCopy
	URI      string         // libvirt's
	For      time.Duration  // that a sign of life may take
	Pattern  *regexp.Regexp // the sign is a line of its console, and no answer of a guest agent; nil: see anySign
	Evidence string         // what it showed is kept in Evidence.log, and Evidence.ppm if there is a screen

	toolstack Toolstack
	document  string
}

// anySign is a line of a console that is a sign of life where nobody asks for another one.
var anySign = text.Pattern("login:")

const (
	startLimit = 5 * time.Minute
	pingLimit  = 2 * time.Second
	// What it says lies in memory, where work directories are, and is not only its own to fill.
	maxConsole  = 4 << 20
	maxEvidence = 1 << 20
)

// Run returns the sign of life. None is an error with status No.
func (t *Trial) Run(ctx context.Context, words Words) (sign string, err error) {
	if err := t.find(); err != nil {
		return "", err
	}
	if err := t.remove(ctx); err != nil { // of a trial that was killed
		return "", err
	}
	for _, old := range t.evidence() {
		os.Remove(old)
	}
	removed, err := durable.Create(func() (func(), error) {
		return func() {
			if err := t.destroy(t.uuid); err != nil {
				words.Error("%v", err)
			}
		}, t.start()
	})
	if err != nil {
		return "", errors.Join(exit.Fail(exit.Unavailable, "the test copy does not start: %w", err), t.remove(ctx))
	}
	defer removed()
	if sign, err = t.watch(ctx); t.Evidence != "" {
		t.keepEvidence(words)
	}
	if failed := t.remove(ctx); failed != nil {
		return "", exit.Fail(exit.StatusOf(failed), "%w", errors.Join(failed, err))
	}
	return sign, err
}

// find finds the document, and whose it is.
func (t *Trial) find() error {
	t.toolstack, t.document = newVirsh(t.URI), t.Out+".xml"
	if _, err := os.Lstat(t.document); err != nil {
		t.toolstack, t.document = newXL(""), t.Out+".cfg"
	}
	_, err := program.Find(t.toolstack.Name())
	return err
}

func (t *Trial) isXL() bool { return t.toolstack.Name() == "xl" }

// virsh returns the words of a command for libvirt.
func (t *Trial) virsh(words ...string) []string {
	if t.URI != "" {
		words = append([]string{"--connect=" + t.URI}, words...)
	}
	return append([]string{"-q"}, words...)
}

// remove destroys the copy, if it is there. What has its name and was not made by us stays.
func (t *Trial) remove(ctx context.Context) error {
	uuid, err := t.there(ctx)
	if err != nil || uuid == "" {
		return err
	}
	if err = t.destroy(uuid); err != nil {
		if uuid, failed := t.there(ctx); failed == nil && uuid == "" {
			return nil // it has ended meanwhile
		}
	}
	return err
}

func (t *Trial) destroy(uuid string) (err error) {
	if t.isXL() {
		err = program.Run(startLimit, nil, "xl", "destroy", t.Name)
	} else {
		err = program.Run(startLimit, nil, "virsh", t.virsh("destroy", uuid)...)
	}
	if err != nil {
		return exit.Fail(exit.Unavailable, "the test copy %s is still there: %w", t.Name, err)
	}
	return nil
}

// there returns the UUID of the copy that is there, "" if none is.
func (t *Trial) there(ctx context.Context) (uuid string, err error) {
	listing, err := t.toolstack.List(ctx)
	if err != nil {
		return "", err
	}
	a, err := listing.Ask(ctx, t.Name)
	switch {
	case err != nil || a.Domain == nil || a.Domain.Name != t.Name:
		return "", err
	case !strings.HasPrefix(a.Domain.UUID, testCopyUUID):
		return "", exit.Fail(exit.Busy, "a domain of the name %s is here that is no test copy", t.Name)
	}
	return a.Domain.UUID, nil
}

func (t *Trial) start() error {
	if t.isXL() {
		return program.Run(startLimit, nil, "xl", "create", t.document)
	}
	return program.Run(startLimit, nil, "virsh", t.virsh("create", t.document)...)
}

// watch waits for a sign of life.
func (t *Trial) watch(ctx context.Context) (sign string, err error) {
	document, err := os.ReadFile(t.document)
	if err != nil {
		return "", exit.Fail(exit.IOError, "%w", err)
	}
	if t.isXL() || bytes.Contains(document, []byte("type='xen'")) {
		release, err := t.listen()
		if err != nil {
			return "", err
		}
		defer release()
	}
	pattern, hasAgent := t.Pattern, false
	if pattern == nil {
		pattern, hasAgent = anySign(), bytes.Contains(document, []byte(guestAgent))
	}
	for end := time.Now().Add(t.For); ; time.Sleep(time.Second) {
		said, size, err := tail(t.Out+".log", maxConsole)
		line := match(pattern, said)
		switch {
		case err != nil:
			return "", exit.Fail(exit.IOError, "its console: %w", err)
		case line != "":
			return "its test copy says: " + line, nil
		case size > maxConsole:
			return "", exit.Fail(exit.No, "its console says more than %d MiB, and nothing of that is a sign of life", maxConsole>>20)
		case hasAgent && t.pings(ctx):
			return "the guest agent of its test copy answers", nil
		}
		uuid, err := t.there(ctx)
		switch {
		case err != nil:
			return "", err
		case uuid == "":
			return "", exit.Fail(exit.No, "it has ended without a sign of life")
		case time.Now().After(end):
			return "", exit.Fail(exit.No, "no sign of life within %s", text.FormatAge(t.For))
		}
	}
}

// match returns the first line that is a sign of life.
func match(pattern *regexp.Regexp, said []byte) string {
	for line := range bytes.Lines(said) {
		if pattern.Match(line) {
			return text.Printable(strings.TrimSpace(string(line)))
		}
	}
	return ""
}

// pings reports whether the guest agent answers.
func (t *Trial) pings(ctx context.Context) bool {
	ping := t.virsh("qemu-agent-command", t.Name, `{"execute":"guest-ping"}`, "--timeout", fmt.Sprint(int(pingLimit.Seconds())))
	_, err := program.Ask(ctx, 5*pingLimit, "virsh", ping...)
	return err == nil
}

// listen has what Xen's console says come into the log.
func (t *Trial) listen() (release func(), err error) {
	heard, err := os.OpenFile(t.Out+".log", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, exit.Fail(exit.CantCreate, "%w", err)
	}
	stop, err := program.Listen(&limited{heard, maxConsole + 1}, "xl", "console", t.Name)
	return func() { stop(); heard.Close() }, err
}

// limited takes so many bytes, and drops the others.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.to.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// evidence are the files with it.
func (t *Trial) evidence() []string { return []string{t.Evidence + ".log", t.Evidence + ".ppm"} }

// keepEvidence keeps what the copy has shown at last. That it cannot be kept is no judgement of the copy.
func (t *Trial) keepEvidence(words Words) {
	said, _, err := tail(t.Out+".log", maxEvidence)
	if err == nil {
		err = durable.WriteFile(t.Evidence+".log", said)
	}
	if err != nil {
		words.Warn("what its console said is not kept: %v", err)
	}
	if t.isXL() || program.Run(patience, nil, "virsh", t.virsh("screenshot", t.Name, t.Out+".ppm")...) != nil {
		return // there is no screen, or no copy any more
	}
	shown, err := os.ReadFile(t.Out + ".ppm")
	if err == nil {
		err = durable.WriteFile(t.Evidence+".ppm", shown)
	}
	if err != nil {
		words.Warn("its screen is not kept: %v", err)
	}
}

// tail returns the last bytes of a file, and its size. One that is not there is empty.
func tail(path string, limit int64) (last []byte, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size = info.Size()
	last, err = io.ReadAll(io.NewSectionReader(f, max(0, size-limit), limit))
	return last, size, err
}
