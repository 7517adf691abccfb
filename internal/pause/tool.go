package pause

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// Time limits. The tests set shorter ones.
var (
	holdLimit = seconds("XB_PAUSE_LIMIT", 10)  // that a guest is kept still
	patience  = seconds("XB_PAUSE_WAIT", 30)   // that a toolstack may take
	watchTime = seconds("XB_PAUSE_WATCH", 300) // that is looked for what was not granted
)

func seconds(name string, usual int) time.Duration {
	n := usual
	if word := os.Getenv(name); word != "" {
		if _, err := fmt.Sscan(word, &n); err != nil || n <= 0 {
			n = usual
		}
	}
	return time.Duration(n) * time.Second
}

// A way is how a guest is kept still.
type way string

const (
	stop   way = "pause"  // it does not run
	freeze way = "freeze" // its file systems are clean, and nothing is written to them
)

func (w way) done() string {
	if w == freeze {
		return "frozen"
	}
	return "paused"
}

// tool is the toolstack by which a domain runs.
type tool struct {
	name   string // virsh or xl
	uri    string // libvirt's; "" for the usual one
	domain string
}

func (t tool) virsh(args ...string) []string {
	if t.uri != "" {
		args = append([]string{"--connect=" + t.uri}, args...)
	}
	return append(args, "--domain="+t.domain)
}

// request begins to keep the domain still. Its toolstack may carry that out when nobody waits
// for it any more; so whoever has asked waits, and with keepalives virsh would not.
func (t tool) request(how way) (*program.Started, error) {
	switch {
	case t.name == "xl":
		return program.Start("xl", "pause", t.domain)
	case how == freeze:
		return program.Start("virsh", append([]string{"-k0"}, t.virsh("domfsfreeze")...)...)
	}
	return program.Start("virsh", append([]string{"-k0"}, t.virsh("suspend")...)...)
}

func (t tool) stand() (domain.Stand, error) {
	if t.name == "xl" {
		return domain.XLStand(context.Background(), t.domain)
	}
	return domain.VirshStand(context.Background(), t.uri, t.domain)
}

func (t tool) resume() error {
	if t.name == "xl" {
		return program.Run(patience, nil, "xl", "unpause", t.domain)
	}
	return program.Run(patience, nil, "virsh", t.virsh("resume")...)
}

// thaw returns how many file systems of the guest were frozen.
func (t tool) thaw() (frozen int, err error) {
	var said strings.Builder
	if err := program.Run(patience, &said, "virsh", t.virsh("domfsthaw")...); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(said.String()), "Thawed %d", &frozen); err != nil {
		return 0, exit.Fail(exit.Unavailable, "virsh domfsthaw prints %.60q", said.String())
	}
	return frozen, nil
}

// askAgent finds out whether the guest's agent answers, by a question that changes nothing.
func (t tool) askAgent() error {
	_, err := program.Ask(context.Background(), patience, "virsh", t.virsh("domtime")...)
	return err
}
