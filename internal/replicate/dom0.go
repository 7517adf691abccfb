package replicate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xen-backup/internal/exit"
)

// dom0 is another Dom0, to which there is one connection that all programs share.
type dom0 struct {
	name   string
	socket string // of the connection; "": there never was one
	run    string
}

// listName is the file of a run's directory that says which Dom0s can be reached, a line each: DOM0 SOCKET, or DOM0 - WORDS.
const listName = "dom0s"

// readDom0s reads what Connect has found out.
func readDom0s(run string) (map[string]*dom0, error) {
	text, err := os.ReadFile(filepath.Join(run, listName))
	if err != nil {
		return nil, exit.Fail(exit.NoInput, "no connection was opened with xb-copy --connect: %w", err)
	}
	all := make(map[string]*dom0)
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		socket, _, _ := strings.Cut(rest, "\t")
		if all[name] = (&dom0{name: name, run: run, socket: socket}); socket == none {
			all[name].socket = ""
		}
	}
	return all, nil
}

// dom0 returns that of a name. To one that nobody connected there is no way.
func (r *run) dom0(name string) *dom0 {
	if d := r.dom0s[name]; d != nil {
		return d
	}
	return &dom0{name: name, run: r.Run}
}

// isDead reports whether it cannot be reached any more.
func (d *dom0) isDead() bool {
	if _, err := os.Lstat(d.deadName()); err == nil {
		return true
	}
	info, err := os.Lstat(d.socket)
	return err != nil || info.Mode().Type() != fs.ModeSocket
}

func (d *dom0) deadName() string { return filepath.Join(d.run, "dead."+d.name) }

// bury says why it cannot be reached any more. Nobody tries again in this run.
func (d *dom0) bury(why string) {
	f, err := os.CreateTemp(d.run, ".dead")
	if err != nil {
		return // then the next one finds out by itself
	}
	_, err = f.WriteString(why)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), d.deadName())
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// whyDead returns the words for that.
func (d *dom0) whyDead() string {
	text, err := os.ReadFile(d.deadName())
	if err == nil && len(text) > 0 {
		return string(text)
	}
	return "there is no connection to it, or not any more"
}

// options are those of all that ssh does. No setting of ssh_config may put another command in place of ours or take its
// input away; not every ssh knows all of them. gcm takes a third fewer cycles than ssh's first choice.
func options(timeout time.Duration, socket string) []string {
	var words []string
	for _, option := range []string{"BatchMode=yes", fmt.Sprintf("ConnectTimeout=%d", int(timeout.Seconds())),
		"ServerAliveInterval=10", "ServerAliveCountMax=30", "IgnoreUnknown=*", "RemoteCommand=none", "StdinNull=no",
		"ForkAfterAuthentication=no", "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com", "ControlPath=" + socket} {
		words = append(words, "-o", option)
	}
	return append([]string{"-T"}, words...)
}

// at returns the words that run a program on a Dom0, over the connection that is there; ssh opens another one where that
// takes no more sessions. No word has anything that means something to a shell: see ReadRows and Options.Check.
func (r *run) at(d *dom0, words ...string) []string {
	ssh := append([]string{"ssh"}, options(r.ConnectTimeout, d.socket)...)
	return append(append(ssh, d.name), words...)
}

// ask runs a pipeline that ends at a Dom0. If it stands still, the connection may be cut, which looks open for minutes:
// nobody else shall wait for it.
func (r *run) ask(d *dom0, limit time.Duration, in *os.File, p ...[]string) *ended {
	e := r.programs.watch(limit, in, p)
	if e.stalled > 0 && !r.answers(d) {
		d.bury("it does not answer any more")
	}
	return e
}

func (r *run) answers(d *dom0) bool {
	return r.programs.watch(4*r.ConnectTimeout, nil, pipeline{r.at(d, "xb-patch", "--version")}).good()
}
