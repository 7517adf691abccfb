package replicate

import (
	"errors"
	"slices"
	"sync"
	"time"

	"xen-backup/internal/exit"
)

// Elsewhere demands that a DomU is active on none of some Dom0s, which are asked over connections of their own. Of one
// that cannot be reached it cannot be told, unless off says that it is off; of one that answers anything but no, never. Of
// a DomU that is to be moved it is told last of all that it is active where it is.
func Elsewhere(o Options, dom0s []string, off, moved bool, warn func(format string, args ...any)) error {
	if err := checkNames(dom0s); err != nil {
		return err
	}
	programs, release, err := newChildren()
	if err != nil {
		return err
	}
	defer release()
	r := &run{Options: o, programs: programs}
	var mu sync.Mutex
	var wrong []error
	each(dom0s, len(dom0s), func(name string) bool {
		err := r.elsewhere(name, off, warn)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			wrong = append(wrong, err)
		}
		return err == nil
	})
	if len(wrong) == 0 {
		return nil
	}
	// That it runs outweighs that it may, and that what is so for a moment.
	order := []int{exit.Elsewhere, exit.Unavailable, exit.Busy}
	if moved {
		order = []int{exit.Unavailable, exit.Busy, exit.Elsewhere}
	}
	rank := func(err error) int { return slices.Index(order, exit.StatusOf(err)) }
	slices.SortFunc(wrong, func(a, b error) int { return rank(a) - rank(b) })
	return exit.Fail(exit.StatusOf(wrong[0]), "%w", errors.Join(wrong...))
}

// elsewhere asks one Dom0.
func (r *run) elsewhere(name string, off bool, warn func(format string, args ...any)) error {
	ask := slices.Concat([]string{"xb-locate", "--active"}, r.toolstack())
	if r.Moving != "" {
		ask = append(ask, "--moving", r.Moving)
	}
	ask = append(ask, r.DomU)
	ssh := r.at(&dom0{name: name, socket: "none"}, ask...)
	ssh = slices.Insert(ssh, 1, "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3") // one that dies now is off, too
	e := r.programs.watch(r.ConnectTimeout+time.Minute, nil, pipeline{ssh})
	if e.good() {
		e.stages[0] = activeStatus(e.answer.String())
	}
	words := e.said.String()
	if words != "" {
		words = ": " + words
	}
	const unreachable = 255 // as ssh says
	switch status := e.stages[0]; {
	case status == exit.OK:
		return nil
	case status == exit.Elsewhere:
		return exit.Fail(status, "DomU %s runs on %s", r.DomU, name)
	case e.stalled > 0:
		return exit.Fail(exit.Unavailable, "Dom0 %s is not off, but does not say whether DomU %s runs there: switch it off", name, r.DomU)
	case status == unreachable && off:
		warn("Dom0 %s cannot be reached: off, as whoever started this says", name)
		return nil
	case status == unreachable:
		return exit.Fail(exit.Unavailable, "Dom0 %s cannot be reached, and DomU %s may run there. Make sure that it is off, and "+
			"stays so; then: --the-other-host-is-off%s", name, r.DomU, words)
	default:
		if status != exit.Busy {
			status = exit.Unavailable
		}
		return exit.Fail(status, "Dom0 %s: it cannot be told whether DomU %s runs there%s", name, r.DomU, words)
	}
}
